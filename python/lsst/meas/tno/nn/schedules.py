# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Learning rates, as functions of how far a training has come.

None of them has a state: a training that is resumed goes on with the same
rates.
"""

from __future__ import annotations

__all__ = ("learning_rate",)

import math
from collections.abc import Sequence

from .training_config import TrainingConfig

ONE_CYCLE_START = 1 / 25
"""First learning rate of a cycle over its highest (the default of fastai and
of torch)."""


def learning_rate(config: TrainingConfig, progress: float, losses: Sequence[float]) -> float:
    """Return the learning rate of a step.

    Parameters
    ----------
    config
        Configuration; ``schedule`` says which function it is.
    progress
        Epochs before the step's end, its own part of an epoch included.
    losses
        Validation losses of the epochs before.

    Returns
    -------
    learning_rate : `float`
        Learning rate.
    """
    if config.schedule == "cosine":
        return _cosine(config, progress)
    if config.schedule == "one_cycle":
        return _one_cycle(config, progress)
    return _plateau(config, losses)


def _plateau(config: TrainingConfig, losses: Sequence[float]) -> float:
    rate, best, n_bad = config.learning_rate, math.inf, 0
    for loss in losses:
        n_bad = 0 if loss < best else n_bad + 1
        best = min(best, loss)
        if n_bad >= config.learning_rate_patience:
            rate, n_bad = rate * config.learning_rate_factor, 0
    return rate


def _cosine(config: TrainingConfig, progress: float) -> float:
    """Return a rate that rises in proportion to the steps and falls by half a
    period of a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983).
    """
    peak, rise = config.learning_rate, config.warmup_epochs
    if progress < rise:
        return peak * progress / rise
    done = (progress - rise) / (config.max_epochs - rise)
    return _half_cosine(peak, peak * config.final_learning_rate, done)


def _one_cycle(config: TrainingConfig, progress: float) -> float:
    """Return a rate that rises and falls by half a period of a cosine each
    (Smith & Topin 2019, arXiv:1708.07120, with the cosines of fastai).
    """
    peak, rise = config.learning_rate, config.one_cycle_rise * config.max_epochs
    if progress < rise:
        return _half_cosine(peak * ONE_CYCLE_START, peak, progress / rise)
    done = (progress - rise) / (config.max_epochs - rise)
    return _half_cosine(peak, peak * config.final_learning_rate, done)


def _half_cosine(begin: float, end: float, done: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * min(1.0, done))) / 2
