# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of a page: each of one panel, so that it fits on a phone, too."""

from __future__ import annotations

__all__ = ("Picture", "draw_curves", "draw_light_curve", "draw_map", "draw_scores", "to_png", "to_svg")

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .._sequences import BANDS
from ..candidates import Candidates
from ..efficiency_plots import EFFICIENCY_PANELS
from ..nn.plots import draw_losses, draw_roc
from ..pictures import CANDIDATE_COLOUR
from ..positions import SPLITS
from ._values import data_uri

_SIZE = (5.2, 3.9)
"""Width and height of a figure, inches."""

_STYLE: Any = {"font.size": 11, "svg.hashsalt": "meas_tno", "svg.fonttype": "path"}

_BAND_COLOURS = ("#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#7f5a2d", "#000000")
"""Colours of the bands "ugrizy"."""

_ALL_SKY = 20.0
"""Extent from which on a map shows all of the sky, deg."""

_MAX_LABELS = 12
"""Candidates whose number is written on the map."""

_LABEL_SIZE = 0.02
"""Size of a number on the map, over that of the map."""

_GROUP, _MAX_GROUPS = 4, 10
"""Images of a band that are at least put together to a mean of a light curve,
and means that there are at most.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a page."""

    uri: str
    """Its content."""

    title: str
    alternative: str
    """What there is to see, for those who cannot see it."""


def to_svg(figure: Figure) -> str:
    """Return a figure of lines as an address.

    Parameters
    ----------
    figure
        Figure.
    """
    return _save(figure, "svg", "image/svg+xml", metadata={"Date": None})


def to_png(figure: Figure) -> str:
    """Return a figure of many points or pixels as an address.

    Parameters
    ----------
    figure
        Figure.
    """
    return _save(figure, "png", "image/png", dpi=150)


def _save(figure: Figure, file_format: str, media_type: str, **options: Any) -> str:
    output = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(output, format=file_format, **options)
    return data_uri(output.getvalue(), media_type)


def _draw(draw: Callable[[Axes], None], size: tuple[float, float] = _SIZE) -> Figure:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
    return figure


def draw_map(ra: np.ndarray, dec: np.ndarray, candidates: Candidates | None) -> str | None:
    """Draw where sequences and candidates are on the sky.

    Parameters
    ----------
    ra, dec
        Positions of the sequences, deg.
    candidates
        Candidates, the best first.

    Returns
    -------
    uri : `str` or `None`
        Address of the picture; `None` if there is nothing to draw.
    """
    found_ra, found_dec = (np.zeros(0),) * 2 if candidates is None else (candidates.ra, candidates.dec)
    all_ra, all_dec = np.concatenate([ra, found_ra]), np.concatenate([dec, found_dec])
    if len(all_ra) == 0:
        return None
    middle = float(np.degrees(np.angle(np.mean(np.exp(1j * np.radians(all_ra))))) % 360)
    offsets = ((all_ra - middle + 180) % 360 - 180) * np.cos(np.radians(np.mean(all_dec)))
    is_all_sky = max(np.ptp(offsets), np.ptp(all_dec)) > _ALL_SKY
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.0, 3.8 if is_all_sky else 5.0), layout="constrained")
        axes = figure.subplots(subplot_kw={"projection": "mollweide"} if is_all_sky else None)
        place = _all_sky(axes) if is_all_sky else _field(axes, middle, float(np.mean(all_dec)))
        axes.plot(*place(ra, dec), ".", ms=3, color="0.72", label=f"{len(ra):,} sequences", zorder=1)
        label = f"{len(found_ra):,} candidates"
        axes.plot(
            *place(found_ra, found_dec), "o", ms=8, mfc="none", mew=1.6, color=CANDIDATE_COLOUR, label=label
        )
        for label, position in _labels(*place(found_ra, found_dec), np.ptp(place(all_ra, all_dec), axis=1)):
            axes.annotate(label, position, (6, 5), textcoords="offset points", fontsize=10)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return to_png(figure)


type _Place = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _all_sky(axes: Axes) -> _Place:
    axes.grid(alpha=0.4)
    # East is left, as on the sky.
    hours = np.arange(-10, 11, 2)
    axes.set_xticks(np.radians(15.0 * hours), [f"{-hour % 24}h" for hour in hours], fontsize=8)
    return lambda ra, dec: (-np.radians((ra + 180) % 360 - 180), np.radians(dec))


def _field(axes: Axes, ra_middle: float, dec_middle: float) -> _Place:
    axes.set(xlabel="Right ascension (deg)", ylabel="Declination (deg)")
    axes.set_aspect(1 / np.cos(np.radians(dec_middle)), adjustable="datalim")
    axes.invert_xaxis()
    axes.grid(alpha=0.3)
    axes.ticklabel_format(useOffset=False)
    axes.locator_params(nbins=6)
    # Across 0 h, right ascensions go on below 0 or above 360.
    return lambda ra, dec: (ra_middle + (ra - ra_middle + 180) % 360 - 180, dec)


def _labels(x: np.ndarray, y: np.ndarray, extent: np.ndarray) -> list[tuple[str, tuple[float, float]]]:
    """Return the numbers of the best candidates and where they stand; those
    that would overlap are one.
    """
    labels: list[tuple[str, tuple[float, float]]] = []
    reach = _LABEL_SIZE * np.max(extent)
    for number, position in enumerate(zip(x[:_MAX_LABELS], y[:_MAX_LABELS], strict=True), start=1):
        for index, (label, other) in enumerate(labels):
            if np.hypot(position[0] - other[0], position[1] - other[1]) <= reach:
                labels[index] = (f"{label}, {number}", other)
                break
        else:
            labels.append((str(number), position))
    return labels


