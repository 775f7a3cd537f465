# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is seen along straight trajectories through image sequences.

For every trajectory of a grid the matched filter's S/N, with and without the
static sky, and statistics that tell a moving source from what only adds up to
as much: a star, one bright image, noise that is not what the variance says.
"""

from __future__ import annotations

__all__ = (
    "FEATURES",
    "FEATURE_COLUMNS",
    "VERSION",
    "displacements",
    "inner_psf",
    "strongest",
    "trajectory_features",
    "weighted_images",
)

from collections.abc import Mapping

import numpy as np

from .._sequences import BANDS, UNUSABLE
from ._trajectory_sums import fill
from .static_sky import static_sky

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
    "brightest",
    "unrest",
    "left",
)
"""Names of the features.

- snr: S/N of the matched filter along the trajectory. What an image has beyond
  3 sigma more than an object of S/N 12 does not count.
- moving_snr: the same after the static sky, by band, is removed, in units of
  the scatter that is left; 0 where that is next to none, as without motion.
- clipped_snr: the same with each image's S/N clipped at 3.
- excess: chi^2 of the images' S/N about a constant flux, in units of its
  scatter.
- drift: S/N of a linear change of the flux with time, without sign.
- static_snr: S/N of the static sky where the trajectory is at the mean time.
- largest: largest S/N in a single image, without sign.
- coverage: information of the trajectory over the most that one has.
- displacement: length of the trajectory, pixels.
- brightest: largest S/N of the static sky anywhere in the window, without
  sign.
- unrest: mean squared S/N in single images without the static sky, anywhere in
  the window, less 1.
- left: information of the trajectory that is left without the static sky, over
  all that it has.
"""

MAX_PIXEL_SNR = 1e6
"""S/N from which on a pixel is broken."""

MAX_WEIGHT = 1e30
"""Inverse variance from which on a pixel is broken, nJy^-2."""

VERSION = 3
"""Of the features; classifiers of another one are refused."""

LEAST_OVERLAP = 1e-3
"""Least overlap of a PSF with itself a pixel off that is believed."""

PSF_REACH = 8
"""Pixels from its centre at which a PSF is cut. Beyond it a seeing of 1.1
arcsec has less than 0.1 % of the information.
"""


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
    columns = _in_order(columns)
    image, weight = weighted_images(columns)
    psf = inner_psf(columns["psf"])
    moving = image - static_sky(image, weight, columns["band"], psf)
    ratio = _by_band(columns["band"], flux_ratio)
    # Nothing in invalid images has a weight.
    information = (ratio**2 * weight.max(axis=(2, 3)) * np.sum(psf**2, axis=(2, 3))).astype(float)
    fraction = _time_fraction(columns["mjd"], columns["valid"], information)
    features = np.zeros((len(image), len(FEATURES), len(displacement), *image.shape[2:]), dtype=np.float32)
    fill(
        _times_last(image * weight),
        _times_last(moving * weight),
        _times_last(weight),
        _times_last(psf),
        columns["band"],
        ratio,
        fraction,
        information,
        _sharpness(psf, information),
        displacement,
        features,
    )
    return features


def strongest(features: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the trajectories that matter to what is said of a sequence.

    Parameters
    ----------
    features
        Features of trajectories, as `trajectory_features` returns them.
    number
        Number of trajectories to keep: half of them those with the largest
        S/N, the others those with the largest S/N without the static sky.

    Returns
    -------
    features : `numpy.ndarray`
        Their features, ``(n, n_kept, n_features)``.
    n_seen : `numpy.ndarray`
        Number of trajectories with any information, float32 ``(n,)``.
    """
    flat = features.reshape(*features.shape[:2], -1)
    seen = flat[:, FEATURES.index("coverage")] > 0
    number = min(number, flat.shape[2])
    kept = np.empty((len(flat), 0), dtype=np.intp)
    for name, n_kept in (("snr", number - number // 2), ("moving_snr", number)):
        value = np.where(seen, flat[:, FEATURES.index(name)], np.finfo(np.float32).min)
        np.put_along_axis(value, kept, np.inf, axis=1)
        kept = np.argpartition(value, -n_kept, axis=1)[:, -n_kept:]
    chosen = np.take_along_axis(flat, kept[:, np.newaxis], axis=2).transpose(0, 2, 1)
    return np.ascontiguousarray(chosen), seen.sum(axis=1).astype(np.float32)


def _in_order(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return columns with images in order of time, those without one last and
    invalid.
    """
    valid = columns["valid"] & np.isfinite(columns["mjd"])
    time = np.where(valid, columns["mjd"], np.inf)
    columns = {**columns, "valid": valid}
    if np.all(time[:, 1:] >= time[:, :-1]):
        return columns
    order = np.argsort(time, axis=1, kind="stable")
    rows = np.arange(len(order))[:, np.newaxis]
    return {name: columns[name][rows, order] for name in FEATURE_COLUMNS}


def _times_last(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


def inner_psf(psf: np.ndarray) -> np.ndarray:
    """Return PSFs without what is far from their centre, finite.

    Parameters
    ----------
    psf
        PSFs, ``(n, n_times, k, k)``.
    """
    cut = max(psf.shape[2] // 2 - PSF_REACH, 0)
    inner = psf[:, :, cut : psf.shape[2] - cut, cut : psf.shape[3] - cut]
    return np.nan_to_num(inner, posinf=0.0, neginf=0.0).astype(np.float32, copy=False)


def weighted_images(columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return images, and inverse variances that are 0 in pixels that do not
    count, where the image is 0 too.

    Parameters
    ----------
    columns
        Arrays of the columns image, variance, mask, noise_scale and valid.
    """
    image, variance = columns["image"], columns["variance"]
    noise_scale = columns["noise_scale"][:, :, np.newaxis, np.newaxis]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        weight = 1.0 / (variance * noise_scale)
        usable = ((columns["mask"] & UNUSABLE) == 0) & columns["valid"][:, :, np.newaxis, np.newaxis]
        usable &= (weight > 0) & (weight < MAX_WEIGHT) & (np.abs(image) * np.sqrt(weight) < MAX_PIXEL_SNR)
    return (
        np.where(usable, image, 0.0).astype(np.float32, copy=False),
        np.where(usable, weight, 0.0).astype(np.float32, copy=False),
    )


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
    total = information.sum(axis=1, keepdims=True)
    middle = np.divide(
        (offset * information).sum(axis=1, keepdims=True), total, out=np.zeros_like(total), where=total > 0
    )
    return np.divide(offset - middle, span, out=np.zeros(mjd.shape), where=valid & (span > 0))


def _sharpness(psf: np.ndarray, information: np.ndarray) -> np.ndarray:
    """Return the inverse squares of the mean PSFs' sigma, pixel^-2, as if they
    were Gaussian.
    """
    # A Gaussian's overlap with itself a pixel off is exp(-1 / (4 sigma^2)).
    itself = np.einsum("nt,ntyx,ntyx->n", information, psf, psf)
    along_x = np.einsum("nt,ntyx,ntyx->n", information, psf[..., 1:], psf[..., :-1])
    along_y = np.einsum("nt,ntyx,ntyx->n", information, psf[:, :, 1:], psf[:, :, :-1])
    beside = (along_x + along_y) / 2
    overlap = np.divide(beside, itself, out=np.ones_like(itself), where=itself > 0)
    return -4.0 * np.log(np.clip(overlap, LEAST_OVERLAP, 1.0))
