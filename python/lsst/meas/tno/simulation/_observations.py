# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The visits of a simulated survey: when, where and under which sky."""

from __future__ import annotations

__all__ = ("LATITUDE", "LONGITUDE", "Visit", "plan_times", "plan_visits", "zenith_angle_azimuth")

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from astropy.time import Time
from numpy.typing import ArrayLike

from .._sequences import BANDS
from ..geometry import inverse_gnomonic
from ..photometry import ab_mag_to_njy, electrons_per_njy
from ._random import Stream, make_generator

if TYPE_CHECKING:
    from ._config import SimulateSurveyConfig

LATITUDE, LONGITUDE = -30.2446, -70.7494
"""Position of Rubin Observatory, deg, east positive."""

SECONDS = 86400.0
"""Seconds in a day."""

SIDEREAL_DAY = 0.9972695663
"""Length of a sidereal day, days."""

_SEEING_CORRELATION = 0.9
"""Correlation of the seeing of one visit with that of the next."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Visit:
    """A visit, and what is known of it before its pixels are drawn."""

    id: int
    """Number of the visit, day_obs * 100000 + seq_num (`int`)."""

    day_obs: int
    """Day of observation, YYYYMMDD (`int`)."""

    seq_num: int
    """Number of the visit in its night, from 1 (`int`)."""

    index: int
    """Number of the visit in the survey, from 0 (`int`)."""

    band: str
    """Band (`str`)."""

    mjd_begin: float
    """TAI MJD at which the exposure begins (`float`)."""

    exposure_time: float
    """Exposure time, s (`float`)."""

    ra: float
    """ICRS right ascension of the boresight, deg (`float`)."""

    dec: float
    """ICRS declination of the boresight, deg (`float`)."""

    rotation: float
    """Position angle of the detectors' y axis, deg east of north (`float`)."""

    zenith_angle: float
    """Angle from the zenith, deg (`float`)."""

    azimuth: float
    """Azimuth, deg east of north (`float`)."""

    seeing: float
    """FWHM of the PSF at the boresight, arcsec (`float`)."""

    shear: tuple[float, float]
    """Shear g1, g2 of the PSF at the boresight, in pixel coordinates."""

    electrons_per_njy: float
    """Photo-electrons that a flux of 1 nJy gives (`float`)."""

    sky: float
    """Sky background, electrons per pixel (`float`)."""

    read_noise: float
    """Read noise, electrons (`float`)."""

    @property
    def mjd(self) -> float:
        """TAI MJD of mid-exposure (`float`)."""
        return self.mjd_begin + self.exposure_time / SECONDS / 2

    @property
    def physical_filter(self) -> str:
        """Name of the filter (`str`)."""
        return physical_filter(self.band)

    @property
    def airmass(self) -> float:
        """Airmass, by the secant of the zenith angle (`float`)."""
        return float(1.0 / np.cos(np.radians(self.zenith_angle)))

    @property
    def sky_variance(self) -> float:
        """Variance of blank sky, nJy^2 (`float`)."""
        return (self.sky + self.read_noise**2) / self.electrons_per_njy**2


def physical_filter(band: str) -> str:
    """Return the name of the camera's filter for a band.

    Parameters
    ----------
    band
        The band.
    """
    return f"{band}_sim"


def plan_times(config: SimulateSurveyConfig) -> np.ndarray:
    """Return when the exposures begin.

    Every night begins at the same sidereal time.

    Parameters
    ----------
    config
        Configuration of the survey.

    Returns
    -------
    mjd : `numpy.ndarray`
        TAI MJD, ``(n_nights * n_visits,)``.
    """
    block = _blocks(config)
    offset = np.arange(config.n_visits) * config.visit_interval + block * config.band_change_time
    night = np.arange(config.n_nights) * config.night_spacing * SIDEREAL_DAY
    return (config.mjd_begin + night[:, np.newaxis] + offset / SECONDS).ravel()


def plan_visits(config: SimulateSurveyConfig) -> list[Visit]:
    """Draw the visits of a survey.

    Parameters
    ----------
    config
        Configuration of the survey.

    Returns
    -------
    visits : `list` [`Visit`]
        Visits in order of time.
    """
    rng = make_generator(config, Stream.OBSERVATIONS)
    mjd = plan_times(config)
    n_visits = len(mjd)
    block = np.tile(_blocks(config), config.n_nights) + np.repeat(
        np.arange(config.n_nights) * len(config.bands), config.n_visits
    )
    ra, dec = _dither(config, n_visits, rng)
    zenith_angle, azimuth = zenith_angle_azimuth(ra, dec, mjd)
    rotation = config.rotation + config.rotation_range * rng.uniform(-1, 1, block[-1] + 1)[block]
    seeing = _draw_seeing(config, n_visits, rng)
    shear = np.clip(rng.normal(0.0, config.psf_ellipticity, (n_visits, 2)), -0.1, 0.1)
    bands = np.array(config.bands)[block % len(config.bands)]
    electrons, sky = _draw_depth(config, bands, zenith_angle, rng)
    ids = _number(config, mjd)
    return [
        Visit(
            id=day_obs * 100_000 + seq_num,
            day_obs=day_obs,
            seq_num=seq_num,
            index=i,
            band=str(bands[i]),
            mjd_begin=float(mjd[i]),
            exposure_time=config.exposure_time,
            ra=float(ra[i]),
            dec=float(dec[i]),
            rotation=float(rotation[i]),
            zenith_angle=float(zenith_angle[i]),
            azimuth=float(azimuth[i]),
            seeing=float(seeing[i]),
            shear=(float(shear[i, 0]), float(shear[i, 1])),
            electrons_per_njy=float(electrons[i]),
            sky=float(sky[i]),
            read_noise=config.read_noise,
        )
        for i, (day_obs, seq_num) in enumerate(ids)
    ]


