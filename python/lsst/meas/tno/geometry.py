# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sky positions on the tangent plane, and affine maps between it and pixels.

Every function broadcasts its arguments. Sky positions are ICRS in degrees,
tangent-plane positions in arcsec with xi to the east and eta to the north, and
the centre of the lower left pixel is (0, 0).
"""

from __future__ import annotations

__all__ = (
    "apply_affine",
    "gnomonic",
    "inverse_gnomonic",
    "invert_affine",
    "north_up_affine",
    "pixel_area",
    "polar_rate",
)

import numpy as np
from numpy.typing import ArrayLike

ARCSEC = np.degrees(1.0) * 3600.0
"""Arcsec in a radian."""


def gnomonic(
    ra: ArrayLike, dec: ArrayLike, centre_ra: ArrayLike, centre_dec: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Project sky positions on the plane that touches the sky at a centre.

    Parameters
    ----------
    ra, dec
        Positions to project, deg.
    centre_ra, centre_dec
        Position of the tangent point, deg.

    Returns
    -------
    xi, eta : `numpy.ndarray`
        Positions on the plane, arcsec; NaN from 90 deg off the centre on.

    Notes
    -----
    Calabretta & Greisen (2002), A&A 395, 1077, section 5.1.3.
    """
    delta_ra = np.radians(np.subtract(ra, centre_ra))
    cos_dec = np.cos(np.radians(dec))
    sin_centre, cos_centre = np.sin(np.radians(centre_dec)), np.cos(np.radians(centre_dec))
    # 1 - cos(delta_ra), written so that it keeps its digits near the centre.
    versine = 2.0 * np.sin(delta_ra / 2) ** 2
    cos_distance = np.cos(np.radians(np.subtract(dec, centre_dec))) - cos_dec * cos_centre * versine
    cos_distance = np.where(cos_distance > 0, cos_distance, np.nan)
    xi = cos_dec * np.sin(delta_ra) / cos_distance
    sin_delta_dec = np.sin(np.radians(np.subtract(dec, centre_dec)))
    eta = (sin_delta_dec + sin_centre * cos_dec * versine) / cos_distance
    return xi * ARCSEC, eta * ARCSEC


def inverse_gnomonic(
    xi: ArrayLike, eta: ArrayLike, centre_ra: ArrayLike, centre_dec: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sky positions of points of the tangent plane.

    Parameters
    ----------
    xi, eta
        Positions on the plane, arcsec.
    centre_ra, centre_dec
        Position of the tangent point, deg.

    Returns
    -------
    ra, dec : `numpy.ndarray`
        Positions, deg; ra in [0, 360).
    """
    x, y = np.divide(xi, ARCSEC), np.divide(eta, ARCSEC)
    sin_centre, cos_centre = np.sin(np.radians(centre_dec)), np.cos(np.radians(centre_dec))
    radius = cos_centre - y * sin_centre
    ra = np.asarray(centre_ra) + np.degrees(np.arctan2(x, radius))
    dec = np.degrees(np.arctan2(sin_centre + y * cos_centre, np.hypot(x, radius)))
    return np.mod(ra, 360.0), dec


def apply_affine(affine: np.ndarray, x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Apply affine maps to points.

    Parameters
    ----------
    affine
        Maps, ``(..., 2, 3)``, acting on (x, y, 1).
    x, y
        Points, of a shape that broadcasts with ``(...)``.

    Returns
    -------
    x, y : `numpy.ndarray`
        Mapped points.
    """
    return (
        affine[..., 0, 0] * x + affine[..., 0, 1] * y + affine[..., 0, 2],
        affine[..., 1, 0] * x + affine[..., 1, 1] * y + affine[..., 1, 2],
    )


def invert_affine(affine: np.ndarray) -> np.ndarray:
    """Return the inverses of affine maps.

    Parameters
    ----------
    affine
        Maps, ``(..., 2, 3)``.

    Returns
    -------
    inverse : `numpy.ndarray`
        Inverse maps, ``(..., 2, 3)``; NaN where a map is.
    """
    (a, b, c), (d, e, f) = np.moveaxis(affine, (-2, -1), (0, 1))
    determinant = a * e - b * d
    rows = [[e, -b, b * f - c * e], [-d, a, c * d - a * f]]
    return np.moveaxis(np.array(rows) / determinant, (0, 1), (-2, -1))


def pixel_area(affine: np.ndarray) -> np.ndarray:
    """Return the areas of pixels.

    Parameters
    ----------
    affine
        Maps from pixels to arcsec, ``(..., 2, 3)``.

    Returns
    -------
    area : `numpy.ndarray`
        Areas, arcsec^2.
    """
    return np.abs(affine[..., 0, 0] * affine[..., 1, 1] - affine[..., 0, 1] * affine[..., 1, 0])


def north_up_affine(size: int, pixel_scale: float) -> np.ndarray:
    """Return the map of a square grid with north up and east left.

    Parameters
    ----------
    size
        Width and height, pixels.
    pixel_scale
        Arcsec a pixel.

    Returns
    -------
    affine : `numpy.ndarray`
        Map from pixels to the tangent plane about the grid's centre, arcsec.
    """
    half = pixel_scale * (size - 1) / 2
    return np.array([[-pixel_scale, 0.0, half], [0.0, pixel_scale, -half]])


def polar_rate(east: ArrayLike, north: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the rate and the position angle of a motion.

    Parameters
    ----------
    east, north
        Rates to the east and to the north.

    Returns
    -------
    rate : `numpy.ndarray`
        Rate, in the same unit.
    position_angle : `numpy.ndarray`
        Position angle, deg east of north, in [0, 360).
    """
    angle = np.mod(np.degrees(np.arctan2(east, north)), 360.0)
    # The remainder of a tiny negative number rounds to the divisor.
    return np.hypot(east, north), np.where(angle < 360.0, angle, 0.0)
