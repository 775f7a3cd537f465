# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is seen along straight trajectories through image sequences.

For every trajectory of a grid the matched filter's S/N, with and without the
static sky, and statistics that tell a moving source from what only adds up to
as much: a star, one bright image, noise that is not what the variance says.
"""

from __future__ import annotations

__all__ = ("FEATURES", "FEATURE_COLUMNS", "displacements", "trajectory_features")

from collections.abc import Mapping

import numpy as np

from .._kernels import KERNELS, jit
from .._sequences import BANDS, UNUSABLE

FEATURE_COLUMNS = ("image", "variance", "mask", "psf", "noise_scale", "valid", "mjd", "band")
"""Columns of image sequences that the features are made of."""

FEATURES = (
    "snr",
    "moving_snr",
    "clipped_snr",
    "excess",
    "drift",
    "static_snr",
    "largest",
    "coverage",
    "displacement",
)
"""Names of the features.

- snr: S/N of the matched filter along the trajectory.
- moving_snr: the same after each pixel's mean over time, by band, is removed,
  in units of the scatter that is left; 0 for a trajectory without motion.
- clipped_snr: the same with each image's S/N clipped at `CLIP`.
- excess: chi^2 of the images' S/N about a constant flux, in units of its
  scatter.
- drift: S/N of a linear change of the flux with time.
- static_snr: S/N of the static sky where the trajectory is at the mean time.
- largest: largest S/N in a single image, without sign.
- coverage: information of the trajectory over the most that one has.
- displacement: length of the trajectory, pixels.
"""

CLIP = 3.0
"""S/N in a single image beyond which it is clipped."""

OVERSAMPLING = 2
"""Start positions a pixel and axis; of those in a pixel the best is kept."""

MIN_COVERAGE = 0.2
"""Coverage below which a trajectory is not looked at."""

MARGIN = 2
"""Pixels around the images at which maps are needed to interpolate them."""

HALF_STEP = KERNELS["bicubic"].weights(np.array([0.25, 0.75])).astype(np.float32)
"""Weights for a quarter and three quarters of a pixel; psi and phi are smooth,
and off by less than 1e-3 of their largest by it.
"""

PSF_REACH = 8
"""Pixels from its centre at which a PSF is cut. Beyond it a seeing of 1.1
arcsec has less than 0.1 % of the information.
"""

N_MAPS = 5
"""Psi, psi without the static sky, phi, clipped psi, and squared S/N."""

N_SUMS = N_MAPS + 2
"""The sums of these, of time times psi, and the largest S/N."""


def displacements(largest: float, step: float) -> np.ndarray:
    """Return the motions over the span of a sequence that are looked at.

    Parameters
    ----------
    largest
        Length of the longest, pixels.
    step
        Distance between neighbours, pixels.

    Returns
    -------
    displacement : `numpy.ndarray`
        Points of a triangular lattice, ``(n, 2)`` with x and y, pixels; the
        first is no motion.
    """
    n = int(np.ceil(largest / step)) + 1
    i, j = np.meshgrid(np.arange(-2 * n, 2 * n + 1), np.arange(-2 * n, 2 * n + 1))
    points = step * np.stack([i + 0.5 * j, np.sqrt(0.75) * j], axis=-1).reshape(-1, 2)
    length = np.hypot(points[:, 0], points[:, 1])
    # A little of the lattice's cells beyond the largest belongs to it.
    inside = length <= largest + 0.25 * step
    order = np.lexsort((points[inside, 1], points[inside, 0], np.round(length[inside], 6)))
    return points[inside][order]


def trajectory_features(
    columns: Mapping[str, np.ndarray], displacement: np.ndarray, flux_ratio: Mapping[str, float]
) -> np.ndarray:
    """Return the features of trajectories.

    Parameters
    ----------
    columns
        Arrays of `FEATURE_COLUMNS`, ``(n, ...)``.
    displacement
        Motions over the time between the first and the last valid image of a
        sequence, pixels in x and y, ``(n_motions, 2)``; the first is none.
    flux_ratio
        Flux of an object in each band over that in the reference band.

    Returns
    -------
    features : `numpy.ndarray`
        Features in the order of `FEATURES`, float32 ``(n, n_features,
        n_motions, height, width)``. Position (x, y) is where the trajectory is
        at the information-weighted middle of the time, to half a pixel. All
        but the coverage, which is then 0, are 0 where there is too little
        information.
    """
    image, weight = _weighted_images(columns)
    moving = image - _static_sky(image, weight, columns["band"])
    ratio = _by_band(columns["band"], flux_ratio)
    psf = _inner_psf(columns["psf"])
    information = (ratio**2 * weight.max(axis=(2, 3)) * np.sum(psf**2, axis=(2, 3))).astype(float)
    fraction = _time_fraction(columns["mjd"], columns["valid"], information)
    shift = np.rint(OVERSAMPLING * displacement[:, np.newaxis] * fraction[:, np.newaxis, :, np.newaxis])
    features = np.zeros((len(image), len(FEATURES), len(displacement), *image.shape[2:]), dtype=np.float32)
    _fill(
        image * weight,
        moving * weight,
        weight,
        psf,
        ratio,
        fraction.astype(np.float32),
        shift.astype(np.int64),
        np.hypot(displacement[:, 0], displacement[:, 1]).astype(np.float32),
        _moving_fraction(columns, information, fraction, displacement),
        features,
    )
    return features


def _inner_psf(psf: np.ndarray) -> np.ndarray:
    """Return PSFs without what is far from their centre, finite."""
    cut = max(psf.shape[2] // 2 - PSF_REACH, 0)
    inner = psf[:, :, cut : psf.shape[2] - cut, cut : psf.shape[3] - cut]
    return np.nan_to_num(inner).astype(np.float32, copy=False)


def _weighted_images(columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return images, and inverse variances that are 0 in pixels that do not
    count, where the image is 0 too.
    """
    image, variance = columns["image"], columns["variance"]
    noise_scale = columns["noise_scale"][:, :, np.newaxis, np.newaxis]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        weight = 1.0 / (variance * noise_scale)
        usable = ((columns["mask"] & UNUSABLE) == 0) & columns["valid"][:, :, np.newaxis, np.newaxis]
        usable &= np.isfinite(weight) & (weight > 0) & np.isfinite(image * weight)
    return (
        np.where(usable, image, 0.0).astype(np.float32, copy=False),
        np.where(usable, weight, 0.0).astype(np.float32, copy=False),
    )


