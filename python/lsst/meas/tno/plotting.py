# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of image sequences."""

from __future__ import annotations

__all__ = ("coadd_images", "plot_coadds", "plot_sequence", "shift_and_stack")

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from scipy.ndimage import shift

from ._sequences import ImageSequences
from .geometry import pixel_area
from .pictures import robust_range

MARKER = "tab:red"
"""Colour of what is drawn over images."""


def coadd_images(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the weighted mean of images.

    Parameters
    ----------
    image
        Images, ``(n_times, height, width)``.
    weight
        Weights of their pixels, of the same shape; 0 for those to leave out,
        whatever their value.

    Returns
    -------
    coadd : `numpy.ndarray`
        Mean, ``(height, width)``; NaN where no pixel has a weight.
    """
    weighted = np.where(weight > 0, image, 0.0) * weight
    return _divide(weighted.sum(axis=0), weight.sum(axis=0))


def shift_and_stack(image: np.ndarray, weight: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Return the weighted mean of images that are shifted back first.

    Shifts are linear interpolations of weight and weighted image: good for
    looking at, too wide in the noise for measuring.

    Parameters
    ----------
    image
        Images, ``(n_times, height, width)``.
    weight
        Weights of their pixels, of the same shape; 0 for those to leave out,
        whatever their value.
    dx, dy
        Offset, in pixels, of what is followed in each image: it is added up
        where it is at offset 0, ``(n_times,)``. Images with a NaN are left
        out.

    Returns
    -------
    coadd : `numpy.ndarray`
        Mean, ``(height, width)``; NaN where no pixel has a weight.
    """
    total = np.zeros(image.shape[1:])
    total_weight = np.zeros(image.shape[1:])
    for index in np.flatnonzero(np.isfinite(dx) & np.isfinite(dy)):
        back = (-dy[index], -dx[index])
        weighted = np.where(weight[index] > 0, image[index], 0.0) * weight[index]
        total += shift(weighted, back, order=1)
        total_weight += shift(weight[index], back, order=1)
    # Below this the weight is what is left of one image's edge.
    smallest = 1e-3 * total_weight.max(initial=0.0)
    return _divide(total, np.where(total_weight > smallest, total_weight, 0.0))


def plot_sequence(
    sequences: ImageSequences, row: int, x: np.ndarray, y: np.ndarray, *, n_images: int = 10, title: str = ""
) -> Figure:
    """Plot some images of a sequence, their mean, and their mean along a
    track.

    Parameters
    ----------
    sequences
        Image sequences.
    row
        Row of the one to plot.
    x, y
        Pixel position of the object in each image, ``(n_times,)``; NaN where
        it has none.
    n_images
        Number of images to show, evenly spaced over the sequence.
    title
        Title of the figure.

    Returns
    -------
    figure : `matplotlib.figure.Figure`
        Figure without a GUI, to be saved with ``savefig``. Unusable pixels
        are grey.

    Raises
    ------
    ValueError
        Raised if the sequence has no usable image that has a position.
    """
    usable = sequences.usable[row]
    shown = np.flatnonzero(sequences.valid[row] & usable.any(axis=(1, 2)) & np.isfinite(x) & np.isfinite(y))
    if len(shown) == 0:
        raise ValueError(f"Sequence {row} has no usable image with a position on the track.")
    shown = shown[np.unique(np.linspace(0, len(shown) - 1, n_images).round().astype(int))]
    figure = Figure(figsize=(1.25 * n_images + 1.0, 6.6), layout="constrained")
    figure.suptitle(title)
    (top,), (bottom,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.0, 2.3))
    _plot_images(top, sequences, row, shown, x, y)
    _plot_coadds(bottom, sequences, row, x, y)
    return figure


def plot_coadds(sequences: ImageSequences, row: int, x: np.ndarray, y: np.ndarray) -> Figure:
    """Plot the mean of a sequence, and its mean along a track.

    Parameters
    ----------
    sequences
        Image sequences.
    row
        Row of the one to plot.
    x, y
        Pixel position of the object in each image, ``(n_times,)``; NaN where
        it has none, but somewhere it must have one.

    Returns
    -------
    figure : `matplotlib.figure.Figure`
        Figure without a GUI.
    """
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    _plot_coadds(figure, sequences, row, x, y, marker_size=36)
    return figure


def _plot_images(
    figure: SubFigure, sequences: ImageSequences, row: int, shown: np.ndarray, x: np.ndarray, y: np.ndarray
) -> None:
    """Plot single images, with a circle about the object."""
    images = np.where(sequences.usable[row], sequences.image[row], np.nan)[shown]
    hours = 24 * (sequences.mjd[row] - np.nanmin(sequences.mjd[row]))
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    norm = Normalize(*robust_range(images))
    for panel, index, image in zip(panels, shown, images, strict=True):
        _show(panel, image, norm, title=f"{hours[index]:.2f} h")
        panel.plot(x[index], y[index], "o", mfc="none", ms=16, color=MARKER)
    _add_colour_bar(figure, panels, norm)
    figure.suptitle(f"{len(shown)} of {sequences.valid[row].sum()} images", fontsize="medium")


def _plot_coadds(
    figure: Figure | SubFigure,
    sequences: ImageSequences,
    row: int,
    x: np.ndarray,
    y: np.ndarray,
    marker_size: float = 60,
) -> None:
    """Plot the mean image with the track, and the mean along the track."""
    variance = sequences.variance[row]
    weight = np.where(sequences.usable[row], 1.0, 0.0)
    np.divide(weight, variance, out=weight, where=weight > 0)
    centre_x, centre_y = np.nanmean(x), np.nanmean(y)
    mean = coadd_images(sequences.image[row], weight)
    along = shift_and_stack(sequences.image[row], weight, x - centre_x, y - centre_y)
    values = np.concatenate([mean.ravel(), along.ravel()])
    norm = Normalize(*np.nanpercentile(values, [1.0, 99.8]))
    panels = figure.subplots(1, 2)
    _show(panels[0], mean, norm, title="Mean")
    panels[0].plot(x, y, "-", lw=1.5, color=MARKER)
    panels[0].plot(x[sequences.valid[row]][-1:], y[sequences.valid[row]][-1:], ".", color=MARKER)
    _show(panels[1], along, norm, title="Mean, shifted along the track")
    panels[1].plot(centre_x, centre_y, "o", mfc="none", ms=marker_size, mew=1.5, color=MARKER)
    _add_colour_bar(figure, panels, norm)
    first = np.flatnonzero(sequences.valid[row])[0]
    scale = float(np.sqrt(pixel_area(sequences.pixel_to_sky[row, first])))
    panels[0].set_xlabel(f"{sequences.width} x {sequences.height} pixels of {scale:.2f} arcsec")


def _show(axes: Axes, image: np.ndarray, norm: Normalize, *, title: str) -> None:
    axes.imshow(image, origin="lower", interpolation="nearest", norm=norm, cmap="gray_r")
    axes.set_facecolor("lightsteelblue")
    axes.set(title=title, xticks=[], yticks=[])
    height, width = image.shape
    axes.set(xlim=(-0.5, width - 0.5), ylim=(-0.5, height - 0.5))


def _add_colour_bar(figure: Figure | SubFigure, axes: Sequence[Axes], norm: Normalize) -> None:
    figure.colorbar(ScalarMappable(norm, cmap="gray_r"), ax=axes, label="nJy per pixel")


def _divide(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.divide(total, weight, out=np.full(total.shape, np.nan), where=weight > 0)
