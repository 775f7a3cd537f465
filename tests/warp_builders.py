# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cutouts for the tests of warping."""

from __future__ import annotations

import math

import numpy as np

from lsst.meas.tno import ImageSequences
from lsst.meas.tno.geometry import apply_affine, pixel_area
from lsst.meas.tno.warping import warp_sequences

ALL_KERNELS = ("lanczos3", "lanczos5", "bicubic", "bilinear")


def affine_about(
    size: int, angle: float, *, scale: float = 0.2, parity: int = 1, offset: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """Return the map from pixels to sky of a cutout whose middle, moved by
    an offset in pixels, is the tangent point. Angles are in degrees.
    """
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    linear = scale * np.array([[-parity * cos, sin], [parity * sin, cos]])
    centre = (size - 1) / 2 + np.array(offset)
    return np.column_stack([linear, -linear @ centre])


def random_affines(rng: np.random.Generator, shape: tuple[int, ...], size: int) -> np.ndarray:
    """Return maps of any rotation, parity and sub-pixel shift, and of
    slightly different scales.
    """
    flat = [
        affine_about(
            size,
            rng.uniform(0, 360),
            scale=rng.uniform(0.19, 0.21),
            parity=int(rng.choice([-1, 1])),
            offset=tuple(rng.uniform(-0.5, 0.5, 2)),
        )
        for _ in range(math.prod(shape))
    ]
    return np.reshape(flat, (*shape, 2, 3))


def blank_cutouts(
    affines: np.ndarray, size: int, *, psf_size: int = 25, sigma: float = 1.0
) -> ImageSequences:
    """Return sequences of empty images with maps ``(n, n_times, 2, 3)``."""
    n, n_times = affines.shape[:2]
    sequences = ImageSequences.full(n, T=n_times, H=size, W=size, K=psf_size)
    sequences.sequence_id[:] = np.arange(n)
    sequences.centre_ra[:], sequences.centre_dec[:] = 40.0, -30.0
    sequences.valid[:] = True
    sequences.visit[:], sequences.band[:] = np.arange(n_times), 2
    sequences.mjd[:] = 60000.0 + np.arange(n_times)
    sequences.image[:], sequences.variance[:], sequences.mask[:] = 0.0, sigma**2, 0
    sequences.noise_scale[:] = 1.0
    sequences.pixel_to_sky[:] = affines
    sequences.psf[:] = 0.0
    sequences.psf[:, :, psf_size // 2, psf_size // 2] = 1.0
    return sequences


def profile(dx: np.ndarray, dy: np.ndarray, fwhm: float, beta: float | None) -> np.ndarray:
    """Return a Moffat profile, or without beta a Gaussian one, of unit flux
    for a unit area of the pixel.
    """
    r2 = dx**2 + dy**2
    if beta is None:
        sigma2 = fwhm**2 / (8 * math.log(2))
        return np.exp(-r2 / (2 * sigma2)) / (2 * math.pi * sigma2)
    a2 = fwhm**2 / 4 / (2 ** (1 / beta) - 1)
    return (beta - 1) / (math.pi * a2) * (1 + r2 / a2) ** -beta


def draw_stars(
    affines: np.ndarray, size: int, xi: np.ndarray, eta: np.ndarray, fwhm: float, beta: float | None
) -> np.ndarray:
    """Return images of stars of unit flux at sky positions, arcsec; ``fwhm``
    is that of the PSF with the pixel in it.
    """
    y, x = np.mgrid[:size, :size]
    star_xi, star_eta = apply_affine(affines[..., None, None, :, :], x, y)
    value = profile(
        star_xi - np.asarray(xi)[..., None, None], star_eta - np.asarray(eta)[..., None, None], fwhm, beta
    )
    return value * pixel_area(affines)[..., None, None]


def draw_psfs(affines: np.ndarray, size: int, fwhm: float, beta: float | None) -> np.ndarray:
    """Return the PSFs on native pixels, of sum 1 and centred."""
    centred = affines.copy()
    centred[..., 2] = -affines[..., :2].sum(axis=-1) * (size // 2)
    psf = draw_stars(centred, size, np.zeros(affines.shape[:-2]), np.zeros(affines.shape[:-2]), fwhm, beta)
    return psf / psf.sum(axis=(-2, -1), keepdims=True)


def impulse_responses(affine: np.ndarray, size: int, warp_size: int, kernel: str) -> np.ndarray:
    """Return the weights of every input pixel in every output pixel,
    ``(warp_size**2, size**2)``, from images with one pixel of 1 each.
    """
    sequences = blank_cutouts(np.broadcast_to(affine, (1, size**2, 2, 3)), size)
    sequences.image.reshape(size**2, size**2)[np.diag_indices(size**2)] = 1.0
    warped = warp_sequences(sequences, warp_size=warp_size, kernel=kernel)
    return warped.image.reshape(size**2, warp_size**2).T.astype(float)
