# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Synthetic orbits, like those of the trans-Neptunian populations."""

from __future__ import annotations

__all__ = ("POPULATIONS", "Population", "make_synthetic_orbits")

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from astropy.table import Table
from scipy.special import ndtr, ndtri

from .._planets import GAUSS_K
from ..photometry import V_MINUS_R
from ._rows import Orbit, make_orbit_table

EPOCH = 61000.0
"""Default epoch, TDB MJD: 2025 November 21."""

SLOPE_PARAMETER = 0.15
"""G of all objects; 0.15 is what the Minor Planet Center assumes."""

_H_LIMITS = (3.0, 9.0)
"""Absolute magnitudes in r; what is brighter than 3 does not follow the power
law (Fraser et al. 2014).
"""

_FAINT_SLOPE = 0.2

_A_MAX = 800.0
"""Largest semimajor axis, au."""


@dataclasses.dataclass(frozen=True)
class Population:
    """One population of objects."""

    name: str
    """Name of the population (`str`)."""

    fraction: float
    """Fraction of all objects (`float`)."""

    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
    """Draws semimajor axes, au, and perihelion distances, au."""

    inclination_width: float
    """Width of the distribution of inclinations, deg (`float`)."""

    bright_slope: float = 0.87
    """Slope of log10 of the number with H, brighter than the break."""

    break_magnitude: float = 7.7
    """H in r where the distribution breaks (`float`)."""


