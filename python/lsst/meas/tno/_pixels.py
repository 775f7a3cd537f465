# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pixels as they are read, and what their masks mean."""

from __future__ import annotations

__all__ = ("MaskBits", "Pixels", "make_mask")

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from lsst.images import Box

from ._sequences import MaskBit

type MaskBits = Mapping[str, tuple[int, int]]
"""Where mask planes are stored, by their names in `lsst.images`."""


@dataclasses.dataclass
class Pixels:
    """Pixels of a box of a visit image, with the mask as it is stored."""

    bbox: Box
    """Box of the pixels (`lsst.images.Box`)."""

    image: np.ndarray
    """Flux per pixel, nJy, ``(height, width)`` (`numpy.ndarray`)."""

    variance: np.ndarray
    """Variance of image, nJy^2 (`numpy.ndarray`)."""

    planes: np.ndarray
    """Mask planes, as many to an integer as fit in it, ``(height, width,
    n)`` (`numpy.ndarray`).
    """

    bits: MaskBits
    """Index on the last axis of ``planes``, and bit there, of each plane."""


def make_mask(
    image: np.ndarray, variance: np.ndarray, planes: np.ndarray, bits: MaskBits, bad_planes: Sequence[str]
) -> np.ndarray:
    """Return the mask of some pixels; those without a value and a variance
    are NO_DATA.

    Parameters
    ----------
    image, variance, planes, bits
        Pixels of any shape, as in `Pixels`.
    bad_planes
        Mask planes, by their names in `lsst.images`, that make a pixel BAD.

    Returns
    -------
    mask : `numpy.ndarray`
        Bits of `MaskBit`, uint8, of the shape of ``image``.
    """
    sources = {
        MaskBit.BAD: bad_planes,
        MaskBit.NO_DATA: ["NO_DATA"],
        MaskBit.SATURATED: ["SATURATED"],
        MaskBit.DETECTED: ["DETECTED"],
    }
    mask = np.zeros(image.shape, dtype=np.uint8)
    mask[~(np.isfinite(image) & np.isfinite(variance) & (variance > 0))] = MaskBit.NO_DATA
    for target, names in sources.items():
        wanted: dict[int, int] = {}
        for index, bit in (bits[name] for name in names if name in bits):
            wanted[index] = wanted.get(index, 0) | bit
        for index, bit in wanted.items():
            mask[(planes[..., index] & planes.dtype.type(bit)) != 0] |= np.uint8(target)
    return mask
