# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What logits mean: the probability of an object, and how often sequences
without one have a higher logit.

Neither needs torch.
"""

from __future__ import annotations

__all__ = (
    "CalibrationError",
    "LogitThreshold",
    "RateError",
    "ScoreCalibration",
    "calibration_from_description",
    "fit_calibration",
)

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

MIN_CLEAN = 30
"""Sequences without an object from which on their logits are calibrated."""

TAIL_FACTOR = 3.0
"""The tail is fitted to so many times the square root of the number of
sequences without an object: fewer of them scatter more, of more the
distribution is not yet that of a tail.
"""

MIN_COUNTED = 25
"""Sequences above a logit, from which on their number says how many are above
it, and not the tail.
"""

MAX_TAIL_FRACTION = 0.25
"""Largest fraction of the sequences that the tail is fitted to."""

SHAPE_PRIOR = (-0.05, 0.05)
"""Mean and standard deviation of a normal prior of the tail's shape. That of a
normal distribution is -0.1 where a few percent are above it, that of an
exponential or logistic one 0. Of 1000 to 100,000 values of one of these, or of
a Gumbel distribution, the threshold for a tenth of one over their number has a
rate that is right within a factor of 2 to 5 (root mean square), without a
prior 3 to 8. Of Student's t with 4 degrees of freedom 7 times as many pass.
"""

MIN_SCALE = 1e-6
"""Smallest scale of the tail: float32 logits have no more digits."""

MAX_EXTRAPOLATION = 30.0
"""Factor below one over the number of sequences, down to which thresholds for
rates are given.
"""

MAX_QUANTILES = 100
"""Largest number of quantiles that are kept."""


class CalibrationError(ValueError):
    """A classifier has no calibration that could answer this."""


class RateError(CalibrationError):
    """A rate is lower than what the calibration can tell of."""


@dataclasses.dataclass(frozen=True)
class LogitThreshold:
    """Threshold for a rate of false positives."""

    logit: float
    """The threshold (`float`)."""

    extrapolated: bool
    """Whether the rate is below one over the number of sequences that were
    counted (`bool`).
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreCalibration:
    """Calibration of logits.

    Notes
    -----
    The fields are JSON data, but for tuples.
    """

    slope: float
    """Factor on the logit of the logarithm of the odds; not negative."""

    offset: float
    """Offset of the logarithm of the odds."""

    n_injected: int
    """Number of sequences with an object that it was fitted to."""

    n_clean: int
    """Number of sequences without one."""

    rates: tuple[float, ...]
    """Fractions of the sequences without an object, falling from 1 to that
    from which on the tail takes over.
    """

    logits: tuple[float, ...]
    """Logits that these fractions are above, rising."""

    tail_scale: float
    """Scale of the generalised Pareto distribution of what is above the last
    of `logits`.
    """

    tail_shape: float
    """Its shape; 0 is exponential, with less the tail ends."""

    def probability(self, logit: np.ndarray, prior: float | None = None) -> np.ndarray:
        """Return the probability that sequences hold an object.

        Parameters
        ----------
        logit
            Logits.
        prior
            Fraction of all sequences that hold an object; that of the
            sequences of the calibration if not given.

        Returns
        -------
        probability : `numpy.ndarray`
            Probabilities; 0 for a logit of minus infinity.
        """
        logit = np.asarray(logit, dtype=float)
        # Finite, since no slope times infinity is no number.
        odds = self.slope * np.clip(logit, -1e9, 1e9) + self.offset
        if prior is not None:
            prior = float(np.clip(prior, 1e-300, 1 - 1e-16))
            odds = odds + math.log(prior / (1 - prior)) - math.log(self.n_injected / self.n_clean)
        return np.where(np.isneginf(logit), 0.0, expit(odds))

    def false_positive_rate(self, logit: np.ndarray) -> np.ndarray:
        """Return the fraction of sequences without an object that is above
        logits.

        Parameters
        ----------
        logit
            Logits.

        Returns
        -------
        rate : `numpy.ndarray`
            Fractions. Those that it does not tell of (see `tells_of`) mean
            nothing but that.
        """
        logit = np.asarray(logit, dtype=float)
        counted = np.exp(np.interp(logit, self.logits, np.log(self.rates)))
        excess = np.clip(logit - self.logits[-1], 0.0, None) / self.tail_scale
        if self.tail_shape == 0:
            return counted * np.exp(-excess)
        inner = np.clip(1 + self.tail_shape * excess, 0.0, None)
        return np.where(inner > 0, counted * np.maximum(inner, 1e-300) ** (-1 / self.tail_shape), 0.0)

    @property
    def smallest_rate(self) -> float:
        """Smallest rate that a threshold is given for (`float`)."""
        return 1 / (MAX_EXTRAPOLATION * self.n_clean)

    def tells_of(self, rate: float) -> bool:
        """Return whether a rate is not below `smallest_rate` but for rounding.

        Parameters
        ----------
        rate
            The rate.
        """
        return rate >= self.smallest_rate * (1 - 1e-6)

    def threshold_for_rate(self, rate: float) -> LogitThreshold:
        """Return the logit that a fraction of the sequences without an object
        is above.

        Parameters
        ----------
        rate
            The fraction.

        Returns
        -------
        threshold : `LogitThreshold`
            The threshold, and whether it is extrapolated.

        Raises
        ------
        RateError
            Raised if the rate is below `smallest_rate`, or 1 and more.
        """
        if not (self.tells_of(rate) and rate < 1):
            raise RateError(
                f"A rate of {rate:.3g} false positives a sequence is not from {self.smallest_rate:.3g} to 1. "
                f"The classifier was calibrated on {self.n_clean} sequences without an object, which tells "
                f"of rates down to {MAX_EXTRAPOLATION:.0f} times less than one of them. Ask for a rate of at "
                f"least {self.smallest_rate:.3g}, or train with more sequences."
            )
        if rate >= self.rates[-1]:
            # Rates fall, and interpolation needs them to rise.
            logit = np.interp(math.log(rate), np.log(self.rates)[::-1], np.array(self.logits)[::-1])
        else:
            depth = math.log(self.rates[-1] / rate)
            shape = self.tail_shape
            excess = math.expm1(shape * depth) / shape if shape else depth
            logit = self.logits[-1] + self.tail_scale * excess
        return LogitThreshold(float(logit), rate < 1 / self.n_clean)

    def to_json(self) -> dict[str, Any]:
        """Return JSON data."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ScoreCalibration:
        """Return the calibration that JSON data describe.

        Parameters
        ----------
        data
            What `to_json` returned.

        Raises
        ------
        CalibrationError
            Raised if the data describe no calibration.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if set(data) != names:
            raise CalibrationError(
                f"The calibration of the classifier has {sorted(data)}, not {sorted(names)}. Train it again."
            )
        fields: dict[str, Any] = {**data, "rates": tuple(data["rates"]), "logits": tuple(data["logits"])}
        return cls(**fields)


