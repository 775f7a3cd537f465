# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects to inject, as populations draw them."""

from __future__ import annotations

__all__ = ("MovingObjects",)

import dataclasses

import numpy as np


@dataclasses.dataclass(kw_only=True, eq=False)
class MovingObjects:
    """Objects that a population drew, one row a sequence.

    Where `drawn` is False nothing else in the row has a meaning.
    """

    drawn: np.ndarray
    """Whether there is an object (`numpy.ndarray` of `bool`, ``(n,)``)."""

    ra: np.ndarray
    """ICRS right ascension at each image (`numpy.ndarray`, ``(n, n_times)``,
    deg); NaN for padding.
    """

    dec: np.ndarray
    """ICRS declination at each image (`numpy.ndarray`, ``(n, n_times)``,
    deg); NaN for padding.
    """

    relative_flux: np.ndarray
    """Flux in each image over the flux in the reference band at the mean
    time (`numpy.ndarray`, ``(n, n_times)``).
    """

    mag: np.ndarray
    """AB magnitude in the reference band (`numpy.ndarray`, ``(n,)``); NaN
    where `target_snr` gives the brightness.
    """

    target_snr: np.ndarray
    """S/N that the object is to have (`numpy.ndarray`, ``(n,)``); NaN where
    `mag` gives the brightness.
    """

    rate: np.ndarray
    """Rate of motion at the mean time (`numpy.ndarray`, ``(n,)``,
    arcsec/hour).
    """

    position_angle: np.ndarray
    """Position angle of the motion at the mean time (`numpy.ndarray`,
    ``(n,)``, deg east of north).
    """

    distance: np.ndarray
    """Topocentric distance at the mean time (`numpy.ndarray`, ``(n,)``, au);
    NaN if the population has none.
    """

    distance_scale: np.ndarray
    """Factor on the distance of the catalog orbit (`numpy.ndarray`,
    ``(n,)``); NaN if there is no such orbit.
    """

    object_id: np.ndarray
    """Name of the object (`numpy.ndarray` of `str`, ``(n,)``); empty for an
    object of one sequence, which is named after it.
    """

    source_orbit: np.ndarray
    """Name of the catalog orbit (`numpy.ndarray` of `str`, ``(n,)``); empty
    if there is none.
    """

    @classmethod
    def full(cls, n_rows: int, n_times: int) -> MovingObjects:
        """Return rows without an object.

        Parameters
        ----------
        n_rows
            Number of sequences.
        n_times
            Number of images of a sequence.
        """
        images = {name: np.full((n_rows, n_times), np.nan) for name in ("ra", "dec", "relative_flux")}
        objects = {
            name: np.full(n_rows, np.nan)
            for name in ("mag", "target_snr", "rate", "position_angle", "distance", "distance_scale")
        }
        names = {name: np.full(n_rows, "", dtype=object) for name in ("object_id", "source_orbit")}
        return cls(drawn=np.zeros(n_rows, dtype=bool), **images, **objects, **names)