def _static_sky(image: np.ndarray, weight: np.ndarray, band: np.ndarray) -> np.ndarray:
    """Return the weighted mean of all images of an image's band."""
    static = np.zeros_like(image)
    for index in range(len(BANDS)):
        is_band = band == index
        if not np.any(is_band):
            continue
        weight_of_band = weight * is_band[:, :, np.newaxis, np.newaxis]
        total = weight_of_band.sum(axis=1)
        mean = np.divide(
            (image * weight_of_band).sum(axis=1), total, out=np.zeros_like(total), where=total > 0
        )
        static += is_band[:, :, np.newaxis, np.newaxis] * mean[:, np.newaxis]
    return static


def _by_band(band: np.ndarray, flux_ratio: Mapping[str, float]) -> np.ndarray:
    by_band = np.zeros(256, dtype=np.float32)
    by_band[: len(BANDS)] = [flux_ratio[name] for name in BANDS]
    return by_band[band]


def _time_fraction(mjd: np.ndarray, valid: np.ndarray, information: np.ndarray) -> np.ndarray:
    """Return the times of images from the information-weighted mean, in units
    of the time from the first to the last, ``(n, n_times)``; 0 in padding.
    """
    last = np.where(valid, mjd, 0.0).max(axis=1, keepdims=True)
    first = np.where(valid, mjd, np.inf).min(axis=1, keepdims=True)
    span = np.where(np.isfinite(first), last - first, 0.0)
    offset = np.where(valid, mjd - last, 0.0)
    information = information * valid
    total = information.sum(axis=1, keepdims=True)
    middle = np.divide(
        (offset * information).sum(axis=1, keepdims=True), total, out=np.zeros_like(total), where=total > 0
    )
    return np.divide(offset - middle, span, out=np.zeros(mjd.shape), where=valid & (span > 0))