def calibration_from_description(description: Mapping[str, Any]) -> ScoreCalibration:
    """Return the calibration of a classifier.

    Parameters
    ----------
    description
        Description of the classifier.

    Raises
    ------
    CalibrationError
        Raised if it has none.
    """
    data = description.get("calibration")
    if data is None:
        raise CalibrationError(
            "The classifier is not calibrated: it was trained by an earlier version, or validated on fewer "
            f"than {MIN_CLEAN} sequences without an object. Give a threshold on the logit "
            "(threshold_mode='logit'), or train it again on more sequences."
        )
    return ScoreCalibration.from_json(data)


def fit_calibration(logits: np.ndarray, injected: np.ndarray) -> ScoreCalibration:
    """Fit a calibration.

    Parameters
    ----------
    logits
        Logits of sequences that the classifier was not trained on, ``(n,)``.
        Those of minus infinity do not count.
    injected
        Whether each of them holds an object, bool ``(n,)``.

    Returns
    -------
    calibration : `ScoreCalibration`
        The calibration. The order of the sequences does not matter.

    Raises
    ------
    CalibrationError
        Raised if there are fewer than `MIN_CLEAN` sequences without an object,
        or none with one.

    Notes
    -----
    The logarithm of the odds is linear in the logit (Platt 1999, Advances in
    Large Margin Classifiers, 61), and does not fall. The distribution of the
    logits of sequences without an object is that of the sample. Above the
    highest `MIN_COUNTED` it is a generalised Pareto distribution (Pickands
    1975, Ann. Statist. 3, 119), whose scale and shape are fitted to more of
    them by maximum likelihood with a prior on the shape.
    """
    finite = np.isfinite(logits)
    clean = np.sort(np.asarray(logits, dtype=float)[finite & ~injected])
    found = np.sort(np.asarray(logits, dtype=float)[finite & injected])
    if len(clean) < MIN_CLEAN or len(found) == 0:
        raise CalibrationError(
            f"{len(clean)} sequences without and {len(found)} with an object are too few to calibrate a "
            f"classifier: {MIN_CLEAN} and 1 are needed."
        )
    slope, offset = _fit_odds(clean, found)
    n_tail = int(min(TAIL_FACTOR * math.sqrt(len(clean)), MAX_TAIL_FRACTION * len(clean)))
    n_counted = min(n_tail, MIN_COUNTED)
    # How many are above each quantile.
    above = np.unique(np.rint(np.geomspace(n_counted, len(clean) - 1, MAX_QUANTILES)).astype(int))[::-1]
    quantiles = clean[len(clean) - 1 - above]
    begin = clean[len(clean) - 1 - n_tail]
    scale, shape = _fit_tail(clean[len(clean) - n_tail :] - begin)
    # What is above a higher value has the same shape.
    scale += shape * float(quantiles[-1] - begin)
    return ScoreCalibration(
        slope=slope,
        offset=offset,
        n_injected=len(found),
        n_clean=len(clean),
        rates=(1.0, *(above / len(clean)).tolist()),
        logits=(float(clean[0]), *quantiles.tolist()),
        tail_scale=scale,
        tail_shape=shape,
    )


