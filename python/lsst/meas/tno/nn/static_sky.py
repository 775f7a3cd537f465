# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands still in an image sequence, as each image's PSF shows it."""

from __future__ import annotations

__all__ = ("static_sky",)

import numpy as np

from .._kernels import jit
from .._sequences import BANDS

N_COMPONENTS = 4
"""Principal components of the changes of the PSF that the sky follows:
seeing, ellipticity, and what is left.
"""

PRIOR = 2.0
"""Scatter that is expected of a pixel's response to a component, over the
brightest sky near it times the component's size relative to the PSF. It is
above 1, because the wings of a PSF change more than its core.
"""

OUTLIER = 4.0
"""Distance from the first fit in sigma beyond which a pixel of an image has no
part in the second.
"""

MAX_OUTLIERS = 0.2
"""Part of the images of a pixel above which they are no outliers."""

REACH = 2
"""Pixels on either side in which that brightest sky is looked for."""

NOISE_SQUARED = 6.0
"""Square of the S/N that the brightest of as many pixels of an empty sky has,
about; so much of the brightness is noise.
"""


def static_sky(image: np.ndarray, weight: np.ndarray, band: np.ndarray, psf: np.ndarray) -> np.ndarray:
    """Return the static sky of image sequences as each image shows it.

    Parameters
    ----------
    image, weight
        Pixel values, and their inverse variance, ``(n, n_times, height,
        width)``; 0 where a pixel does not count.
    band
        Index in `BANDS` of each image, ``(n, n_times)``. Images of any other
        value have no sky.
    psf
        PSF of each image, finite, ``(n, n_times, k, k)``.

    Returns
    -------
    sky : `numpy.ndarray`
        Sky of each image, float32, like ``image``.

    Notes
    -----
    A star of flux F at r gives a pixel at x the value F P(x - r), with the
    image's PSF P. With the principal components of the PSFs of a band,
    P = mean + sum over k of c_k E_k, this is linear in the coefficients c_k
    of an image, for each pixel, whatever the sky is: no deconvolution is
    needed. Each pixel's mean and its responses to the c_k are fitted by least
    squares; the responses with a Gaussian prior that allows them only next to
    something bright, so that an empty sky costs no more degrees of freedom
    than its mean. Pixels of a few images that are far from the fit, of flashes
    and cosmic rays, are left out of a second one.
    """
    sky = np.zeros(image.shape, dtype=np.float32)
    for index in range(len(BANDS)):
        is_band = band == index
        rows = np.flatnonzero(is_band.any(axis=1))
        if len(rows) == 0:
            continue
        coefficients, size = _components(psf[rows], is_band[rows] & (psf[rows].any(axis=(2, 3))))
        _fit(image, weight, rows, is_band, coefficients, size, sky)
    return sky


