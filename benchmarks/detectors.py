# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Detectors that benchmarks compare: functions from sequences to a statistic
that is high where there is an object.
"""

from __future__ import annotations

__all__ = (
    "SNR_BINS",
    "Detector",
    "Logits",
    "half_found",
    "matched_filter",
    "read_classifier",
    "threshold_at",
    "untrained",
)

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from scipy.special import logit
from white_noise import MAX_MOTION, PIXEL_SCALE

from lsst.daf.butler import Butler
from lsst.meas.tno import ImageSequences
from lsst.meas.tno._efficiency_fit import fit_efficiency
from lsst.meas.tno.matched_filter import band_flux_ratio, search_sequences
from lsst.meas.tno.nn import architectures
from lsst.meas.tno.nn.architectures import Shape
from lsst.meas.tno.nn.classifier import Classifier, classifier_from_table, describe_classifier

SHAPE: Shape = (50, 15, 15)
"""Images, height and width of a sequence."""

SNR_BINS = (
    (2.0, 3.0),
    (3.0, 4.0),
    (4.0, 5.0),
    (5.0, 6.0),
    (6.0, 8.0),
    (8.0, 12.0),
    (12.0, 25.0),
    (25.0, 60.0),
)
"""Limits on the S/N of objects whose efficiency is printed."""

type Detector = Callable[[ImageSequences], np.ndarray]


@dataclasses.dataclass
class Logits:
    """The logits of a classifier."""

    classifier: Classifier

    def __call__(self, sequences: ImageSequences) -> np.ndarray:
        """Return the logits."""
        columns: Mapping[str, np.ndarray] = {column.name: array for column, array in sequences.items()}
        return self.classifier.compute_logits(columns)

    @property
    def architecture(self) -> str:
        """Name of the classifier's architecture."""
        return self.classifier.description["architecture"]["name"]


def untrained(name: str = "trajectories", shape: Shape = SHAPE) -> Logits:
    """Return an architecture as it is before any training; ``trajectories`` is
    then the mean likelihood ratio over trajectories and S/N.
    """
    architecture = architectures[name](architectures[name].ConfigClass())
    description = describe_classifier(name, architecture, shape, PIXEL_SCALE, training={}, metrics={})
    return Logits(Classifier(architecture, architecture.build(shape).eval(), description))


def read_classifier(repo: str, collection: str) -> Logits:
    """Return the classifier of a collection."""
    with Butler.from_config(repo, collections=collection) as butler:
        return Logits(classifier_from_table(butler.get("tno_classifier")))


def matched_filter(sequences: ImageSequences, n_threads: int = 1) -> np.ndarray:
    """Return the largest S/N of a trajectory of up to `MAX_MOTION` pixels;
    -inf where there is nothing to look at.
    """
    snr = np.full(len(sequences), -np.inf)
    first = np.where(sequences.valid, sequences.mjd, np.inf).min(axis=1)
    last = np.where(sequences.valid, sequences.mjd, -np.inf).max(axis=1)
    # Sequences that take equally long, to a second, have the same limit.
    seconds = np.rint(86400.0 * (last - first))
    for span in np.unique(seconds[seconds > 0]):
        rows = np.flatnonzero(seconds == span)
        found = search_sequences(
            sequences[rows],
            relative_flux=band_flux_ratio(sequences.band[rows]),
            rate_max=MAX_MOTION * PIXEL_SCALE / (span / 3600.0),
            n_threads=n_threads,
        )
        snr[rows] = np.nan_to_num(found.snr, nan=-np.inf)
    return snr


def half_found(snr: np.ndarray, found: np.ndarray, rate: float) -> tuple[float, float, str]:
    """Return the S/N at which half of the objects are found, its error, and
    why there is none.

    Parameters
    ----------
    snr
        S/N of the objects.
    found
        Whether each was found.
    rate
        False positives per sequence.
    """
    fit = fit_efficiency(snr, found, rising=True, by_chance=rate)
    if fit.problem:
        return np.nan, np.nan, fit.problem
    if fit.plateau <= 0.5:
        return np.nan, np.nan, f"{100 * fit.plateau:.0f} % at most are found"
    half = fit.centre + fit.width * logit((0.5 - rate) / (fit.plateau - rate))
    return half, fit.errors[0], ""


def threshold_at(rate: float, clean: np.ndarray) -> float:
    """Return the statistic that a fraction of the clean sequences exceed; NaN
    if those are fewer than ten.
    """
    return float(np.quantile(clean, 1.0 - rate)) if rate * len(clean) >= 10 else float("nan")
