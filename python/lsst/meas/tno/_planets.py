# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Sun and the planets: masses, and where they are.

Positions are those of astropy's built-in ephemeris, which is ERFA's epv00 for
the Sun and the Earth, and plan94 for the planets. It needs no file, and is the
only one that this package uses: a second one would have another barycentre.
"""

from __future__ import annotations

__all__ = (
    "GAUSS_K",
    "GM_BODIES",
    "GM_SUN",
    "GM_SYSTEM",
    "Planets",
    "earth_state",
    "make_planets",
    "sun_state",
)

import functools
import warnings
from typing import NamedTuple

import erfa
import numpy as np
from numpy.polynomial import chebyshev

from ._kernels import jit

GAUSS_K = 0.01720209895
"""Gaussian gravitational constant, au^1.5/day (IAU 1976)."""

GM_SUN = GAUSS_K**2
"""Gravitational parameter of the Sun, au^3/day^2. That of JPL's DE441 is
smaller by 5e-12 of it.
"""

_INVERSE_MASSES = (6023600.0, 408523.719, 328900.5597, 3098703.59, 1047.348644, 3497.9018, 22902.98, 19412.26)
"""Mass of the Sun over those of Mercury to Neptune with their moons (IAU 2009
system of constants, Luzum et al. 2011, Celest. Mech. Dyn. Astr. 110, 293).
"""

GM_BODIES = GM_SUN * np.array([1.0, *(1.0 / mass for mass in _INVERSE_MASSES)])
"""Gravitational parameters of the Sun and Mercury to Neptune, au^3/day^2."""

GM_SYSTEM = float(GM_BODIES.sum())
"""Gravitational parameter of all of the solar system, au^3/day^2."""

N_BODIES = len(GM_BODIES)

SEGMENT = 16.0
"""Days that one polynomial spans."""

SEGMENTS_AT_ONCE = 64
"""Segments are made by so many, so that times near to each other share them.
"""

DEGREE = 12
"""Degree of the polynomials: Mercury is off by up to 1.5e-10 au with it, all
others by less than 1e-12 au.
"""

FIRST_MJD, LAST_MJD = -313493.0, 417008.0
"""TDB MJD between which plan94 is meant to be used: the years 1000 to 3000."""

_MJD_ZERO = 2400000.5


class Planets(NamedTuple):
    """Polynomials of the barycentric positions of the Sun and the planets."""

    begin: float
    """TDB MJD of the first segment's begin (`float`)."""

    coefficients: np.ndarray
    """Chebyshev coefficients of each segment's x, y and z of one body after
    the other (`numpy.ndarray`, ``(n_segments, DEGREE + 1, 3 * N_BODIES)``,
    au).
    """


def earth_state(mjd_tdb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the barycentric states of the Earth.

    Parameters
    ----------
    mjd_tdb
        TDB MJD, ``(n,)``.

    Returns
    -------
    position, velocity : `numpy.ndarray`
        ICRS positions, au, and velocities, au/day, ``(n, 3)``.
    """
    _, barycentric = _epv00(mjd_tdb)
    return barycentric["p"], barycentric["v"]


def sun_state(mjd_tdb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the barycentric states of the Sun.

    Parameters
    ----------
    mjd_tdb
        TDB MJD, ``(n,)``.

    Returns
    -------
    position, velocity : `numpy.ndarray`
        ICRS positions, au, and velocities, au/day, ``(n, 3)``.
    """
    heliocentric, barycentric = _epv00(mjd_tdb)
    return barycentric["p"] - heliocentric["p"], barycentric["v"] - heliocentric["v"]


def make_planets(begin: float, end: float) -> Planets:
    """Return polynomials that hold between two times.

    Parameters
    ----------
    begin, end
        TDB MJD. It takes 0.01 s a year.

    Raises
    ------
    ValueError
        Raised if a time is outside of the years 1000 to 3000.
    """
    if not FIRST_MJD <= begin <= end <= LAST_MJD:
        raise ValueError(
            f"The built-in ephemeris of the planets holds from TDB MJD {FIRST_MJD:.0f} to {LAST_MJD:.0f}, "
            f"not from {begin} to {end}."
        )
    length = SEGMENT * SEGMENTS_AT_ONCE
    first, last = int(np.floor(begin / length)), int(np.floor(end / length)) + 1
    return _make_planets(first * SEGMENTS_AT_ONCE, last * SEGMENTS_AT_ONCE)


@functools.lru_cache(maxsize=4)
def _make_planets(first: int, last: int) -> Planets:
    nodes = chebyshev.chebpts1(DEGREE + 1)
    middle = (np.arange(first, last) + 0.5) * SEGMENT
    mjd = middle[:, np.newaxis] + nodes * SEGMENT / 2
    positions = _body_positions(mjd.ravel()).reshape(len(middle), DEGREE + 1, 3 * N_BODIES)
    to_coefficients = np.linalg.inv(chebyshev.chebvander(nodes, DEGREE))
    coefficients = np.ascontiguousarray(to_coefficients @ positions)
    coefficients.flags.writeable = False
    return Planets(first * SEGMENT, coefficients)


def _body_positions(mjd_tdb: np.ndarray) -> np.ndarray:
    """Return barycentric positions of all bodies, ``(n, N_BODIES, 3)``, au."""
    sun, _ = sun_state(mjd_tdb)
    # ERFA counts the planets from Mercury, which is 1.
    with _no_dubious_years():
        planets = [erfa.plan94(_MJD_ZERO, mjd_tdb, index)["p"] for index in range(1, N_BODIES)]
    return np.stack([sun, *(sun + planet for planet in planets)], axis=1)


def _epv00(mjd_tdb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with _no_dubious_years():
        heliocentric, barycentric = erfa.epv00(_MJD_ZERO, np.asarray(mjd_tdb, dtype=float))
    return heliocentric, barycentric


def _no_dubious_years() -> warnings.catch_warnings:
    """Do without ERFA's warning that epv00 is less accurate before 1900 and
    after 2100; then it serves as the force of the planets only.
    """
    return warnings.catch_warnings(category=erfa.ErfaWarning, action="ignore")


@jit
def bodies_at(planets, mjd, n_values, values):  # type: ignore[no-untyped-def]
    """Write where the bodies are at a time. Beyond the times of the
    polynomials they stand still.

    Parameters
    ----------
    planets
        The Sun and the planets.
    mjd
        TDB MJD.
    n_values
        Number of coordinates to write, 3 for the Sun alone.
    values
        Array to write to: x, y and z of one body after the other, au.
    """
    segment = int(np.floor((mjd - planets.begin) / SEGMENT))
    segment = min(max(segment, 0), planets.coefficients.shape[0] - 1)
    x = 2.0 * ((mjd - planets.begin) / SEGMENT - segment) - 1.0
    x = min(max(x, -1.0), 1.0)
    before, power = 1.0, x
    for i in range(n_values):
        values[i] = planets.coefficients[segment, 0, i] + x * planets.coefficients[segment, 1, i]
    for k in range(2, DEGREE + 1):
        before, power = power, 2.0 * x * power - before
        for i in range(n_values):
            values[i] += power * planets.coefficients[segment, k, i]