def _fit_odds(clean: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Return slope and offset of the odds. The targets are Platt's, with which
    they are finite also if the classes do not overlap.
    """
    logits = np.concatenate([clean, found])
    spread = max(float(np.std(logits)), 1e-6)
    centre = float(np.mean(logits))
    scaled = (logits - centre) / spread
    target = np.repeat([1 / (len(clean) + 2), (len(found) + 1) / (len(found) + 2)], [len(clean), len(found)])

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        odds = parameters[0] * scaled + parameters[1]
        difference = expit(odds) - target
        value = np.mean(np.logaddexp(0, odds) - target * odds)
        return float(value), np.array([np.mean(difference * scaled), np.mean(difference)])

    start = [1.0, math.log((len(found) + 1) / (len(clean) + 1))]
    result = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)], tol=1e-12)
    slope = float(result.x[0]) / spread
    return slope, float(result.x[1]) - slope * centre


def _fit_tail(excess: np.ndarray) -> tuple[float, float]:
    """Return scale and shape of a generalised Pareto distribution."""
    mean = float(np.mean(excess))
    if mean < MIN_SCALE:
        return MIN_SCALE, 0.0
    z = excess / mean

    def loss(parameters: np.ndarray) -> float:
        log_scale, shape = parameters
        inner = 1 + shape * z / math.exp(log_scale)
        if np.min(inner) <= 0:
            return math.inf
        decay = z / math.exp(log_scale) if abs(shape) < 1e-7 else (1 + 1 / shape) * np.log(inner)
        prior = ((shape - SHAPE_PRIOR[0]) / SHAPE_PRIOR[1]) ** 2 / 2
        return float(len(z) * log_scale + np.sum(decay) + prior)

    options = {"xatol": 1e-6, "fatol": 1e-8, "maxiter": 2000}
    result = minimize(loss, [0.0, 0.0], method="Nelder-Mead", options=options)
    return mean * math.exp(result.x[0]), float(result.x[1])
