# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removal of what does not move from image sequences."""

from __future__ import annotations

__all__ = ("subtract_median",)

import dataclasses

import numpy as np

from ._kernels import jit
from ._sequences import BANDS, UNUSABLE, ImageSequences, MaskBit

NO_DATA = np.uint8(MaskBit.NO_DATA)


def subtract_median(sequences: ImageSequences, *, min_images: int = 5) -> ImageSequences:
    """Subtract from each image the sequence's weighted median in its band.

    Parameters
    ----------
    sequences
        Image sequences on the same grid at all times, as `warp_sequences`
        gives them.
    min_images
        Usable images of a band that a pixel needs. Where there are fewer, its
        static sky is not known, and it becomes NO_DATA in the images of that
        band.

    Returns
    -------
    sequences : `ImageSequences`
        Sequences with new ``image``, ``variance`` and ``mask``.

    Raises
    ------
    ValueError
        Raised if ``min_images`` is less than 1.

    Notes
    -----
    The weights are 1 / sigma, those that a weighted median is most precise
    with. For Gaussian noise its variance is then (pi/2) / S with
    S = sum(1/variance) over the usable images, and its covariance with each
    of them 1 / S. A difference has the variance ``variance + (pi/2 - 2) / S``
    in the images that the median is made of (slightly less than before: the
    median follows them) and ``variance + (pi/2) / S`` in the others. This
    holds for many images of similar depth; with 5 to 10 images it is 3 to 5 %
    too large.

    Images of one band still differ in seeing, so that stars and galaxy cores
    leave residuals. An object that stays on a pixel in half of the images of
    a band or more is removed with the sky, and a slower one loses flux: the
    truth columns are left as they are. Only the pixels of a PSF's width count,
    so choose it for windows in which objects move by more than that.
    """
    if min_images < 1:
        raise ValueError(f"min_images must be at least 1, not {min_images}.")
    image, variance, mask = (np.array(a) for a in (sequences.image, sequences.variance, sequences.mask))
    usable = ((mask & UNUSABLE) == 0) & (variance > 0)
    for i in range(len(sequences)):
        for band in range(len(BANDS)):
            times = np.flatnonzero(sequences.valid[i] & (sequences.band[i] == band))
            if len(times):
                _subtract_median(image[i], variance[i], mask[i], usable[i], times, min_images)
    return dataclasses.replace(sequences, image=image, variance=variance, mask=mask)


@jit
def _weighted_median(values, weights):  # type: ignore[no-untyped-def]
    """Interpolate where half of the weight is reached, each value counting
    for its place at the middle of its own weight.
    """
    order = np.argsort(values)
    half = 0.5 * weights.sum()
    below = 0.0
    previous = 0.0
    for n in range(len(order)):
        here = below + 0.5 * weights[order[n]]
        if here >= half:
            if n == 0:
                return values[order[0]]
            low, high = values[order[n - 1]], values[order[n]]
            return low + (high - low) * (half - previous) / (here - previous)
        below += weights[order[n]]
        previous = here
    return values[order[-1]]


@jit
def _subtract_median(image, variance, mask, usable, times, min_images):  # type: ignore[no-untyped-def]
    """Subtract the median of the given times of one sequence in place."""
    values = np.empty(len(times))
    weights = np.empty(len(times))
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            count = 0
            for t in times:
                if usable[t, y, x]:
                    values[count] = image[t, y, x]
                    weights[count] = 1.0 / np.sqrt(variance[t, y, x])
                    count += 1
            if count < min_images:
                for t in times:
                    image[t, y, x] = np.nan
                    variance[t, y, x] = np.nan
                    mask[t, y, x] |= NO_DATA
                continue
            median = _weighted_median(values[:count], weights[:count])
            inverse = 1.0 / np.sum(weights[:count] ** 2)
            for t in times:
                image[t, y, x] -= median
                variance[t, y, x] += inverse * (np.pi / 2 - (2.0 if usable[t, y, x] else 0.0))
