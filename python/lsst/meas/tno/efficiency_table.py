# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of detection efficiencies, `DETECTION_EFFICIENCY_COLUMNS`."""

from __future__ import annotations

__all__ = ("EfficiencyOptions", "make_efficiency_table")

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from astropy.table import Table
from scipy.special import expit

from ._columns import make_table
from ._schema import DETECTION_EFFICIENCY_COLUMNS, TEXT, Column
from .efficiency import Trials, binomial_interval, fit_efficiency, make_bins, reasons_for_misses
from .nn.calibration import LogitThreshold, ScoreCalibration

MAX_ROC_POINTS = 200
"""Largest number of points of the ROC curve."""

N_CALIBRATION_BINS = 10
"""Bins of the probability."""

BINNED = ("mag", "snr", "rate")

FITTED = {"mag": "m50", "snr": "snr50"}
"""What the centre of a fit is called."""

type Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EfficiencyOptions:
    """What an efficiency table is made with."""

    threshold: LogitThreshold
    """Lowest logit of a candidate."""

    calibration: ScoreCalibration | None
    """Calibration of the classifier, if it has any."""

    windows_per_square_degree: float
    """How many windows a square degree has room for, side by side."""

    bin_widths: dict[str, float | None]
    """Widths of the bins of `BINNED`; `None` for widths by the range."""


def make_efficiency_table(trials: Trials, options: EfficiencyOptions) -> Table:
    """Return the efficiencies, false positives and misses of a search.

    Parameters
    ----------
    trials
        Sequences that were searched, in the order of their IDs.
    options
        What to make the table with.

    Returns
    -------
    table : `astropy.table.Table`
        Table with the columns `DETECTION_EFFICIENCY_COLUMNS`.
    """
    found = trials.found(options.threshold.logit)
    rows = [
        *_threshold_rows(options),
        *_efficiency_rows(trials, found, options),
        *_fit_rows(trials, found, options),
        *_false_positive_rows(trials, options),
        *_roc_rows(trials),
        *_calibration_rows(trials, options),
        *_missed_rows(trials, options),
    ]
    return make_table((column, _to_array(rows, column)) for column in DETECTION_EFFICIENCY_COLUMNS)


def _to_array(rows: list[Row], column: Column) -> np.ndarray:
    values = [row.get(column.name, column.missing) for row in rows]
    return np.array(values, dtype=str if column.dtype == TEXT else column.dtype)


def _counted(n_part: int, n: int) -> Row:
    """Return a fraction and its interval."""
    low, high = binomial_interval(np.array(n_part), np.array(n))
    value = n_part / n if n else math.nan
    return {"value": value, "value_low": float(low), "value_high": float(high)}


def _threshold_rows(options: EfficiencyOptions) -> Iterator[Row]:
    row: Row = {"kind": "threshold", "quantity": "logit", "logit": options.threshold.logit}
    if options.calibration is not None:
        calibration = options.calibration
        rate = float(calibration.false_positive_rate(np.array(options.threshold.logit)))
        if calibration.tells_of(rate):
            row["false_positive_rate"] = rate
            row["reason"] = "extrapolated" if rate * calibration.n_clean < 1 else ""
        else:
            row["reason"] = f"below {calibration.smallest_rate:.3g}, which is all that is known"
    yield row


def _efficiency_rows(trials: Trials, found: np.ndarray, options: EfficiencyOptions) -> Iterator[Row]:
    injected = trials.injected
    if not np.any(injected):
        return
    yield _efficiency_row("all", -math.inf, math.inf, found[injected])
    for name in BINNED:
        low, high, index = _make_bins(name, getattr(trials, name)[injected], options.bin_widths[name])
        for i in range(len(low)):
            yield _efficiency_row(name, float(low[i]), float(high[i]), found[injected][index == i])


