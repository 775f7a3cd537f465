# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""AB magnitudes, fluxes in nJy and photo-electrons."""

from __future__ import annotations

__all__ = (
    "RUBIN_ZERO_POINTS",
    "TNO_COLOURS",
    "V_MINUS_R",
    "ab_mag_to_njy",
    "electrons_per_njy",
    "njy_to_ab_mag",
)

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from ._sequences import BANDS

NJY_ZERO_POINT = 31.4
"""AB magnitude of 1 nJy: 2.5 log10(3631e9) = 31.40."""

RUBIN_ZERO_POINTS: Mapping[str, float] = {
    "u": 26.52,
    "g": 28.51,
    "r": 28.36,
    "i": 28.17,
    "z": 27.78,
    "y": 26.82,
}
"""AB magnitude that gives one photo-electron a second at airmass 1, by band
(Rubin Observatory, SMTN-002, syseng_throughputs 1.9).
"""


TNO_COLOURS: Mapping[str, float] = {"u": 2.33, "g": 0.67, "r": 0.0, "i": -0.29, "z": -0.45, "y": -0.56}
"""AB magnitude less that in r of a moderately red object: sunlight, with
u-g 1.43, g-r 0.44, r-i 0.11 and i-z 0.03 (SDSS DR16, "Estimates for the
colors of Vega and the Sun") and z-y taken as 0, off a surface whose
reflectance grows by 15 % per 100 nm at 550 nm (Sheppard 2010, AJ 139, 1394,
has 10 to 18 % for most detached and scattered objects), at the mean
wavelengths 368, 480, 622, 755, 868 and 973 nm of Rubin's bands. For u and y,
where few such objects were ever measured, this is an extrapolation.
"""

V_MINUS_R = 0.27
"""V, of the H, G system, less the AB magnitude in r of a moderately red
object, mag: 0.16 of the Sun (Willmer 2018, ApJS 236, 47), and 0.11 for a
reflectance that grows by 15 % per 100 nm from 551 to 622 nm.
"""


def ab_mag_to_njy(mag: ArrayLike) -> np.ndarray:
    """Return the fluxes of AB magnitudes.

    Parameters
    ----------
    mag
        AB magnitudes.

    Returns
    -------
    flux : `numpy.ndarray`
        Fluxes, nJy.
    """
    return 10.0 ** (-0.4 * np.subtract(mag, NJY_ZERO_POINT))


def njy_to_ab_mag(flux: ArrayLike) -> np.ndarray:
    """Return the AB magnitudes of fluxes.

    Parameters
    ----------
    flux
        Fluxes, nJy.

    Returns
    -------
    mag : `numpy.ndarray`
        AB magnitudes; NaN where the flux is not positive.
    """
    flux = np.asarray(flux, dtype=float)
    return NJY_ZERO_POINT - 2.5 * np.log10(np.where(flux > 0, flux, np.nan))


def electrons_per_njy(
    band: np.ndarray, exposure_time: np.ndarray, zero_points: Mapping[str, float] = RUBIN_ZERO_POINTS
) -> np.ndarray:
    """Return how many photo-electrons a flux of 1 nJy gives in an exposure.

    Parameters
    ----------
    band
        Index of the band in `BANDS`; 255 where there is no image.
    exposure_time
        Exposure time, s.
    zero_points
        AB magnitude of one photo-electron a second, by band.

    Returns
    -------
    electrons : `numpy.ndarray`
        Photo-electrons per nJy; NaN where there is no image.
    """
    by_band = np.full(256, np.nan)
    by_band[: len(BANDS)] = [zero_points[name] for name in BANDS]
    return 10.0 ** (0.4 * (by_band[band] - NJY_ZERO_POINT)) * exposure_time
