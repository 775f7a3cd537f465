# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The static sky of a simulated survey: stars and galaxies."""

from __future__ import annotations

__all__ = ("Galaxies", "Stars", "band_magnitude", "make_galaxies", "make_stars")

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from ..geometry import inverse_gnomonic
from ._random import Stream, make_generator

if TYPE_CHECKING:
    from ._camera import Camera
    from ._config import SimulateSurveyConfig

_COLOR_SLOPE = {"u": 2.2, "g": 1.0, "r": 0.0, "i": -0.4, "z": -0.6, "y": -0.7}
"""Magnitude in a band minus that in r, over g - r: roughly the stellar locus
(Covey et al. 2007, AJ 134, 2398).
"""

_BORDER = 15.0
"""Distance from the camera's reach up to which there are sources, arcsec."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stars:
    """Stars, one element each."""

    ra: np.ndarray
    """ICRS right ascensions, deg."""

    dec: np.ndarray
    """ICRS declinations, deg."""

    mag: np.ndarray
    """AB magnitudes in r."""

    color: np.ndarray
    """g - r, mag."""


@dataclasses.dataclass(frozen=True, eq=False)
class Galaxies(Stars):
    """Galaxies, one element each."""

    half_light_radius: np.ndarray
    """Half-light radii, arcsec."""

    axis_ratio: np.ndarray
    """Axis ratios."""

    position_angle: np.ndarray
    """Position angles of the major axes, deg east of north."""

    is_bulge: np.ndarray
    """Whether the profile is nearly that of de Vaucouleurs, not that of an
    exponential disk.
    """


def band_magnitude(mag: np.ndarray, color: np.ndarray | float, band: str) -> np.ndarray:
    """Return the AB magnitudes in a band.

    Parameters
    ----------
    mag
        AB magnitudes in r.
    color
        Their g - r, mag.
    band
        The band.
    """
    return mag + _COLOR_SLOPE[band] * color


def make_stars(config: SimulateSurveyConfig, camera: Camera) -> Stars:
    """Draw the stars.

    Parameters
    ----------
    config
        Configuration of the survey.
    camera
        The camera, which says how far to go.
    """
    rng = make_generator(config, Stream.STARS)
    ra, dec = _draw_positions(config, camera, config.star_density, rng)
    mag = _draw_magnitudes(config.star_mag_min, config.star_mag_max, config.star_mag_slope, len(ra), rng)
    return Stars(ra, dec, mag, np.clip(rng.normal(0.8, 0.4, len(ra)), 0.0, 1.6))


def make_galaxies(config: SimulateSurveyConfig, camera: Camera) -> Galaxies:
    """Draw the galaxies.

    Parameters
    ----------
    config
        Configuration of the survey.
    camera
        The camera, which says how far to go.
    """
    rng = make_generator(config, Stream.GALAXIES)
    ra, dec = _draw_positions(config, camera, config.galaxy_density, rng)
    n = len(ra)
    mag = _draw_magnitudes(config.galaxy_mag_min, config.galaxy_mag_max, config.galaxy_mag_slope, n, rng)
    color = np.clip(rng.normal(0.6, 0.3, n), 0.0, 1.6)
    radius = 0.45 * 10.0 ** (-0.1 * (mag - 23.0)) * np.exp(rng.normal(0.0, 0.3, n))
    return Galaxies(
        ra,
        dec,
        mag,
        color,
        half_light_radius=np.clip(radius, 0.1, 2.0),
        axis_ratio=rng.uniform(0.3, 1.0, n),
        position_angle=rng.uniform(0.0, 180.0, n),
        is_bulge=rng.uniform(size=n) < 0.2,
    )


def _draw_positions(
    config: SimulateSurveyConfig, camera: Camera, density: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw positions in the circle that the camera can reach."""
    reach = camera.radius * camera.pixel_scale + config.dither_radius + _BORDER
    n = rng.poisson(density * np.pi * (reach / 60.0) ** 2)
    radius = reach * np.sqrt(rng.uniform(size=n))
    angle = rng.uniform(0.0, 2 * np.pi, n)
    return inverse_gnomonic(radius * np.sin(angle), radius * np.cos(angle), config.ra, config.dec)


def _draw_magnitudes(
    brightest: float, faintest: float, slope: float, n: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw magnitudes whose counts go as 10^(slope * mag)."""
    low, high = 10.0 ** (slope * brightest), 10.0 ** (slope * faintest)
    return np.log10(rng.uniform(low, high, n)) / slope
