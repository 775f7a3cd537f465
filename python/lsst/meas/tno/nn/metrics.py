# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""How well scores tell sequences with an object from those without."""

from __future__ import annotations

__all__ = ("SNR_BINS", "roc_area", "roc_areas_by_snr", "roc_curve", "select_snr")

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import rankdata

SNR_BINS: Mapping[str, tuple[float, float]] = {
    "all": (-math.inf, math.inf),
    "snr >= 8": (8.0, math.inf),
    "5 <= snr < 8": (5.0, 8.0),
    "snr < 5": (-math.inf, 5.0),
}
"""Limits on the S/N of injected objects, by what metrics call them."""


def roc_area(scores: np.ndarray, injected: np.ndarray) -> float:
    """Return the area under the ROC curve.

    It is the probability that a sequence with an object scores higher than one
    without; ties count half (Mann & Whitney 1947).

    Parameters
    ----------
    scores
        Scores or logits, ``(n,)``.
    injected
        Whether each sequence holds an object, bool ``(n,)``.

    Returns
    -------
    area : `float`
        Area; NaN if all or none hold an object.
    """
    n_injected = int(np.count_nonzero(injected))
    n_clean = len(injected) - n_injected
    if n_injected == 0 or n_clean == 0:
        return math.nan
    rank_sum = float(rankdata(scores)[injected].sum())
    return (rank_sum - n_injected * (n_injected + 1) / 2) / (n_injected * n_clean)


def roc_curve(scores: np.ndarray, injected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ROC curve.

    Parameters
    ----------
    scores
        Scores or logits, ``(n,)``.
    injected
        Whether each sequence holds an object, bool ``(n,)``, with some of
        both.

    Returns
    -------
    false_positive_rate, true_positive_rate : `numpy.ndarray`
        Fractions above each threshold, rising from 0 to 1.
    """
    order = np.argsort(-scores, kind="stable")
    is_last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    true_positives = np.cumsum(injected[order])[is_last_of_ties]
    false_positives = np.cumsum(~injected[order])[is_last_of_ties]
    return (
        np.concatenate([[0.0], false_positives / false_positives[-1]]),
        np.concatenate([[0.0], true_positives / true_positives[-1]]),
    )


def select_snr(injected: np.ndarray, snr: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Select all sequences without an object, and those with one in a range
    of S/N.

    Parameters
    ----------
    injected
        Whether each sequence holds an object, bool ``(n,)``.
    snr
        S/N of the objects, ``(n,)``.
    limits
        Smallest S/N, and the one that all are smaller than.

    Returns
    -------
    selected : `numpy.ndarray`
        Bool ``(n,)``.
    """
    return ~injected | ((snr >= limits[0]) & (snr < limits[1]))


def roc_areas_by_snr(scores: np.ndarray, injected: np.ndarray, snr: np.ndarray) -> dict[str, dict[str, Any]]:
    """Return the area under the ROC curve for objects of each bin of S/N.

    Parameters
    ----------
    scores
        Scores or logits, ``(n,)``.
    injected
        Whether each sequence holds an object, bool ``(n,)``.
    snr
        S/N of the objects, ``(n,)``.

    Returns
    -------
    areas : `dict` [`str`, `dict`]
        For each of `SNR_BINS`: ``roc_area`` (`float`, or `None` if there is
        none), ``n_injected`` and ``n_clean``.
    """
    areas = {}
    for name, limits in SNR_BINS.items():
        selected = select_snr(injected, snr, limits)
        area = roc_area(scores[selected], injected[selected])
        n_injected = int(np.count_nonzero(injected[selected]))
        areas[name] = {
            "roc_area": None if math.isnan(area) else area,
            "n_injected": n_injected,
            "n_clean": int(np.count_nonzero(selected)) - n_injected,
        }
    return areas
