# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sums of a matched filter over the pixels of single images, and their
derivatives by the position of the source.
"""

from __future__ import annotations

__all__ = ("PixelSums", "pixel_sums", "pixel_weights", "positions_inside")

import dataclasses

import numpy as np

from .._sequences import ImageSequences
from ..injection import _shift_matrix, is_on_image

DERIVATIVE_STEP = 0.01
"""Step of the PSF's derivative, pixels; for a Gaussian of 1.3 pixels the
relative error of the slope is below 1e-4.
"""


@dataclasses.dataclass(kw_only=True, eq=False)
class PixelSums:
    """Sums over the pixels of each image, of weight w = 1 / (variance *
    noise_scale), PSF P at the source and image d.

    Those by position are in pixels of the image, last axes x and y.
    """

    psi: np.ndarray
    """Sum of w P d, ``(n, n_times)``, nJy^-1."""

    phi: np.ndarray
    """Sum of w P^2, ``(n, n_times)``, nJy^-2."""

    data_gradient: np.ndarray
    """Sum of w P' d, ``(n, n_times, 2)``."""

    psf_gradient: np.ndarray
    """Sum of w P' P, ``(n, n_times, 2)``."""

    curvature: np.ndarray
    """Sum of w P' P', ``(n, n_times, 2, 2)``."""


def pixel_weights(sequences: ImageSequences) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and the weights that a matched filter gives pixels.

    Parameters
    ----------
    sequences
        Image sequences.

    Returns
    -------
    image : `numpy.ndarray`
        Images, float32 ``(n, n_times, height, width)``, nJy; 0 in pixels that
        do not count.
    weight : `numpy.ndarray`
        1 / (variance * noise_scale), likewise, nJy^-2.
    """
    noise = sequences.variance * sequences.noise_scale[..., np.newaxis, np.newaxis]
    known = sequences.valid.copy()
    for array in (sequences.psf, sequences.pixel_to_sky):
        known &= np.isfinite(array).all(axis=(-2, -1))
    counts = sequences.usable & known[..., np.newaxis, np.newaxis]
    counts &= np.isfinite(sequences.image) & np.isfinite(noise) & (noise > 0)
    image = np.where(counts, sequences.image, np.float32(0))
    return image, np.divide(1, noise, out=np.zeros_like(noise), where=counts)


def pixel_sums(sequences: ImageSequences, x: np.ndarray, y: np.ndarray, inside: np.ndarray) -> PixelSums:
    """Sum over the pixels of each image.

    Parameters
    ----------
    sequences
        Image sequences.
    x, y
        Position of the source in each image, ``(n, n_times)``, pixels.
    inside
        Images to sum in, ``(n, n_times)``; the sums of others are 0.

    Returns
    -------
    sums : `PixelSums`
        The sums.
    """
    image, weight = pixel_weights(sequences)
    inside = inside & np.any(weight > 0, axis=(-2, -1))
    data, weight = image[inside].astype(float), weight[inside].astype(float)
    profile, gradient = _profiles(sequences.psf[inside], x[inside], y[inside], data.shape[-2:])
    weighted_profile, weighted_gradient = weight * profile, weight[:, np.newaxis] * gradient
    values = {
        "psi": np.einsum("myx,myx->m", weighted_profile, data),
        "phi": np.einsum("myx,myx->m", weighted_profile, profile),
        "data_gradient": np.einsum("mayx,myx->ma", weighted_gradient, data),
        "psf_gradient": np.einsum("mayx,myx->ma", weighted_gradient, profile),
        "curvature": np.einsum("mayx,mbyx->mab", weighted_gradient, gradient),
    }
    sums = {name: np.zeros((*inside.shape, *value.shape[1:])) for name, value in values.items()}
    for name, value in values.items():
        sums[name][inside] = value
    return PixelSums(**sums)


def _profiles(
    psf: np.ndarray, x: np.ndarray, y: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the PSFs as `shift_psf` moves them, ``(m, height, width)``, and
    their derivatives by the position, ``(m, 2, height, width)``.
    """
    k = psf.shape[-1]
    psf = psf.astype(float)
    matrices = []
    for position, size in ((y, shape[0]), (x, shape[1])):
        steps = [_shift_matrix(position + step * DERIVATIVE_STEP, k, size) for step in (-1, 0, 1)]
        matrices.append((steps[1], (steps[2] - steps[0]) / (2 * DERIVATIVE_STEP)))
    (rows, rows_slope), (columns, columns_slope) = matrices
    columns, columns_slope = np.swapaxes(columns, -1, -2), np.swapaxes(columns_slope, -1, -2)
    moved = rows @ psf
    gradient = np.stack([moved @ columns_slope, rows_slope @ psf @ columns], axis=1)
    return moved @ columns, gradient


def positions_inside(
    sequences: ImageSequences, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions without NaN, and which are on a valid image.

    Parameters
    ----------
    sequences
        Image sequences.
    x, y
        Positions, ``(n, n_times)``, pixels; NaN is outside.

    Returns
    -------
    x, y : `numpy.ndarray`
        Positions, 0 where outside.
    inside : `numpy.ndarray` of `bool`
        Which are on a valid image.
    """
    inside = sequences.valid & is_on_image(x, y, sequences.height, sequences.width)
    return np.where(inside, x, 0.0), np.where(inside, y, 0.0), inside
