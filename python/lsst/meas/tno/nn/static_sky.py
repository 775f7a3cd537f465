# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands still in an image sequence, as each image's PSF shows it."""

from __future__ import annotations

__all__ = ("static_sky",)

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .._kernels import jit
from .._sequences import BANDS

N_COMPONENTS = 4
"""Principal components of the changes of the PSF that the sky follows:
seeing, ellipticity, and what is left.
"""

PRIOR = 2.0
"""Scatter of a pixel's response to a component about what is expected of it,
over the brightest sky near it times the size, relative to the PSF, of what the
kernel does not make of the component. It is above 1, because the wings of a
PSF change more than its core.
"""

RIDGE = 1e-3
"""What keeps kernels small, relative to the square of the mean PSF's norm."""

KERNEL_REACH = 2
"""Pixels on either side of a pixel whose mean tells its response."""

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
    squares. A small kernel that turns the mean PSF into E_k turns the mean of
    the pixels nearby into what is expected of a response (compare Alard &
    Lupton 1998, ApJ 503, 325); what moves looks otherwise. Responses scatter
    around it by what the kernel misses, and only next to something bright, so
    that an empty sky costs no more degrees of freedom than its mean. Pixels of
    a few images that are far from the fit, of flashes and cosmic rays, are
    left out of a second one.
    """
    sky = np.zeros(image.shape, dtype=np.float32)
    for index in range(len(BANDS)):
        is_band = (band == index) & psf.any(axis=(2, 3))
        rows = np.flatnonzero(is_band.any(axis=1))
        if len(rows) == 0:
            continue
        share = np.where(is_band[rows], weight[rows].sum(axis=(2, 3)), np.float32(0.0))
        coefficients, mean, components = _components(psf[rows], share)
        kernels, missed, size = _kernels(mean, components)
        _fit(image, weight, rows, is_band, coefficients, kernels, missed, size, sky)
    return sky


def _components(psf: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the coefficients of the PSFs, ``(n, n_times, n_components)``,
    with unit mean square, their mean, ``(n, k, k)``, and the components,
    ``(n, n_components, k, k)``, of the images that have a share in the mean.
    """
    chosen = share > 0
    number = np.maximum(chosen.sum(axis=1), 1).astype(np.float32)
    flat = np.where(chosen[:, :, np.newaxis], psf.reshape(*psf.shape[:2], -1), np.float32(0.0))
    part = share / np.maximum(share.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    mean = (part[:, np.newaxis] @ flat)[:, 0]
    change = np.where(chosen[:, :, np.newaxis], flat - mean[:, np.newaxis], np.float32(0.0))
    value, vector = np.linalg.eigh(change @ change.transpose(0, 2, 1))
    n_components = min(N_COMPONENTS, value.shape[1])
    vector = vector[:, :, -n_components:]
    root = np.sqrt(number)[:, np.newaxis, np.newaxis]
    components = vector.transpose(0, 2, 1) @ change / root
    shape = psf.shape[2:]
    return (
        (vector * root).astype(float),
        mean.reshape(-1, *shape).astype(float),
        components.reshape(len(psf), n_components, *shape).astype(float),
    )


def _kernels(mean: np.ndarray, components: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the kernels that turn a mean PSF into the components, ``(n,
    n_components, width, width)``, and the norms of what they miss, and of the
    components, over that of the mean PSF, ``(n, n_components)``.
    """
    reach = KERNEL_REACH
    width = 2 * reach + 1
    padded = np.pad(mean, ((0, 0), (reach, reach), (reach, reach)))
    shifted = sliding_window_view(padded, mean.shape[1:], axis=(1, 2))
    shifted = shifted.reshape(len(mean), width * width, -1)
    target = components.reshape(*components.shape[:2], -1)
    gram = shifted @ shifted.transpose(0, 2, 1)
    square = np.einsum("nii->n", gram) / width**2
    gram += (RIDGE * square + 1e-30)[:, np.newaxis, np.newaxis] * np.eye(width * width)
    kernels = np.linalg.solve(gram, shifted @ target.transpose(0, 2, 1)).transpose(0, 2, 1)
    norm = np.linalg.norm(mean, axis=(1, 2))[:, np.newaxis]
    missed, size = (
        np.divide(value, norm, out=np.zeros_like(value), where=norm > 0)
        for value in (np.linalg.norm(target - kernels @ shifted, axis=2), np.linalg.norm(target, axis=2))
    )
    return kernels.reshape(*components.shape[:2], width, width), missed, size


@jit
def _fit(image, weight, rows, is_band, coefficients, kernels, missed, size, sky):  # type: ignore[no-untyped-def]
    """Write the sky of the images of a band."""
    n_times, height, width = image.shape[1:]
    mean, noise, bright, doubt = np.empty((4, height, width))
    n_terms = coefficients.shape[2] + 1
    normal, solution = np.empty((n_terms, n_terms)), np.empty(n_terms)
    terms = np.ones((n_times, n_terms))
    expected, precision, kept = np.zeros(n_terms), np.zeros(n_terms), np.empty(n_times, np.float32)
    for i in range(len(rows)):
        row = rows[i]
        times = np.flatnonzero(is_band[row])
        terms[:, 1:] = coefficients[i]
        used = weight[row].copy()
        # What a flash does to the mean must not tell responses beside it.
        for is_second in (False, True):
            _means(image[row], used, times, mean, noise)
            _brightest(mean, noise, bright)
            _doubt(used, times, terms, size[i], noise, bright, doubt)
            for y in range(height):
                for x in range(width):
                    if noise[y, x] <= 0:
                        continue
                    n = n_terms if bright[y, x] > 0 else 1
                    for k in range(1, n):
                        expected[k], square, unknown = 0.0, 0.0, size[i, k - 1]
                        if is_second:
                            expected[k], square = _response(mean, doubt, bright, kernels[i, k - 1], y, x)
                            unknown = missed[i, k - 1]
                        square += (PRIOR * unknown * bright[y, x]) ** 2
                        # Without any change, the response is 0.
                        precision[k] = 1.0 / max(square, 1e-12 * noise[y, x])
                    kept[:] = used[:, y, x]
                    pixel, model = image[row, :, y, x], sky[row, :, y, x]
                    prior = expected[:n], precision
                    _fit_pixel(pixel, kept, times, terms[:, :n], prior, normal, solution, model)
                    if not is_second and _leave_out(pixel, kept, times, model):
                        used[:, y, x] = kept


@jit
def _response(mean, doubt, bright, kernel, y, x):  # type: ignore[no-untyped-def]
    """Return what a kernel makes of the mean near a pixel, and its variance.
    What is not known may be as bright as what is.
    """
    reach = len(kernel) // 2
    height, width = mean.shape
    value, variance = 0.0, 0.0
    for j in range(len(kernel)):
        for i in range(len(kernel)):
            at_y, at_x = y + j - reach, x + i - reach
            if 0 <= at_y < height and 0 <= at_x < width and doubt[at_y, at_x] > 0:
                value += kernel[j, i] * mean[at_y, at_x]
                variance += kernel[j, i] ** 2 * doubt[at_y, at_x]
            else:
                variance += (kernel[j, i] * bright[y, x]) ** 2
    return value, variance


@jit
def _fit_pixel(image, weight, times, terms, prior, normal, solution, model):  # type: ignore[no-untyped-def]
    """Write the model of a pixel in the images of a band."""
    expected, precision = prior
    n = terms.shape[1]
    _normal_equations(image, weight, times, terms, n, normal, solution)
    for k in range(1, n):
        normal[k, k] += precision[k]
        solution[k] += precision[k] * expected[k]
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
def _doubt(weight, times, terms, size, noise, bright, doubt):  # type: ignore[no-untyped-def]
    """Write the variance of the mean, as that of the sky with the mean PSF,
    which it is not in pixels that some images lack; 0 where there is none.
    """
    for y in range(noise.shape[0]):
        for x in range(noise.shape[1]):
            doubt[y, x] = noise[y, x]
            if bright[y, x] > 0:
                for k in range(1, terms.shape[1]):
                    total = 0.0
                    for t in times:
                        total += weight[t, y, x] * terms[t, k]
                    doubt[y, x] += (total * noise[y, x] * size[k - 1] * bright[y, x]) ** 2


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