def _components(psf: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the coefficients of the chosen images' PSFs, ``(n, n_times,
    n_components)``, with unit mean square, and the norms of the components
    over that of the mean PSF, ``(n, n_components)``.
    """
    number = np.maximum(chosen.sum(axis=1), 1).astype(np.float32)
    flat = np.where(chosen[:, :, np.newaxis], psf.reshape(*psf.shape[:2], -1), np.float32(0.0))
    mean = flat.sum(axis=1) / number[:, np.newaxis]
    norm = np.linalg.norm(mean, axis=1)
    change = np.where(chosen[:, :, np.newaxis], flat - mean[:, np.newaxis], np.float32(0.0))
    value, vector = np.linalg.eigh(change @ change.transpose(0, 2, 1))
    n_components = min(N_COMPONENTS, value.shape[1])
    value, vector = value[:, -n_components:], vector[:, :, -n_components:]
    coefficients = vector * np.sqrt(number)[:, np.newaxis, np.newaxis]
    size = np.sqrt(np.maximum(value, 0.0) / number[:, np.newaxis])
    size = np.divide(size, norm[:, np.newaxis], out=np.zeros_like(size), where=norm[:, np.newaxis] > 0)
    return coefficients.astype(float), size.astype(float)


@jit
def _fit(image, weight, rows, is_band, coefficients, size, sky):  # type: ignore[no-untyped-def]
    """Write the sky of the images of a band."""
    n_times, height, width = image.shape[1:]
    mean, noise, bright = np.empty((3, height, width))
    n_terms = coefficients.shape[2] + 1
    normal, solution = np.empty((n_terms, n_terms)), np.empty(n_terms)
    terms = np.ones((n_times, n_terms))
    precision, kept = np.zeros(n_terms), np.empty(n_times, np.float32)
    for i in range(len(rows)):
        row = rows[i]
        times = np.flatnonzero(is_band[row])
        _means(image[row], weight[row], times, mean, noise)
        _brightest(mean, noise, bright)
        terms[:, 1:] = coefficients[i]
        for y in range(height):
            for x in range(width):
                if noise[y, x] <= 0:
                    continue
                n = n_terms if bright[y, x] > 0 else 1
                for k in range(1, n):
                    scatter = PRIOR * size[i, k - 1] * bright[y, x]
                    # Without any change, the response is 0.
                    precision[k] = 1.0 / max(scatter * scatter, 1e-12 * noise[y, x])
                kept[:] = weight[row, :, y, x]
                pixel, model = image[row, :, y, x], sky[row, :, y, x]
                _fit_pixel(pixel, kept, times, terms[:, :n], precision, normal, solution, model)
                if _leave_out(pixel, kept, times, model):
                    _fit_pixel(pixel, kept, times, terms[:, :n], precision, normal, solution, model)


@jit
def _fit_pixel(image, weight, times, terms, precision, normal, solution, model):  # type: ignore[no-untyped-def]
    """Write the model of a pixel in the images of a band."""
    n = terms.shape[1]
    _normal_equations(image, weight, times, terms, n, normal, solution)
    for k in range(1, n):
        normal[k, k] += precision[k]
    _solve(normal, solution, n)
    for t in times:
        value = solution[0]
        for k in range(1, n):
            value += solution[k] * terms[t, k]
        model[t] = value


@jit
def _leave_out(image, weight, times, model):  # type: ignore[no-untyped-def]
    """Set the weight of outliers to 0, and tell whether there are any.

    What is so bright that all images are far from the model is an outlier by
    its distance from the median.
    """
    n_outliers, n_images = 0, 0
    for t in times:
        n_images += weight[t] > 0
        n_outliers += (image[t] - model[t]) ** 2 * weight[t] > OUTLIER**2
    if n_outliers == 0:
        return False
    if n_outliers > MAX_OUTLIERS * n_images:
        model[times] = np.median(image[times][weight[times] > 0])
        n_outliers = 0
        for t in times:
            n_outliers += (image[t] - model[t]) ** 2 * weight[t] > OUTLIER**2
        if n_outliers > MAX_OUTLIERS * n_images:
            # The model of the caller is made anew with all of them.
            return True
    for t in times:
        if (image[t] - model[t]) ** 2 * weight[t] > OUTLIER**2:
            weight[t] = np.float32(0.0)
    return True


@jit
def _means(image, weight, times, mean, variance):  # type: ignore[no-untyped-def]
    """Write the weighted mean and its variance; 0 where there is none."""
    for y in range(mean.shape[0]):
        for x in range(mean.shape[1]):
            total, first = 0.0, 0.0
            for t in times:
                total += weight[t, y, x]
                first += weight[t, y, x] * image[t, y, x]
            mean[y, x] = first / total if total > 0 else 0.0
            variance[y, x] = 1.0 / total if total > 0 else 0.0


@jit
def _brightest(mean, variance, bright):  # type: ignore[no-untyped-def]
    """Write the largest brightness near each pixel that is not noise."""
    height, width = mean.shape
    for y in range(height):
        for x in range(width):
            largest = 0.0
            for j in range(max(0, y - REACH), min(height, y + REACH + 1)):
                for i in range(max(0, x - REACH), min(width, x + REACH + 1)):
                    square = mean[j, i] * mean[j, i] - NOISE_SQUARED * variance[j, i]
                    largest = max(largest, square)
            bright[y, x] = np.sqrt(largest)


@jit
def _normal_equations(image, weight, times, terms, n, normal, right):  # type: ignore[no-untyped-def]
    """Write the lower triangle of the normal matrix, and the right side."""
    for k in range(n):
        right[k] = 0.0
        normal[k, : k + 1] = 0.0
    for t in times:
        w = weight[t]
        if w > 0:
            for k in range(n):
                factor = w * terms[t, k]
                right[k] += factor * image[t]
                for m in range(k + 1):
                    normal[k, m] += factor * terms[t, m]


@jit
def _solve(matrix, vector, n):  # type: ignore[no-untyped-def]
    """Solve in place, by Cholesky's decomposition of a lower triangle."""
    for k in range(n):
        for m in range(k + 1):
            value = matrix[k, m]
            for j in range(m):
                value -= matrix[k, j] * matrix[m, j]
            matrix[k, m] = np.sqrt(max(value, 1e-300)) if m == k else value / matrix[m, m]
    for k in range(n):
        for j in range(k):
            vector[k] -= matrix[k, j] * vector[j]
        vector[k] /= matrix[k, k]
    for k in range(n - 1, -1, -1):
        for j in range(k + 1, n):
            vector[k] -= matrix[j, k] * vector[j]
        vector[k] /= matrix[k, k]