def _moving_fraction(
    columns: Mapping[str, np.ndarray], information: np.ndarray, fraction: np.ndarray, displacement: np.ndarray
) -> np.ndarray:
    """Return the variance of the S/N that is left when the static sky is
    removed, ``(n, n_motions)``.

    It is 1 less the mean overlap of the PSF with itself between the images of
    a band, for the overlap of Gaussians.
    """
    psf = np.nan_to_num(columns["psf"])
    # For a Gaussian, the sum of squares is 1 / (4 pi sigma^2).
    weight = information * columns["valid"]
    sharpness = np.sum(psf**2, axis=(2, 3)) * 2 * np.pi
    total = weight.sum(axis=1)
    curvature = np.divide(
        np.sum(weight * sharpness, axis=1), total, out=np.zeros_like(total), where=total > 0
    )
    same_band = columns["band"][:, :, np.newaxis] == columns["band"][:, np.newaxis]
    of_band = np.einsum("nij,nj->ni", same_band, weight)
    pair = np.where(same_band, weight[:, :, np.newaxis] * weight[:, np.newaxis], 0.0)
    pair = np.divide(
        pair, of_band[:, :, np.newaxis], out=np.zeros_like(pair), where=of_band[:, :, np.newaxis] > 0
    )
    apart = (fraction[:, :, np.newaxis] - fraction[:, np.newaxis]) ** 2 * curvature[:, np.newaxis, np.newaxis]
    square = np.sum(displacement**2, axis=1)
    length, inverse = np.unique(np.round(square, 6), return_inverse=True)
    overlap = np.stack([np.sum(pair * np.exp(-0.5 * value * apart), axis=(1, 2)) for value in length], axis=1)
    left = 1.0 - np.divide(
        overlap, total[:, np.newaxis], out=np.ones_like(overlap), where=total[:, np.newaxis] > 0
    )
    return left[:, inverse].astype(np.float32)


@jit
def _fill(weighted, moving, weight, psf, ratio, fraction, shift, length, left, features):  # type: ignore[no-untyped-def]
    """Write the features of all sequences."""
    n_times, height, width = weight.shape[1:]
    coarse = np.empty((3, height + 2 * MARGIN, width + 2 * MARGIN), np.float32)
    maps = np.empty((n_times, N_MAPS, OVERSAMPLING * height, OVERSAMPLING * width), np.float32)
    sums = np.empty((N_SUMS, OVERSAMPLING * height, OVERSAMPLING * width), np.float32)
    static = np.zeros(sums.shape[1:], np.float32)
    for row in range(len(weight)):
        for time in range(n_times):
            _correlate(weighted[row, time], moving[row, time], weight[row, time], psf[row, time], coarse)
            _refine(coarse, ratio[row, time], maps[time])
        most, spread, n_images = _totals(maps, fraction[row])
        if most <= 0:
            continue
        for motion in range(shift.shape[1]):
            _sum(maps, fraction[row], shift[row, motion], sums)
            if motion == 0:
                _keep_snr(sums, static)
            _reduce(
                sums,
                static,
                most,
                spread,
                n_images,
                length[motion],
                left[row, motion],
                features[row, :, motion],
            )


@jit
def _correlate(weighted, moving, weight, psf, maps):  # type: ignore[no-untyped-def]
    """Write psi, psi without the static sky, and phi at whole pixels."""
    height, width = weight.shape
    half = len(psf) // 2
    maps[:] = np.float32(0.0)
    for j in range(len(psf)):
        for i in range(len(psf)):
            value = psf[j, i]
            square = value * value
            # The source is at (x, y), and this part of its PSF at (x + i -
            # half, y + j - half).
            first, last = max(-MARGIN, half - i), min(width + MARGIN, width + half - i)
            for y in range(max(-MARGIN, half - j), min(height + MARGIN, height + half - j)):
                source = y + j - half
                for x in range(first, last):
                    at = x + i - half
                    maps[0, y + MARGIN, x + MARGIN] += value * weighted[source, at]
                    maps[1, y + MARGIN, x + MARGIN] += value * moving[source, at]
                    maps[2, y + MARGIN, x + MARGIN] += square * weight[source, at]