def _make_bins(
    name: str, values: np.ndarray, width: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lower and upper edges of bins, and which bin each value is in;
    those of S/N are of equal width in its logarithm.
    """
    if name != "snr":
        return make_bins(values, width)
    # What is below S/N 1 is in one bin.
    low, high, index = make_bins(np.log10(np.maximum(values, 0.999)), width)
    low, high = 10.0**low, 10.0**high
    return np.where(high <= 1.0, 0.0, low), high, index


def _efficiency_row(quantity: str, low: float, high: float, found: np.ndarray) -> Row:
    n_found = int(np.count_nonzero(found))
    return {
        "kind": "efficiency",
        "quantity": quantity,
        "low": low,
        "high": high,
        "n_injected": len(found),
        "n_found": n_found,
        **_counted(n_found, len(found)),
    }


def _fit_rows(trials: Trials, found: np.ndarray, options: EfficiencyOptions) -> Iterator[Row]:
    injected = trials.injected
    for name, centre in FITTED.items():
        fit = fit_efficiency(
            getattr(trials, name)[injected],
            found[injected],
            rising=name == "snr",
            by_chance=_false_positive_rate(trials, options),
        )
        for quantity, value, error in zip(
            (centre, f"{centre}_width", f"{centre}_plateau"),
            (fit.centre, fit.width, fit.plateau),
            fit.errors,
            strict=True,
        ):
            yield {
                "kind": "fit",
                "quantity": quantity,
                "value": value,
                "value_low": value - error,
                "value_high": value + error,
                "false_positive_rate": _false_positive_rate(trials, options),
                "n_injected": int(np.count_nonzero(injected)),
                "n_found": int(np.count_nonzero(found)),
                "reason": fit.problem,
            }


def _false_positive_rate(trials: Trials, options: EfficiencyOptions) -> float:
    """Return the false positive rate; 0 without sequences to count it in."""
    clean = trials.logit[~trials.injected]
    return float(np.mean(clean >= options.threshold.logit)) if len(clean) else 0.0


def _false_positive_rows(trials: Trials, options: EfficiencyOptions) -> Iterator[Row]:
    clean = trials.logit[~trials.injected]
    n_false = int(np.count_nonzero(clean >= options.threshold.logit))
    counted = _counted(n_false, len(clean))
    per_degree = options.windows_per_square_degree
    for quantity, factor in (("per_sequence", 1.0), ("per_square_degree", per_degree)):
        yield {
            "kind": "false_positives",
            "quantity": quantity,
            **{name: factor * value for name, value in counted.items()},
            "false_positive_rate": counted["value"],
            "logit": options.threshold.logit,
            "n_clean": len(clean),
            "n_false_positives": n_false,
        }


def _roc_rows(trials: Trials) -> Iterator[Row]:
    """Yield the highest efficiency at some numbers of false positives."""
    clean = np.sort(trials.logit[~trials.injected])[::-1]
    found = np.sort(trials.logit[trials.injected])
    if len(clean) == 0 or len(found) == 0:
        return
    spaced = np.rint(np.geomspace(1, len(clean), MAX_ROC_POINTS)).astype(int)
    for n_false in np.unique(np.append(0, spaced)).tolist():
        # Everything above the first that is not to pass, without its equals.
        logit = float(clean[n_false]) if n_false < len(clean) else -math.inf
        n_found = len(found) - int(np.searchsorted(found, logit, side="right"))
        n_above = int(np.count_nonzero(clean > logit))
        if n_false == len(clean):
            n_found, n_above = len(found), len(clean)
        yield {
            "kind": "roc",
            "logit": logit,
            "false_positive_rate": n_above / len(clean),
            "n_injected": len(found),
            "n_found": n_found,
            "n_clean": len(clean),
            "n_false_positives": n_above,
            **_counted(n_found, len(found)),
        }


def _calibration_rows(trials: Trials, options: EfficiencyOptions) -> Iterator[Row]:
    if len(trials) == 0:
        return
    if options.calibration is None:
        quantity, predicted = "score", expit(trials.logit.astype(float))
    else:
        prior = float(np.mean(trials.injected))
        quantity, predicted = "probability", options.calibration.probability(trials.logit, prior)
    index = np.minimum((predicted * N_CALIBRATION_BINS).astype(int), N_CALIBRATION_BINS - 1)
    for i in np.unique(index).tolist():
        inside = index == i
        n_injected = int(np.count_nonzero(trials.injected[inside]))
        n = int(np.count_nonzero(inside))
        yield {
            "kind": "calibration",
            "quantity": quantity,
            "low": i / N_CALIBRATION_BINS,
            "high": (i + 1) / N_CALIBRATION_BINS,
            "predicted": float(np.mean(predicted[inside])),
            "n_injected": n_injected,
            "n_clean": n - n_injected,
            **_counted(n_injected, n),
        }


def _missed_rows(trials: Trials, options: EfficiencyOptions) -> Iterator[Row]:
    reasons = reasons_for_misses(trials, options.threshold.logit)
    for row in np.flatnonzero(reasons != ""):
        yield {
            "kind": "missed",
            "quantity": "snr",
            "value": float(trials.snr[row]),
            "logit": float(trials.logit[row]),
            **{name: int(getattr(trials, name)[row]) for name in ("tract", "patch", "sequence_id")},
            "object_id": str(trials.object_id[row]),
            "reason": str(reasons[row]),
        }
