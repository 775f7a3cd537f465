# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of a training."""

from __future__ import annotations

__all__ = ("draw_losses", "draw_roc", "plot_training")

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .metrics import SNR_BINS, roc_area, roc_curve, select_snr


def plot_training(
    history: Table, logits: np.ndarray, injected: np.ndarray, snr: np.ndarray, split: str
) -> Figure:
    """Plot the losses and the ROC curves of a training.

    Parameters
    ----------
    history
        Table with the columns of `TRAINING_HISTORY_COLUMNS`.
    logits
        Logits of sequences, ``(n,)``.
    injected
        Whether each of them holds an object, bool ``(n,)``.
    snr
        S/N of the objects, ``(n,)``.
    split
        What to call the sequences.
    """
    figure = Figure(figsize=(11.0, 5.0), layout="constrained")
    loss_axes, roc_axes = figure.subplots(1, 2)
    draw_losses(loss_axes, history)
    loss_axes.set_title("Loss")
    draw_roc(roc_axes, logits, injected, snr)
    roc_axes.set_title(f"ROC of the {split} sequences")
    return figure


def draw_losses(axes: Axes, history: Table) -> None:
    """Draw the losses of a training.

    Parameters
    ----------
    axes
        Axes to draw on.
    history
        Table with the columns of `TRAINING_HISTORY_COLUMNS`.
    """
    best = history[int(np.argmin(history["validation_loss"]))]
    axes.plot(history["epoch"], history["training_loss"], ".-", label="training")
    axes.plot(history["epoch"], history["validation_loss"], ".-", label="validation")
    axes.plot(best["epoch"], best["validation_loss"], "o", mfc="none", ms=10, color="k", label="kept")
    axes.set(xlabel="Epoch", ylabel="Binary cross-entropy", yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def draw_roc(axes: Axes, logits: np.ndarray, injected: np.ndarray, snr: np.ndarray) -> None:
    """Draw ROC curves, for objects of each bin of S/N.

    Parameters
    ----------
    axes
        Axes to draw on.
    logits
        Logits of sequences, ``(n,)``.
    injected
        Whether each of them holds an object, bool ``(n,)``.
    snr
        S/N of the objects, ``(n,)``.
    """
    # The thresholds of a search let few false positives pass: a linear axis
    # would hide them.
    smallest = 0.5 / max(1, int(np.count_nonzero(~injected)))
    for name, limits in SNR_BINS.items():
        selected = select_snr(injected, snr, limits)
        area = roc_area(logits[selected], injected[selected])
        if np.isnan(area):
            continue
        false_positive_rate, true_positive_rate = roc_curve(logits[selected], injected[selected])
        axes.step(
            np.maximum(false_positive_rate, smallest),
            true_positive_rate,
            where="post",
            label=f"{name}: area {area:.4f}",
        )
    axes.set(
        xlabel="False positive rate",
        ylabel="True positive rate",
        xscale="log",
        xlim=(smallest, 1),
        ylim=(0, 1.02),
    )
    if axes.lines:
        axes.legend(loc="lower right")