@jit
def _refine(coarse, ratio, maps):  # type: ignore[no-untyped-def]
    """Interpolate maps of an image, and write what is made of them."""
    clip = np.float32(CLIP)
    n_y, n_x = maps.shape[1:]
    # Position i is at pixel i / 2 - 1/4.
    for y in range(n_y):
        wy, y0 = HALF_STEP[1 - y % 2], (y - 1) // 2 + MARGIN - 1
        for x in range(n_x):
            wx, x0 = HALF_STEP[1 - x % 2], (x - 1) // 2 + MARGIN - 1
            psi, moving, phi = np.float32(0.0), np.float32(0.0), np.float32(0.0)
            for j in range(4):
                for i in range(4):
                    value = wy[j] * wx[i]
                    psi += value * coarse[0, y0 + j, x0 + i]
                    moving += value * coarse[1, y0 + j, x0 + i]
                    phi += value * coarse[2, y0 + j, x0 + i]
            phi *= ratio * ratio
            if phi > 0:
                root = np.sqrt(phi)
                snr = ratio * moving / root
                maps[0, y, x], maps[1, y, x], maps[2, y, x] = ratio * psi, ratio * moving, phi
                maps[3, y, x], maps[4, y, x] = min(max(snr, -clip), clip) * root, snr * snr
            else:
                maps[:, y, x] = np.float32(0.0)


@jit
def _totals(maps, fraction):  # type: ignore[no-untyped-def]
    """Return the most information that a trajectory can have, its spread in
    time, and the number of images with any.
    """
    most, spread, n_images = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for time in range(len(maps)):
        largest = maps[time, 2].max()
        most += largest
        spread += largest * fraction[time] * fraction[time]
        n_images += np.float32(largest > 0)
    return most, spread, n_images


@jit
def _sum(maps, fraction, shift, sums):  # type: ignore[no-untyped-def]
    """Write the sums of maps that are shifted by whole steps."""
    n_y, n_x = sums.shape[1:]
    sums[:] = np.float32(0.0)
    for time in range(len(maps)):
        dx, dy = shift[time]
        first, last = max(0, -dx), min(n_x, n_x - dx)
        for y in range(max(0, -dy), min(n_y, n_y - dy)):
            for k in range(N_MAPS):
                for x in range(first, last):
                    sums[k, y, x] += maps[time, k, y + dy, x + dx]
            for x in range(first, last):
                sums[N_MAPS, y, x] += fraction[time] * maps[time, 1, y + dy, x + dx]
                # Squares will do: a hole is as suspicious as a peak.
                sums[N_MAPS + 1, y, x] = max(sums[N_MAPS + 1, y, x], maps[time, 4, y + dy, x + dx])


@jit
def _keep_snr(sums, snr):  # type: ignore[no-untyped-def]
    for y in range(snr.shape[0]):
        for x in range(snr.shape[1]):
            snr[y, x] = sums[0, y, x] / np.sqrt(sums[2, y, x]) if sums[2, y, x] > 0 else np.float32(0.0)


@jit
def _reduce(sums, static, most, spread, n_images, length, left, features):  # type: ignore[no-untyped-def]
    """Write the features of the best start position in each pixel."""
    for row in range(features.shape[1]):
        for column in range(features.shape[2]):
            best, best_y, best_x = -np.inf, -1, -1
            for y in range(OVERSAMPLING * row, OVERSAMPLING * (row + 1)):
                for x in range(OVERSAMPLING * column, OVERSAMPLING * (column + 1)):
                    phi = sums[2, y, x]
                    if phi >= MIN_COVERAGE * most:
                        value = (sums[0, y, x] + sums[1, y, x]) / np.sqrt(phi)
                        if value > best:
                            best, best_y, best_x = value, y, x
            if best_y >= 0:
                coverage = sums[2, best_y, best_x] / most
                scale = np.float32(1.0) / np.sqrt(sums[2, best_y, best_x])
                # Where hardly anything is left, nothing is said.
                moving_scale = scale / np.sqrt(left) if left > np.float32(0.02) else np.float32(0.0)
                freedom = max(coverage * n_images - np.float32(1.0), np.float32(1.0))
                excess = sums[4, best_y, best_x] - (sums[1, best_y, best_x] * scale) ** 2 - freedom
                out = features[:, row, column]
                out[0] = sums[0, best_y, best_x] * scale
                out[1] = sums[1, best_y, best_x] * moving_scale
                out[2] = sums[3, best_y, best_x] * moving_scale
                out[3] = excess / np.sqrt(np.float32(2.0) * freedom)
                out[4] = sums[5, best_y, best_x] / np.sqrt(max(coverage * spread, np.float32(1e-30)))
                out[5] = static[best_y, best_x]
                out[6] = np.sqrt(sums[6, best_y, best_x])
                out[7] = coverage
                out[8] = length