def _draw_cold(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    a = rng.uniform(42.4, 47.0, n)
    return a, a * (1.0 - rng.uniform(0.0, 0.1, n))


def _draw_hot(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    a = rng.uniform(40.0, 47.0, n)
    return a, rng.uniform(35.0, 40.0, n)


def _draw_resonant(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    a = rng.uniform(39.25, 39.65, n)
    # Of width 0.06 about 0.18, cut off at 0.02 and 0.28.
    low, high = ndtr((0.02 - 0.18) / 0.06), ndtr((0.28 - 0.18) / 0.06)
    return a, a * (1.0 - (0.18 + 0.06 * ndtri(rng.uniform(low, high, n))))


def _draw_scattered(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return _power_law(rng, n, -1.5, 50.0, _A_MAX), rng.uniform(30.0, 38.0, n)


def _draw_detached(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    a = _power_law(rng, n, -2.5, 50.0, _A_MAX)
    # Exponential above 38 au, cut off where the orbit would be a circle.
    return a, 38.0 - 10.0 * np.log1p(-rng.uniform(0.0, 1.0, n) * -np.expm1(-(0.95 * a - 38.0) / 10.0))


POPULATIONS: Sequence[Population] = (
    Population("cold classical", 0.25, _draw_cold, 2.6, 1.5, 6.9),
    Population("hot classical", 0.25, _draw_hot, 16.0),
    Population("resonant", 0.15, _draw_resonant, 16.0),
    Population("scattered", 0.15, _draw_scattered, 16.0),
    Population("detached", 0.20, _draw_detached, 16.0),
)
"""The populations that `make_synthetic_orbits` draws from."""


def make_synthetic_orbits(n: int, rng: np.random.Generator | int, *, epoch: float = EPOCH) -> Table:
    """Draw orbits like those of the trans-Neptunian populations.

    Parameters
    ----------
    n
        Number of orbits.
    rng
        Source of randomness, or its seed.
    epoch
        Epoch of the elements, TDB MJD.

    Returns
    -------
    table : `astropy.table.Table`
        Table with the columns of `ORBIT_COLUMNS`. The population is in
        ``source``; which object is of which is random, too.

    Raises
    ------
    ValueError
        Raised if n is not positive.

    Notes
    -----
    The orbits are a sample to train and to measure with: they cover what TNOs
    do, and are no model of how many there are. Angles and mean anomalies are
    uniform; the objects of the 3:2 resonance have its semimajor axis and are
    not tied to Neptune's longitude.

    - Inclinations: sin(i) times a Gaussian (Brown 2001, AJ 121, 2804), with
      the widths of 2.6 deg for cold and 16 deg for hot ones of CFEPS (Petit
      et al. 2011, AJ 142, 131).
    - Classical objects: semimajor axes of the main belt, and for the hot ones
      perihelia between 35 and 40 au, after Petit et al. 2011.
    - 3:2 resonance: eccentricities of a Gaussian about 0.18, after the same.
    - Detached objects: the number falls with a^-2.5, after the same, to
      800 au; perihelia fall off exponentially above 38 au so that some are
      as far as those that DES found (Bernardinelli et al. 2022, ApJS 258,
      41). Scattered objects: a^-1.5, with perihelia from 30 to 38 au.
    - Absolute magnitudes: broken power laws of Fraser et al. 2014, ApJ 782,
      100, in r, between 3 and 9, and `V_MINUS_R` more in H. G is 0.15.
    """
    if n < 1:
        raise ValueError(f"n={n} is not a positive number of orbits.")
    rng = np.random.default_rng(rng)
    which = rng.choice(len(POPULATIONS), n, p=[population.fraction for population in POPULATIONS])
    values = np.empty((4, n))
    for index, population in enumerate(POPULATIONS):
        values[:, which == index] = _draw(population, rng, int(np.count_nonzero(which == index)))
    a, q, inclination, magnitude = values
    node, peri, anomaly = rng.uniform(0.0, 360.0, (3, n))
    # The passage nearest to the epoch.
    tp = epoch - np.radians(anomaly - 180.0) * a**1.5 / GAUSS_K
    return make_orbit_table(
        Orbit(
            name=f"synthetic-{row:06d}",
            orbit_class="TNO",
            epoch=epoch,
            q=float(q[row]),
            e=float(1.0 - q[row] / a[row]),
            i=float(inclination[row]),
            node=float(node[row]),
            peri=float(peri[row]),
            tp=float(tp[row]),
            H=float(magnitude[row]),
            G=SLOPE_PARAMETER,
            source=f"synthetic, {POPULATIONS[which[row]].name}",
        )
        for row in range(n)
    )


def _draw(population: Population, rng: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
    a, q = population.draw(rng, n)
    magnitude = _broken_power_law(rng, n, population.bright_slope, population.break_magnitude)
    return a, q, _draw_inclinations(rng, n, population.inclination_width), magnitude + V_MINUS_R


def _power_law(rng: np.random.Generator, n: int, index: float, low: float, high: float) -> np.ndarray:
    """Draw from a probability that goes with a power of the value."""
    power = index + 1.0
    return (low**power + rng.uniform(0.0, 1.0, n) * (high**power - low**power)) ** (1.0 / power)


def _draw_inclinations(rng: np.random.Generator, n: int, width: float) -> np.ndarray:
    """Draw from sin(i) exp(-i^2 / (2 width^2)), deg, by thinning a Rayleigh
    distribution, which has i for sin(i).
    """
    inclination = np.empty(0)
    while len(inclination) < n:
        i = rng.rayleigh(width, max(n, 64))
        kept = (rng.uniform(0.0, 1.0, len(i)) < np.sinc(i / 180.0)) & (i < 180.0)
        inclination = np.append(inclination, i[kept])
    return inclination[:n]


def _broken_power_law(rng: np.random.Generator, n: int, slope: float, turn: float) -> np.ndarray:
    """Draw magnitudes whose number goes with 10^(slope H), less steeply
    beyond the turn.
    """
    low, high = _H_LIMITS
    slopes = np.array([slope, _FAINT_SLOPE]) * np.log(10.0)
    bright = -np.expm1(slopes[0] * (low - turn)) / slopes[0]
    faint = np.expm1(slopes[1] * (high - turn)) / slopes[1]
    # The integral from the turn to the magnitude.
    integral = rng.uniform(-bright, faint, n)
    return turn + np.where(
        integral < 0.0,
        np.log1p(slopes[0] * np.minimum(integral, 0.0)) / slopes[0],
        np.log1p(slopes[1] * np.maximum(integral, 0.0)) / slopes[1],
    )
