# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What networks are fed: arrays made out of the columns of image sequences,
and the symmetries that training makes use of.
"""

from __future__ import annotations

__all__ = (
    "PIXEL_COLUMNS",
    "PIXEL_SCALE_COLUMNS",
    "PIXEL_SCALE_TOLERANCE",
    "augment",
    "has_usable_pixels",
    "median_pixel_scale",
    "significance",
)

from collections.abc import Mapping

import numpy as np

from .._sequences import UNUSABLE
from ..geometry import pixel_area

PIXEL_COLUMNS = ("image", "variance", "mask")
"""Columns that `significance` and `has_usable_pixels` need."""

PIXEL_SCALE_COLUMNS = ("valid", "pixel_to_sky")
"""Columns that `median_pixel_scale` needs."""

PIXEL_SCALE_TOLERANCE = 0.01
"""Relative difference up to which pixel scales count as equal: over 15 pixels
it adds up to less than a sixth of a pixel, and it leaves room for the optical
distortion of images on their own grids.
"""


def significance(columns: Mapping[str, np.ndarray], softening: float) -> np.ndarray:
    """Return the compressed significance of each pixel.

    Parameters
    ----------
    columns
        Arrays of `PIXEL_COLUMNS`, ``(n, n_times, height, width)``.
    softening
        Significance s up to which the compression is about linear.

    Returns
    -------
    significance : `numpy.ndarray`
        ``s * arcsinh(image / sqrt(variance) / s)``, float32
        ``(n, n_times, height, width)``; 0, the mean of pure noise, where the
        mask, the image or the variance says that a pixel is unusable, and in
        padding.

    Notes
    -----
    The compression keeps the few pixels of stars and cosmic rays, a thousand
    times the noise, from dominating the batch normalisation: at s = 5 they
    come out at 30, while an object of S/N 15 in a sequence, below 1 in each of
    its pixels, stays what it is.

    ``noise_scale`` is not applied. It is about the correlation of neighbouring
    pixels, by which a matched filter's noise is more than the variance of
    single pixels says. The network sees the correlated pixels themselves, and
    ``image / sqrt(variance)`` has unit variance with the variance as it is.
    """
    values, usable = _pixel_significance(columns)
    compressed = np.float32(softening) * np.arcsinh(values / np.float32(softening))
    return np.where(usable, compressed, np.float32(0.0))


def has_usable_pixels(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Tell which sequences have at least one usable pixel.

    Parameters
    ----------
    columns
        Arrays of `PIXEL_COLUMNS`, ``(n, n_times, height, width)``.

    Returns
    -------
    has_usable : `numpy.ndarray`
        Bool, ``(n,)``.
    """
    _, usable = _pixel_significance(columns)
    return np.any(usable, axis=(1, 2, 3))


def median_pixel_scale(columns: Mapping[str, np.ndarray]) -> float:
    """Return the median pixel scale of the valid images.

    Parameters
    ----------
    columns
        Arrays of `PIXEL_SCALE_COLUMNS`, ``(n, n_times)`` and
        ``(n, n_times, 2, 3)``.

    Returns
    -------
    pixel_scale : `float`
        Square root of the area of a pixel, arcsec; NaN if no valid image has
        a finite one.
    """
    scales = np.sqrt(pixel_area(columns["pixel_to_sky"][columns["valid"]]))
    scales = scales[np.isfinite(scales)]
    return float(np.median(scales)) if len(scales) else float("nan")


