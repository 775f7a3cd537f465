# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fits of detection efficiencies as functions of magnitude or S/N."""

from __future__ import annotations

__all__ = ("EfficiencyFit", "efficiency_curve", "fit_efficiency")

import dataclasses
import math

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

MIN_OBJECTS = 20
"""Objects from which on a curve is fitted."""

MIN_WIDTH = 1e-3
"""Smallest width, as a fraction of the spread of the objects."""

MIN_PLATEAU = 0.05
"""Smallest plateau."""


@dataclasses.dataclass(frozen=True)
class EfficiencyFit:
    """Fit of an efficiency; NaN throughout if there is none."""

    centre: float = math.nan
    """Where the efficiency is half of the plateau (`float`)."""

    width: float = math.nan
    """Width of the logistic function (`float`)."""

    plateau: float = math.nan
    """Efficiency of the brightest (`float`)."""

    errors: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    """Standard deviations of centre, width and plateau; that of a plateau of
    1 is 0.
    """

    problem: str = ""
    """Why there is no fit (`str`)."""


def efficiency_curve(
    x: np.ndarray, centre: float, width: float, plateau: float, *, rising: bool, by_chance: float = 0.0
) -> np.ndarray:
    """Return a logistic detection efficiency.

    Parameters
    ----------
    x
        Magnitudes or S/N.
    centre, width, plateau
        As in `EfficiencyFit`.
    rising
        Whether the efficiency rises with x, as it does with the S/N.
    by_chance
        Efficiency for objects that cannot be seen, the false positive rate.
    """
    sign = 1.0 if rising else -1.0
    return by_chance + (plateau - by_chance) * expit(sign * (x - centre) / width)


def fit_efficiency(
    x: np.ndarray, found: np.ndarray, *, rising: bool, by_chance: float = 0.0
) -> EfficiencyFit:
    """Fit a logistic efficiency to which objects were found.

    Parameters
    ----------
    x
        Magnitudes or S/N of the objects, ``(n,)``.
    found
        Whether each was found, bool ``(n,)``.
    rising
        Whether the efficiency rises with x.
    by_chance
        Efficiency for objects that cannot be seen.

    Returns
    -------
    fit : `EfficiencyFit`
        The fit of the highest likelihood.

    Notes
    -----
    The curve is ``by_chance + (plateau - by_chance) * logistic``, and what is
    maximised is the probability of each object to be found or not, without
    bins. The errors are those of the Fisher information.
    """
    x, found = np.asarray(x, dtype=float), np.asarray(found, dtype=bool)
    if problem := _why_not(x, found):
        return EfficiencyFit(problem=problem)
    origin, spread = float(np.median(x)), float(np.std(x))
    z = (x - origin) / spread
    limits = [(z.min() - 1, z.max() + 1), (MIN_WIDTH, 5.0), (max(MIN_PLATEAU, by_chance), 1.0)]

    def loss(parameters: np.ndarray) -> float:
        p = np.clip(efficiency_curve(z, *parameters, rising=rising, by_chance=by_chance), 1e-12, 1 - 1e-12)
        return -float(np.mean(np.where(found, np.log(p), np.log1p(-p))))

    starts = [
        [centre, width, 0.95] for centre in np.quantile(z, [0.2, 0.4, 0.6, 0.8]) for width in (0.05, 0.3)
    ]
    results = [minimize(loss, start, method="L-BFGS-B", bounds=limits) for start in starts]
    best = min(results, key=lambda result: result.fun).x
    if not limits[0][0] < best[0] < limits[0][1]:
        return EfficiencyFit(problem="the objects do not reach where the efficiency is half of its highest")
    errors = _errors(z, best, limits[2][1], rising=rising, by_chance=by_chance)
    if not np.all(np.isfinite(errors)):
        return EfficiencyFit(problem="the objects do not determine the curve")
    return EfficiencyFit(
        centre=origin + spread * float(best[0]),
        width=spread * float(best[1]),
        plateau=float(best[2]),
        errors=(spread * errors[0], spread * errors[1], errors[2]),
    )


def _why_not(x: np.ndarray, found: np.ndarray) -> str:
    if len(x) < MIN_OBJECTS:
        return f"fewer than {MIN_OBJECTS} objects"
    if np.all(found):
        return "all objects were found"
    if not np.any(found):
        return "no object was found"
    if np.ptp(x) == 0:
        return "all objects are equal"
    return ""


def _errors(
    z: np.ndarray, best: np.ndarray, highest: float, *, rising: bool, by_chance: float
) -> tuple[float, float, float]:
    """Return standard deviations; a plateau at its limit is no parameter."""
    n_free = 2 if best[2] >= highest - 1e-6 else 3
    steps = 1e-5 * np.array([1.0, best[1], -1.0])
    p = efficiency_curve(z, *best, rising=rising, by_chance=by_chance)
    slopes = []
    for i in range(n_free):
        moved = best.copy()
        moved[i] += steps[i]
        slopes.append((efficiency_curve(z, *moved, rising=rising, by_chance=by_chance) - p) / steps[i])
    gradient = np.array(slopes)
    variance = np.clip(p * (1 - p), 1e-12, None)
    information = (gradient / variance) @ gradient.T
    if np.linalg.cond(information) > 1e12:
        return math.nan, math.nan, math.nan
    deviation = np.sqrt(np.diag(np.linalg.inv(information)))
    centre, width, plateau = np.append(deviation, [0.0] * (3 - n_free)).tolist()
    return centre, width, plateau
