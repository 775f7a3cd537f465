# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drawing galaxies through the PSF of a visit.

The profiles are those of Spergel, whose Fourier transforms are known in
closed form: the index 0.5 is an exponential disk and -0.6 is near to a de
Vaucouleurs bulge (Spergel 2010, ApJS 191, 58). Many are convolved at once.
"""

from __future__ import annotations

__all__ = ("draw_galaxies",)

import galsim
import numpy as np
import scipy.fft

from ._camera import sky_jacobian
from ._psf import VisitPsf, add_stamps
from ._scene import Galaxies

DISK, BULGE = 0.5, -0.6
"""Spergel's index of disks and bulges."""

_STAMP_SIZES = (64, 128, 256)
"""Widths of the images that galaxies are drawn on, pixels."""

_REACH = 8.0
"""Half-light radii from its centre up to which a galaxy is drawn."""

_BATCH = 64
"""Number of galaxies drawn at once."""


def draw_galaxies(
    image: np.ndarray,
    galaxies: Galaxies,
    *,
    x: np.ndarray,
    y: np.ndarray,
    flux: np.ndarray,
    psf: VisitPsf,
    rotation: float,
) -> None:
    """Add galaxies, convolved with the PSF, to an image.

    Parameters
    ----------
    image
        Image to add to, in place.
    galaxies
        The galaxies.
    x, y
        Their positions, pixels.
    flux
        Their fluxes.
    psf
        The PSF.
    rotation
        Position angle of the y axis, deg east of north.
    """
    covariance = _covariances(galaxies, rotation, psf.pixel_scale)
    needed = 2 * _REACH * galaxies.half_light_radius / psf.pixel_scale + psf.size
    size_index = np.minimum(np.searchsorted(_STAMP_SIZES, needed), len(_STAMP_SIZES) - 1)
    column, row = np.floor(x + 0.5).astype(int), np.floor(y + 0.5).astype(int)
    index = np.where(galaxies.is_bulge, BULGE, DISK)
    for i, size in enumerate(_STAMP_SIZES):
        half = size // 2
        reached = (column > -half) & (column < image.shape[1] + half)
        reached &= (row > -half) & (row < image.shape[0] + half)
        chosen = np.flatnonzero((size_index == i) & reached)
        for begin in range(0, len(chosen), _BATCH):
            batch = chosen[begin : begin + _BATCH]
            stamps = _draw_stamps(
                size,
                psf.kernels(x[batch], y[batch]),
                covariance[batch],
                index[batch],
                x[batch] - column[batch],
                y[batch] - row[batch],
            )
            add_stamps(image, stamps * flux[batch, None, None], column[batch] - half, row[batch] - half)


def _covariances(galaxies: Galaxies, rotation: float, pixel_scale: float) -> np.ndarray:
    """Return the matrices C of k^T C k, the squared wave number at the scale
    radius, pixels^2: ``(n_galaxies, 2, 2)``.
    """
    radius = galaxies.half_light_radius * np.where(
        galaxies.is_bulge, _scale_radius(BULGE), _scale_radius(DISK)
    )
    major, minor = radius / np.sqrt(galaxies.axis_ratio), radius * np.sqrt(galaxies.axis_ratio)
    sin, cos = np.sin(np.radians(galaxies.position_angle)), np.cos(np.radians(galaxies.position_angle))
    axes = np.array([[major * sin, minor * cos], [major * cos, -minor * sin]]).transpose(2, 0, 1)
    # The optical distortion changes shapes by some 1e-3, which is left out.
    to_pixels = np.linalg.inv(sky_jacobian(rotation, pixel_scale))
    axes = np.einsum("ij,njk->nik", to_pixels, axes)
    return np.einsum("nik,njk->nij", axes, axes)


def _scale_radius(index: float) -> float:
    """Return the scale radius of a profile of half-light radius 1."""
    return float(galsim.Spergel(nu=index, half_light_radius=1.0).scale_radius)


def _draw_stamps(
    size: int,
    kernels: np.ndarray,
    covariance: np.ndarray,
    index: np.ndarray,
    dx: np.ndarray,
    dy: np.ndarray,
) -> np.ndarray:
    """Return images of galaxies of flux 1 at (dx, dy) from the pixel
    ``size // 2``: ``(n_galaxies, size, size)``.
    """
    # Single precision is a hundred times better than the noise, and faster.
    kx = (2 * np.pi * np.fft.rfftfreq(size)).astype(np.float32)[np.newaxis, np.newaxis, :]
    ky = (2 * np.pi * np.fft.fftfreq(size)).astype(np.float32)[np.newaxis, :, np.newaxis]
    c = covariance.astype(np.float32)[:, :, :, np.newaxis, np.newaxis]
    k_squared = c[:, 0, 0] * kx**2 + 2 * c[:, 0, 1] * kx * ky + c[:, 1, 1] * ky**2
    transform = (1.0 + k_squared) ** _as_column(-1.0 - index)
    half = size // 2 - kernels.shape[-1] // 2
    transform = transform * scipy.fft.rfft2(kernels.astype(np.float32), s=(size, size))
    transform *= np.exp(np.complex64(-1j) * (kx * _as_column(dx + half)))
    transform *= np.exp(np.complex64(-1j) * (ky * _as_column(dy + half)))
    return scipy.fft.irfft2(transform, s=(size, size))


def _as_column(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)[:, np.newaxis, np.newaxis]