def draw_scores(logits: np.ndarray, threshold: float | None) -> str | None:
    """Draw how many sequences have which logit.

    Parameters
    ----------
    logits
        Logits.
    threshold
        Lowest logit of a candidate, if it is known.

    Returns
    -------
    uri : `str` or `None`
        Address of the picture; `None` if there is nothing to draw.
    """
    logits = logits[np.isfinite(logits)]
    if len(logits) == 0:
        return None

    def draw(axes: Axes) -> None:
        axes.hist(logits, bins=min(60, max(10, len(logits) // 10)), color="0.6")
        if threshold is not None:
            axes.axvline(threshold, color=CANDIDATE_COLOUR, ls="--", label=f"threshold {threshold:.2f}")
            axes.legend()
        axes.set(xlabel="Logit", ylabel="Sequences", yscale="log")

    return to_svg(_draw(draw))


def draw_curves(
    history: Table | None, injected: Table | None, efficiency: Table | None
) -> dict[str, list[Picture]]:
    """Draw how the training went, and how much is found.

    Parameters
    ----------
    history
        Training history.
    injected
        Scores of sequences with and without injected objects.
    efficiency
        Detection efficiency.

    Returns
    -------
    pictures : `dict` [`str`, `list` [`Picture`]]
        Pictures of the ``training``, and of the ``efficiency``.
    """
    training, curves = [], []
    if history is not None and len(history):
        training.append(_picture("Loss", "Loss in each epoch", lambda axes: draw_losses(axes, history)))
        training.append(
            _picture(
                "Validation",
                "Area under the ROC curve in each epoch",
                lambda axes: _draw_areas(axes, history),
            )
        )
    test = None if injected is None else injected[injected["split"] == SPLITS.index("test")]
    if test is not None and len(test):
        columns = [np.asarray(test[name]) for name in ("logit", "injected", "snr")]
        curves.append(
            _picture("ROC by S/N", "ROC curve of the test sequences", lambda axes: draw_roc(axes, *columns))
        )
    if efficiency is not None and len(efficiency):
        curves += [_panel(title, draw, efficiency) for title, draw in EFFICIENCY_PANELS.items()]
    return {"training": training, "efficiency": curves}


def _panel(title: str, draw: Callable[[Axes, Table], None], table: Table) -> Picture:
    return _picture(title, title, lambda axes: draw(axes, table))


def _picture(title: str, alternative: str, draw: Callable[[Axes], None]) -> Picture:
    return Picture(uri=to_svg(_draw(draw)), title=title, alternative=alternative)


def _draw_areas(axes: Axes, history: Table) -> None:
    axes.plot(history["epoch"], history["validation_roc_area"], ".-", color="tab:orange")
    axes.set(xlabel="Epoch", ylabel="Area under the ROC curve")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def draw_light_curve(mjd: np.ndarray, band: np.ndarray, flux: np.ndarray, flux_err: np.ndarray) -> str:
    """Draw the fluxes of a candidate, and means of some successive ones.

    Parameters
    ----------
    mjd
        Times, ``(n_times,)``.
    band
        Index in `BANDS` of each image.
    flux, flux_err
        Fluxes and their standard deviations, nJy; NaN where there is none.
    """

    def draw(axes: Axes) -> None:
        measured = np.isfinite(flux) & np.isfinite(flux_err)
        begin = np.min(mjd[measured], initial=np.inf)
        span = np.max(mjd[measured], initial=-np.inf) - begin
        factor, unit = (24.0, "hours") if span < 3 else (1.0, "days")
        for index in np.unique(band[measured]):
            rows = np.flatnonzero(measured & (band == index))
            x = factor * (mjd[rows] - begin)
            _draw_band(axes, x, flux[rows], flux_err[rows], int(index))
        axes.axhline(0.0, color="0.6", lw=0.8)
        axes.set(xlabel=f"Time since the first image ({unit})", ylabel="Flux (nJy)")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(ncols=3, fontsize=9)

    return to_png(_draw(draw, (5.2, 3.2)))


def _draw_band(axes: Axes, x: np.ndarray, flux: np.ndarray, flux_err: np.ndarray, band: int) -> None:
    colour = _BAND_COLOURS[band]
    n_groups = min(_MAX_GROUPS, len(x) // _GROUP)
    alone = n_groups < 2
    label = BANDS[band] if alone else None
    alpha = 1.0 if alone else 0.3
    axes.errorbar(x, flux, flux_err, fmt=".", ms=4, lw=0.8, color=colour, alpha=alpha, label=label)
    if alone:
        return
    means = []
    for rows in np.array_split(np.arange(len(x)), n_groups):
        weight = flux_err[rows] ** -2.0
        mean = np.average(flux[rows], weights=weight)
        means.append((np.average(x[rows], weights=weight), mean, np.sum(weight) ** -0.5))
    x, flux, flux_err = np.transpose(means)
    axes.errorbar(x, flux, flux_err, fmt="o", ms=6, color=colour, label=f"{BANDS[band]}, means")
