# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of detection efficiencies."""

from __future__ import annotations

__all__ = ("EFFICIENCY_PANELS", "plot_efficiency")

import functools
from collections.abc import Callable, Mapping

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from .efficiency import efficiency_curve

LABELS = {"mag": ("m50", "AB magnitude in the reference band"), "snr": ("snr50", "S/N")}
"""Centre of the fit, and label of the axis."""


def plot_efficiency(table: Table) -> Figure:
    """Plot efficiencies, the ROC curve and the calibration.

    Parameters
    ----------
    table
        Table with the columns of `DETECTION_EFFICIENCY_COLUMNS`.
    """
    figure = Figure(figsize=(11.0, 9.0), layout="constrained")
    for axes, draw in zip(figure.subplots(2, 2).flat, EFFICIENCY_PANELS.values(), strict=True):
        draw(axes, table)
    return figure


def _rows(table: Table, kind: str, quantity: str | None = None) -> Table:
    chosen = table["kind"] == kind
    return table[chosen if quantity is None else chosen & (table["quantity"] == quantity)]


def _plot_points(axes: Axes, x: np.ndarray, rows: Table) -> None:
    value = np.asarray(rows["value"])
    error = np.clip([value - rows["value_low"], rows["value_high"] - value], 0, None)
    axes.errorbar(x, value, error, fmt="o", ms=4, capsize=2)


def _plot_bins(axes: Axes, table: Table, name: str) -> None:
    rows = _rows(table, "efficiency", name)
    centre, label = LABELS[name]
    _plot_points(axes, np.add(rows["low"], rows["high"]) / 2, rows)
    fits = _rows(table, "fit")
    values = {row["quantity"]: row for row in fits if row["quantity"].startswith(centre)}
    if len(rows) and centre in values and np.isfinite(values[centre]["value"]):
        fit = values[centre]
        x = np.linspace(np.min(rows["low"]), np.max(rows["high"]), 1000)
        parameters = [values[f"{centre}{suffix}"]["value"] for suffix in ("", "_width", "_plateau")]
        by_chance = float(fit["false_positive_rate"])
        axes.plot(x, efficiency_curve(x, *parameters, rising=name == "snr", by_chance=by_chance))
        axes.axvline(fit["value"], ls=":", color="0.5")
        error = fit["value_high"] - fit["value"]
        axes.set_title(f"{centre} = {fit['value']:.2f} ± {error:.2f}")
    axes.set(xlabel=label, ylabel="Detection efficiency", ylim=(0, 1.02))
    if name == "snr" and len(rows):
        # Most of what matters is at low S/N.
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.locator_params(axis="x", nbins=6)


def _plot_roc(axes: Axes, table: Table) -> None:
    rows = _rows(table, "roc")
    if len(rows):
        smallest = 0.5 / int(rows["n_clean"][0])
        axes.step(np.maximum(rows["false_positive_rate"], smallest), rows["value"], where="post")
        axes.set(xscale="log", xlim=(smallest, 1))
    everything = _rows(table, "efficiency", "all")
    false_positives = _rows(table, "false_positives", "per_sequence")
    if len(rows) and len(everything) and len(false_positives):
        rate = max(float(false_positives["value"][0]), smallest)
        axes.plot(rate, everything["value"][0], "o", color="k", mfc="none", label="threshold")
        axes.legend(loc="lower right")
    axes.set(xlabel="False positives a sequence", ylabel="Detection efficiency", ylim=(0, 1.02))


def _plot_calibration(axes: Axes, table: Table) -> None:
    rows = _rows(table, "calibration")
    axes.plot([0, 1], [0, 1], ls=":", color="0.5")
    _plot_points(axes, np.asarray(rows["predicted"]), rows)
    predicted = "Probability" if "probability" in rows["quantity"] else "Score"
    axes.set(xlabel=predicted, ylabel="Fraction with an object", xlim=(0, 1), ylim=(0, 1.02))


EFFICIENCY_PANELS: Mapping[str, Callable[[Axes, Table], None]] = {
    "Detection efficiency by magnitude": functools.partial(_plot_bins, name="mag"),
    "Detection efficiency by S/N": functools.partial(_plot_bins, name="snr"),
    "ROC curve": _plot_roc,
    "Calibration of the scores": _plot_calibration,
}
"""What draws each panel on axes, by its title, of a table with the columns of
`DETECTION_EFFICIENCY_COLUMNS`.
"""