def zenith_angle_azimuth(ra: ArrayLike, dec: ArrayLike, mjd: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return where a sky position is seen from Rubin Observatory, to a degree.

    Parameters
    ----------
    ra, dec
        ICRS position, deg.
    mjd
        TAI MJD.

    Returns
    -------
    zenith_angle, azimuth : `numpy.ndarray`
        Angle from the zenith and azimuth, deg east of north.

    Notes
    -----
    Greenwich mean sidereal time by Meeus, Astronomical Algorithms, eq. 12.4,
    with its linear term alone and UT1 = TAI - 37 s. Precession, nutation and
    refraction are left out.
    """
    days = np.asarray(mjd) - 37.0 / SECONDS - 51544.5
    hour_angle = np.radians(280.46061837 + 360.98564736629 * days + LONGITUDE - np.asarray(ra))
    sin_dec, cos_dec = np.sin(np.radians(dec)), np.cos(np.radians(dec))
    sin_lat, cos_lat = np.sin(np.radians(LATITUDE)), np.cos(np.radians(LATITUDE))
    north = sin_dec * cos_lat - cos_dec * np.cos(hour_angle) * sin_lat
    east = -cos_dec * np.sin(hour_angle)
    up = sin_dec * sin_lat + cos_dec * np.cos(hour_angle) * cos_lat
    zenith_angle = np.degrees(np.arctan2(np.hypot(north, east), up))
    return zenith_angle, np.mod(np.degrees(np.arctan2(east, north)), 360.0)


def _blocks(config: SimulateSurveyConfig) -> np.ndarray:
    """Return the number of the block of one band that each of a night's
    visits is in.
    """
    return np.arange(config.n_visits) * len(config.bands) // config.n_visits


def _dither(
    config: SimulateSurveyConfig, n_visits: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    radius = config.dither_radius * np.sqrt(rng.uniform(size=n_visits))
    angle = rng.uniform(0.0, 2 * np.pi, n_visits)
    return inverse_gnomonic(radius * np.sin(angle), radius * np.cos(angle), config.ra, config.dec)


def _draw_seeing(config: SimulateSurveyConfig, n_visits: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a random walk about the median that forgets where it came from."""
    step = rng.normal(size=n_visits)
    walk = np.empty(n_visits)
    walk[0] = step[0]
    fresh = np.sqrt(1.0 - _SEEING_CORRELATION**2)
    for i in range(1, n_visits):
        walk[i] = _SEEING_CORRELATION * walk[i - 1] + fresh * step[i]
    seeing = config.seeing * np.exp(config.seeing_scatter * walk)
    return np.clip(seeing, config.seeing_min, config.seeing_max)


def _draw_depth(
    config: SimulateSurveyConfig, bands: np.ndarray, zenith_angle: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the photo-electrons per nJy and the sky electrons per pixel."""
    index = np.array([BANDS.index(band) for band in bands])
    at_zenith = electrons_per_njy(index, np.full(len(bands), config.exposure_time), config.zero_points)
    airmass = 1.0 / np.cos(np.radians(zenith_angle))
    dimming = np.array([config.extinction[band] for band in bands]) * (airmass - 1.0)
    # Sky brightness is given as it is observed: extinction is in it already.
    sky_mag = np.array([config.sky_brightness[band] for band in bands])
    sky_mag += rng.normal(0.0, config.sky_scatter, len(bands)) - 2.5 * np.log10(airmass) + dimming
    sky_njy = ab_mag_to_njy(sky_mag) * config.pixel_scale**2
    return at_zenith * 10.0 ** (-0.4 * dimming), at_zenith * sky_njy


def _number(config: SimulateSurveyConfig, mjd: np.ndarray) -> list[tuple[int, int]]:
    """Return the day of observation, which begins at 12 h UTC, and the
    number in it of each visit.
    """
    first = mjd.reshape(config.n_nights, config.n_visits)[:, 0]
    days = [int(day) for day in Time(first - 0.5, format="mjd", scale="tai").utc.strftime("%Y%m%d")]
    return [(day, number) for day in days for number in range(1, config.n_visits + 1)]
