# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a detector and its processing do to the pixels of an image.

Pixel values are in nJy. Functions that change an image do so in place.
"""

from __future__ import annotations

__all__ = (
    "bad_columns",
    "detect",
    "dilate",
    "draw_cosmic_rays",
    "interpolate_rows",
    "saturate",
)

import numpy as np
from scipy.ndimage import gaussian_filter

_COSMIC_RAY_LENGTH = 8.0
"""Mean length of the track of a cosmic ray, pixels."""

_COSMIC_RAY_CHARGE = 700.0
"""Median charge that a cosmic ray leaves in a pixel, electrons."""

_DETECTION_THRESHOLD = 5.0
"""S/N from which on a pixel of the smoothed image is detected."""


def bad_columns(width: int, n_max: int, edge: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the bad columns of a detector.

    Parameters
    ----------
    width
        Number of columns.
    n_max
        Largest number of bad ones.
    edge
        Distance that they keep from the edge, pixels.
    rng
        Random numbers.

    Returns
    -------
    columns : `numpy.ndarray` of `int`
        Bad columns, none next to another.
    """
    candidates = np.arange(edge + 1, width - edge - 1, 2)
    n = min(int(rng.integers(0, n_max + 1)), len(candidates))
    return np.sort(rng.choice(candidates, n, replace=False))


def saturate(image: np.ndarray, full_well: float) -> np.ndarray:
    """Let what is above the full well bleed along the columns.

    Parameters
    ----------
    image
        Image to change.
    full_well
        Full well, in the image's unit.

    Returns
    -------
    saturated : `numpy.ndarray` of `bool`
        Pixels that are full, and their neighbours.
    """
    for column in np.flatnonzero((image > full_well).any(axis=0)):
        _bleed(image[:, column], full_well)
    return dilate(image >= full_well, 1)


def _bleed(column: np.ndarray, full_well: float) -> None:
    """Move the charge above the full well up and down to the next pixels that
    have room for it; what passes the end of the column is lost.
    """
    for step in (1, -1):
        excess = np.maximum(column - full_well, 0.0) / (2.0 if step == 1 else 1.0)
        column -= excess
        carried = 0.0
        for row in range(len(column))[::step]:
            carried += excess[row]
            if carried > 0.0 and excess[row] == 0.0:
                taken = min(carried, max(full_well - column[row], 0.0))
                column[row] += taken
                carried -= taken
    np.minimum(column, full_well, out=column)


def draw_cosmic_rays(
    image: np.ndarray, n_rays: int, gain: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Add cosmic rays.

    Parameters
    ----------
    image
        Image to change.
    n_rays
        Number of rays.
    gain
        Electrons per unit of the image.
    rng
        Random numbers.

    Returns
    -------
    tracks : `list` [`numpy.ndarray`]
        Flat indices of the pixels of each.
    """
    height, width = image.shape
    tracks = []
    for _ in range(n_rays):
        x, y, angle = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, np.pi)
        distance = np.arange(0.0, 1.0 + rng.exponential(_COSMIC_RAY_LENGTH), 0.5)
        column = np.floor(x + distance * np.cos(angle)).astype(int)
        row = np.floor(y + distance * np.sin(angle)).astype(int)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        pixels = np.unique(row[inside] * width + column[inside])
        charge = _COSMIC_RAY_CHARGE * np.exp(rng.normal(0.0, 0.6, len(pixels)))
        image.reshape(-1)[pixels] += charge / gain
        tracks.append(pixels)
    return tracks


def interpolate_rows(image: np.ndarray, bad: np.ndarray) -> None:
    """Replace pixels by what lies between their neighbours in the row.

    Parameters
    ----------
    image
        Image to change.
    bad
        Pixels to replace.
    """
    for row in np.flatnonzero(bad.any(axis=1)):
        good = np.flatnonzero(~bad[row])
        if len(good) > 0:
            holes = np.flatnonzero(bad[row])
            image[row, holes] = np.interp(holes, good, image[row, good])


def detect(image: np.ndarray, variance: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Find the pixels of sources, as a detection task does.

    Parameters
    ----------
    image
        Image; its sky is 0.
    variance
        Variance of blank sky.
    sigma
        Standard deviation of the Gaussian to smooth with, pixels.

    Returns
    -------
    positive, negative : `numpy.ndarray` of `bool`
        Pixels that are 5 sigma above or below the sky in the smoothed image,
        and those around them.
    """
    smoothed = gaussian_filter(image.astype(np.float32), sigma, mode="nearest", truncate=3.0)
    # The sum of squares of a normalised Gaussian kernel is 1/(4 pi sigma^2).
    threshold = _DETECTION_THRESHOLD * np.sqrt(variance / (4.0 * np.pi)) / sigma
    reach = max(1, round(sigma))
    return dilate(smoothed > threshold, reach), dilate(smoothed < -threshold, reach)


def dilate(mask: np.ndarray, n_pixels: int) -> np.ndarray:
    """Return a mask with the pixels around those that are set, too.

    Parameters
    ----------
    mask
        Mask to dilate.
    n_pixels
        How far to reach along a row or column, pixels.

    Returns
    -------
    dilated : `numpy.ndarray` of `bool`
        The mask, dilated by a diamond.
    """
    for _ in range(n_pixels):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        mask = grown
    return mask