def augment(
    arrays: Mapping[str, np.ndarray],
    axes: Mapping[str, str],
    n_valid: np.ndarray,
    rng: np.random.Generator,
    *,
    size: tuple[int, int] | None = None,
) -> None:
    """Replace sequences by equally likely ones, in place.

    Each is flipped and turned by a multiple of 90 deg (of 180 deg if a window
    is not square) at random, and runs backwards in time or not: the sky has no
    preferred direction, and the reverse of a drift is a drift.

    Parameters
    ----------
    arrays
        Inputs of the network, arrays with one row a sequence.
    axes
        Letters of each input's axes after the first, as in
        `Architecture.inputs`.
    n_valid
        Number of images of each sequence, ``(n,)``. Only these change their
        order: the padding stays at the end.
    rng
        Source of randomness.
    size
        Height and width of the images of a sequence, pixels, for inputs that
        are affine maps.

    Notes
    -----
    All inputs of a sequence change together; each by the letters of its axes.

    - ``hw`` at the end: images or PSFs, turned about their middle.
    - ``t`` at the beginning: reversed with the images.
    - ``c`` at the beginning: reversed, whatever the number of images.
    - ``T`` at the beginning: the same, of times. The order of time stays as it
      was, and so do the first and the last: t becomes first + last - t, so
      that each image keeps its distance in time from its neighbours.
    - ``v`` at the end: displacements from the middle along x and y, pixels.
    - ``sp`` at the end: affine maps ``(2, 3)`` from pixels (x, y, 1) to the
      sky; a place in the turned image keeps its position on the sky.
    """
    turns = rng.integers(4, size=len(n_valid))
    flips, reversals = rng.integers(2, size=(2, len(n_valid))).astype(bool)
    images = [array for name, array in arrays.items() if axes[name].endswith("hw")]
    if any(array.shape[-1] != array.shape[-2] for array in images):
        turns = turns // 2 * 2
    for name, array in arrays.items():
        for row in range(len(n_valid)):
            values = _turn(array[row], axes[name], turns[row], flips[row], size)
            if reversals[row]:
                values = _reverse(values, axes[name], n_valid[row])
            array[row] = values.copy()


def _turn(
    values: np.ndarray, letters: str, n_turns: int, flip: bool, size: tuple[int, int] | None
) -> np.ndarray:
    """Turn by quarters, y to x, and then flip x."""
    if letters.endswith("hw"):
        values = np.rot90(values, n_turns, axes=(-2, -1))
        return values[..., ::-1] if flip else values
    if letters.endswith("v"):
        return values @ _turn_matrix(n_turns, flip).T.astype(values.dtype)
    if letters.endswith("sp"):
        if size is None:
            raise ValueError("Affine maps cannot be turned without the size of the images.")
        middle = (np.array([size[1], size[0]]) - 1) / 2
        # The inverse of a rotation or reflection is its transpose.
        linear = values[..., :2] @ _turn_matrix(n_turns, flip).T
        offset = values[..., 2] + (values[..., :2] - linear) @ middle
        return np.concatenate([linear, offset[..., np.newaxis]], axis=-1)
    return values


def _turn_matrix(n_turns: int, flip: bool) -> np.ndarray:
    """Return what `_turn` does to a displacement (x, y)."""
    quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])
    matrix = np.linalg.matrix_power(quarter, int(n_turns))
    return np.diag([-1.0, 1.0]) @ matrix if flip else matrix


def _reverse(values: np.ndarray, letters: str, n_images: int) -> np.ndarray:
    """Reverse the order of the images before the padding."""
    if letters.startswith("c"):
        return values[::-1]
    if not letters.startswith(("t", "T")) or n_images == 0:
        return values
    reverse = values[:n_images][::-1]
    if letters.startswith("T"):
        reverse = values[0] + values[n_images - 1] - reverse
    return np.concatenate([reverse, values[n_images:]])


def _pixel_significance(columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    variance = columns["variance"]
    usable = ((columns["mask"] & UNUSABLE) == 0) & np.isfinite(variance) & (variance > 0)
    values = np.zeros(variance.shape, dtype=np.float32)
    # A tiny variance overflows; its pixel is then one of those that are not
    # finite.
    with np.errstate(over="ignore"):
        np.divide(columns["image"], np.sqrt(variance, where=usable, out=values), out=values, where=usable)
    usable &= np.isfinite(values)
    values[~usable] = 0.0
    return values, usable
