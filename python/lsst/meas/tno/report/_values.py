# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers, positions and pictures as a page shows them."""

from __future__ import annotations

__all__ = (
    "MISSING",
    "data_uri",
    "format_data_id",
    "format_duration",
    "format_number",
    "format_position",
    "format_setting",
    "format_with_error",
    "patch_anchor",
)

import base64
from collections.abc import Mapping
from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import Angle

MISSING = "–"
"""What stands for a value that there is none of."""

_MAX_LENGTH = 300
"""Characters of a value of a configuration that are shown."""


def data_uri(content: bytes, media_type: str) -> str:
    """Return an address that holds a file.

    Parameters
    ----------
    content
        Content of the file.
    media_type
        Its media type, as in ``image/gif``.
    """
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def format_number(value: float, decimals: int) -> str:
    """Return a number with a fixed number of decimals.

    Parameters
    ----------
    value
        Number; `MISSING` stands for one that is not finite.
    decimals
        Number of decimals.
    """
    if not np.isfinite(value):
        return MISSING
    # A minus sign is as wide as a digit; a hyphen is not.
    return f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def format_with_error(value: float, error: float) -> str:
    """Return a number and its standard deviation, to two digits of that.

    Parameters
    ----------
    value
        Number; `MISSING` stands for one that is not finite.
    error
        Standard deviation; left out if it is not finite.
    """
    if not np.isfinite(value):
        return MISSING
    if not (np.isfinite(error) and error > 0):
        return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")
    decimals = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{format_number(value, decimals)} ± {format_number(error, decimals)}"


def format_position(ra: float, dec: float) -> str:
    """Return an ICRS position in hours, degrees, minutes and seconds.

    Parameters
    ----------
    ra, dec
        Position, deg.
    """
    hours = Angle(ra, u.deg).to_string(unit=u.hour, sep=" ", precision=3, pad=True)
    degrees = Angle(dec, u.deg).to_string(unit=u.deg, sep=" ", precision=2, pad=True, alwayssign=True)
    return f"{hours}  {degrees}".replace("-", "\N{MINUS SIGN}")


def format_duration(seconds: float) -> str:
    """Return a duration for people.

    Parameters
    ----------
    seconds
        Duration, s.
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def format_data_id(data_id: Mapping[str, Any]) -> str:
    """Return a data ID as a data query.

    Parameters
    ----------
    data_id
        Values of the required dimensions.
    """
    return " AND ".join(f"{name}={value!r}" for name, value in data_id.items())


def format_setting(value: Any) -> str:
    """Return a value of a configuration, the end of a long one left out.

    Parameters
    ----------
    value
        Value.
    """
    text = repr(value)
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]} ..."


def patch_anchor(tract: int, patch: int) -> str:
    """Return the name of the place where a page describes a patch.

    Parameters
    ----------
    tract, patch
        The patch.
    """
    return f"patch-{tract}-{patch}"
