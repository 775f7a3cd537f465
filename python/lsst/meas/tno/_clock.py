# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Times as text."""

from __future__ import annotations

__all__ = ("tai_iso", "utc_iso")

import warnings

import erfa
import numpy as np
from astropy.time import Time
from numpy.typing import ArrayLike


def tai_iso(mjd_tai: ArrayLike, precision: int = 3) -> np.ndarray:
    """Return times in TAI as ``2026-02-19T04:55:37.000``.

    Parameters
    ----------
    mjd_tai
        TAI MJD; finite.
    precision
        Number of decimals of the second.
    """
    return np.asarray(_time(mjd_tai, precision).isot)


def utc_iso(mjd_tai: ArrayLike, precision: int = 3) -> np.ndarray:
    """Return times in UTC as ``2026-02-19T04:55:00.000``.

    Parameters
    ----------
    mjd_tai
        TAI MJD; finite.
    precision
        Number of decimals of the second.

    Notes
    -----
    The leap seconds are those that erfa knows. Of years that are too far off
    to know theirs it warns, which does not help here.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", erfa.ErfaWarning)
        return np.asarray(_time(mjd_tai, precision).utc.isot)


def _time(mjd_tai: ArrayLike, precision: int) -> Time:
    return Time(np.asarray(mjd_tai, dtype=float), format="mjd", scale="tai", precision=precision)
