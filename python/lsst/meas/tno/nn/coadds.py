# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Coadds of the images that follow each other in a sequence."""

from __future__ import annotations

__all__ = ("COADD_COLUMNS", "COADD_NORMALISATION", "coadd_snr", "compressed_coadds")

from collections.abc import Mapping

import numpy as np

from .._kernels import jit
from .trajectory_features import inner_psf, weighted_images

COADD_COLUMNS = ("image", "variance", "mask", "psf", "noise_scale", "valid", "mjd")
"""Columns of image sequences that coadds are made of."""

COADD_NORMALISATION = "softening * arcsinh(psi / sqrt(phi) / softening); 0 where unusable"
"""What `compressed_coadds` does to the pixels."""

MIN_INFORMATION = 0.05
"""Information at a pixel, as a fraction of the most in its coadd, below which
nothing is said of it.
"""


def compressed_coadds(columns: Mapping[str, np.ndarray], n_coadds: int, softening: float) -> np.ndarray:
    """Return what `coadd_snr` does, with what is bright compressed.

    Parameters
    ----------
    columns
        Arrays of `COADD_COLUMNS`, ``(n, ...)``.
    n_coadds
        Number of coadds.
    softening
        S/N s up to which a pixel stays about as it is: it becomes
        ``s * arcsinh(snr / s)``.
    """
    scale = np.float32(softening)
    return scale * np.arcsinh(coadd_snr(columns, n_coadds) / scale)


def coadd_snr(columns: Mapping[str, np.ndarray], n_coadds: int) -> np.ndarray:
    """Return the S/N of point sources in coadds of images.

    Parameters
    ----------
    columns
        Arrays of `COADD_COLUMNS`, ``(n, ...)``.
    n_coadds
        Number of coadds, each of the images in an equal part of the time from
        the first to the last valid image.

    Returns
    -------
    snr : `numpy.ndarray`
        S/N of a point source at each pixel, float32 ``(n, n_coadds, height,
        width)``; 0 where there is no or too little information.

    Notes
    -----
    Images are added with their inverse variance, and filtered with the mean
    PSF of a coadd. An object that moves 7 pixels in all moves 0.7 in one of 10
    coadds, which costs 0.3 % of its S/N for a PSF of 1.8 pixels.
    """
    columns = {**columns, "valid": columns["valid"] & np.isfinite(columns["mjd"])}
    image, weight = weighted_images(columns)
    psf = inner_psf(columns["psf"])
    snr = np.zeros((len(image), n_coadds, *image.shape[2:]), dtype=np.float32)
    _fill(image * weight, weight, psf, _coadd_of(columns["mjd"], columns["valid"], n_coadds), snr)
    return snr


def _coadd_of(mjd: np.ndarray, valid: np.ndarray, n_coadds: int) -> np.ndarray:
    """Return the coadd of each image, ``(n, n_times)``; -1 for none."""
    first = np.where(valid, mjd, np.inf).min(axis=1, keepdims=True)
    last = np.where(valid, mjd, -np.inf).max(axis=1, keepdims=True)
    span = np.where(np.isfinite(first), last - first, 0.0)
    offset = np.where(valid, mjd, 0.0) - np.where(np.isfinite(first), first, 0.0)
    fraction = np.divide(offset, span, out=np.zeros(mjd.shape), where=valid & (span > 0))
    coadd = np.minimum((fraction * n_coadds).astype(int), n_coadds - 1)
    return np.where(valid, coadd, -1)


@jit
def _fill(weighted, weight, psf, coadd, snr):  # type: ignore[no-untyped-def]
    """Write the S/N of all coadds."""
    n_times, height, width = weight.shape[1:]
    size = psf.shape[-1]
    image, information = np.empty((2, height, width), np.float32)
    kernel = np.empty((size, size), np.float32)
    psi, phi = np.empty((2, height, width), np.float32)
    for row in range(len(weight)):
        for k in range(snr.shape[1]):
            image[:], information[:], kernel[:] = np.float32(0), np.float32(0), np.float32(0)
            n_images = 0
            for t in range(n_times):
                if coadd[row, t] == k:
                    image += weighted[row, t]
                    information += weight[row, t]
                    kernel += psf[row, t]
                    n_images += 1
            if n_images > 0:
                kernel /= np.float32(n_images)
                _correlate(image, information, kernel, psi, phi)
                least = np.float32(MIN_INFORMATION) * phi.max()
                for y in range(height):
                    for x in range(width):
                        if phi[y, x] > least:
                            snr[row, k, y, x] = psi[y, x] / np.sqrt(phi[y, x])


@jit
def _correlate(image, information, kernel, psi, phi):  # type: ignore[no-untyped-def]
    """Write psi and phi of an image for a PSF."""
    height, width = image.shape
    half = len(kernel) // 2
    psi[:], phi[:] = np.float32(0), np.float32(0)
    for j in range(len(kernel)):
        for i in range(len(kernel)):
            value = kernel[j, i]
            square = value * value
            first = max(0, half - i)
            last = max(first, min(width, width + half - i))
            for y in range(max(0, half - j), min(height, height + half - j)):
                into, into_phi = psi[y, first:last], phi[y, first:last]
                source = image[y + j - half, first + i - half : last + i - half]
                weights = information[y + j - half, first + i - half : last + i - half]
                for x in range(len(into)):
                    into[x] += value * source[x]
                    into_phi[x] += square * weights[x]
