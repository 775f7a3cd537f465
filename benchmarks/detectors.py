# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Detectors that benchmarks compare: functions from sequences to a statistic
that is high where there is an object.
"""

from __future__ import annotations

__all__ = ("Detector", "Logits", "matched_filter", "read_classifier", "threshold_at", "untrained")

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from white_noise import MAX_MOTION, PIXEL_SCALE

from lsst.daf.butler import Butler
from lsst.meas.tno import ImageSequences
from lsst.meas.tno.matched_filter import band_flux_ratio, search_sequences
from lsst.meas.tno.nn import architectures
from lsst.meas.tno.nn.architectures import Shape
from lsst.meas.tno.nn.classifier import Classifier, classifier_from_table, describe_classifier

SHAPE: Shape = (50, 15, 15)
"""Images, height and width of a sequence."""

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
    """Return the largest S/N of a trajectory of up to `MAX_MOTION` pixels."""
    hours = 24.0 * np.max(np.nanmax(sequences.mjd, axis=1) - np.nanmin(sequences.mjd, axis=1))
    found = search_sequences(
        sequences,
        relative_flux=band_flux_ratio(sequences.band),
        rate_max=MAX_MOTION * PIXEL_SCALE / hours,
        n_threads=n_threads,
    )
    return found.snr


def threshold_at(rate: float, clean: np.ndarray) -> float:
    """Return the statistic that a fraction of the clean sequences exceed; NaN
    if those are fewer than ten.
    """
    return float(np.quantile(clean, 1.0 - rate)) if rate * len(clean) >= 10 else float("nan")
