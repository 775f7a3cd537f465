# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cutouts of one visit image."""

from __future__ import annotations

__all__ = ("Cutouts", "cutout_origins", "normalize_psf", "read_cutouts", "read_psfs")

import dataclasses
import math
from collections.abc import Sequence
from typing import Self

import numpy as np

from lsst.images import Box

from ._pixels import MaskBits, Pixels, make_mask
from ._read_plan import plan_reads
from ._sequences import MaskBit
from .visits import OpenVisit, VisitError, VisitMetadata

PSF_SPACING = 256
"""Largest distance between the points at which a PSF model is evaluated,
pixels. PSF models are polynomials of low order over a detector of thousands.
"""

DROPPED_PSF_FLUX = 0.05
"""Largest part of the PSF's flux that may lie outside the ``psf`` column."""


@dataclasses.dataclass(kw_only=True)
class Cutouts:
    """Cutouts of one visit image."""

    image: np.ndarray
    """Flux per pixel, nJy, float32 ``(n, size, size)``; NaN where there are
    no data (`numpy.ndarray`).
    """

    variance: np.ndarray
    """Variance of image, nJy^2, float32 ``(n, size, size)`` (`numpy.ndarray`).
    """

    mask: np.ndarray
    """Bits of `MaskBit`, uint8 ``(n, size, size)`` (`numpy.ndarray`)."""

    psf: np.ndarray
    """PSF at the position each cutout is about, float32
    ``(n, psf_size, psf_size)`` (`numpy.ndarray`).
    """

    @classmethod
    def full(cls, n: int, size: int, psf_size: int) -> Self:
        """Return cutouts without data.

        Parameters
        ----------
        n
            Number of cutouts.
        size, psf_size
            Width and height of the cutouts and of the PSF images, pixels.
        """
        return cls(
            image=np.full((n, size, size), np.nan, dtype=np.float32),
            variance=np.full((n, size, size), np.nan, dtype=np.float32),
            mask=np.full((n, size, size), int(MaskBit.NO_DATA), dtype=np.uint8),
            psf=np.full((n, psf_size, psf_size), np.nan, dtype=np.float32),
        )


def cutout_origins(position: np.ndarray, size: int) -> np.ndarray:
    """Return the first pixels of the cutouts that are about some positions.

    Parameters
    ----------
    position
        Positions along one axis, pixels.
    size
        Number of pixels of a cutout along the axis.

    Returns
    -------
    origin : `numpy.ndarray`
        First pixels, int64; the centre of a cutout is within half a pixel of
        the position.
    """
    return np.floor(position - (size - 1) / 2 + 0.5).astype(np.int64)


def read_cutouts(
    visit: OpenVisit,
    metadata: VisitMetadata,
    x: np.ndarray,
    y: np.ndarray,
    *,
    size: int,
    psf_size: int,
    bad_planes: Sequence[str],
) -> Cutouts:
    """Read the cutouts about some positions.

    Parameters
    ----------
    visit
        Visit image.
    metadata
        Its metadata.
    x, y
        Positions, ``(n,)``, pixels of the detector.
    size
        Width and height of the cutouts, pixels.
    psf_size
        Width and height of the PSF images, odd, pixels.
    bad_planes
        Mask planes that make a pixel BAD.

    Returns
    -------
    cutouts : `Cutouts`
        Cutouts, with what is off the image NO_DATA.
    """
    cutouts = Cutouts.full(len(x), size, psf_size)
    cutouts.psf[:] = read_psfs(visit, metadata.bbox, x, y, psf_size)
    x0, y0 = cutout_origins(x, size), cutout_origins(y, size)
    planes = np.zeros((*cutouts.image.shape, 1), dtype=np.uint8)
    bits: MaskBits = {}
    for bbox, indices in plan_reads(x0, y0, size, metadata.bbox, visit.read_costs):
        pixels = visit.read_pixels(bbox)
        if not bits:
            bits = pixels.bits
            planes = np.zeros((*cutouts.image.shape, pixels.planes.shape[-1]), dtype=pixels.planes.dtype)
        for index in indices:
            _cut(pixels, cutouts, planes, index, int(x0[index]), int(y0[index]))
    cutouts.mask[:] = make_mask(cutouts.image, cutouts.variance, planes, bits, bad_planes)
    no_data = (cutouts.mask & MaskBit.NO_DATA) != 0
    cutouts.image[no_data] = cutouts.variance[no_data] = np.nan
    return cutouts


def read_psfs(visit: OpenVisit, bbox: Box, x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """Return the PSF at some positions.

    The model is evaluated at the corners of a grid of cells, those that are
    needed, and interpolated linearly in between.

    Parameters
    ----------
    visit
        Visit image.
    bbox
        Box of its pixels.
    x, y
        Positions, ``(n,)``, pixels of the detector.
    size
        Width and height of the PSF images, odd, pixels.

    Returns
    -------
    psf : `numpy.ndarray`
        PSF images of sum 1, ``(n, size, size)``.

    Raises
    ------
    VisitError
        Raised if there is no PSF, or it is too large for the images.
    """
    nodes_x, column, weight_x = _cells(x, bbox.x.start, bbox.x.stop - 1)
    nodes_y, row, weight_y = _cells(y, bbox.y.start, bbox.y.stop - 1)
    corners = [
        ((row + dy) * len(nodes_x) + column + dx, abs(1 - dy - weight_y) * abs(1 - dx - weight_x))
        for dy in (0, 1)
        for dx in (0, 1)
    ]
    needed = np.unique(np.concatenate([node for node, _ in corners]))
    at_nodes = np.array(
        [
            _read_psf(visit, nodes_x[node % len(nodes_x)], nodes_y[node // len(nodes_x)], size)
            for node in needed
        ]
    )
    return sum(weight[:, None, None] * at_nodes[np.searchsorted(needed, node)] for node, weight in corners)


def normalize_psf(kernel: np.ndarray, size: int) -> np.ndarray:
    """Cut or pad a PSF image and normalise it.

    Parameters
    ----------
    kernel
        PSF image of odd width and height, centred.
    size
        Width and height wanted, odd, pixels.

    Returns
    -------
    psf : `numpy.ndarray`
        Image of sum 1, ``(size, size)``.

    Raises
    ------
    ValueError
        Raised if too much of the image would be cut off.
    """
    psf = np.zeros((size, size))
    (to_y, from_y), (to_x, from_x) = (_overlap(n // 2 - size // 2, size, 0, n) for n in kernel.shape)
    psf[to_y, to_x] = kernel[from_y, from_x]
    kept = psf.sum() / kernel.sum()
    if kept < 1 - DROPPED_PSF_FLUX:
        raise ValueError(f"{size} pixels hold only {kept:.3f} of the PSF's flux: raise psf_size.")
    return psf / psf.sum()


def _read_psf(visit: OpenVisit, x: float, y: float, size: int) -> np.ndarray:
    kernel = visit.psf_kernel(x, y)
    try:
        return normalize_psf(kernel, size)
    except ValueError as error:
        raise VisitError(f"{visit.data_id}: {error}") from error


def _cells(position: np.ndarray, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the borders of equal cells between two pixels, the cell of each
    position, and how far in it the position is.
    """
    n_cells = max(1, math.ceil((last - first) / PSF_SPACING))
    nodes = np.linspace(first, last, n_cells + 1)
    within = np.clip((position - first) / max(last - first, 1), 0.0, 1.0) * n_cells
    cell = np.minimum(within.astype(np.int64), n_cells - 1)
    return nodes, cell, within - cell


def _cut(pixels: Pixels, cutouts: Cutouts, planes: np.ndarray, index: int, x0: int, y0: int) -> None:
    """Copy what is read of a cutout."""
    size = cutouts.image.shape[1]
    to_y, from_y = _overlap(y0, size, pixels.bbox.y.start, pixels.bbox.y.stop)
    to_x, from_x = _overlap(x0, size, pixels.bbox.x.start, pixels.bbox.x.stop)
    cutouts.image[index, to_y, to_x] = pixels.image[from_y, from_x]
    cutouts.variance[index, to_y, to_x] = pixels.variance[from_y, from_x]
    planes[index, to_y, to_x] = pixels.planes[from_y, from_x]


def _overlap(origin: int, size: int, start: int, stop: int) -> tuple[slice, slice]:
    """Return what a cutout and an image share, in pixels of either."""
    first = max(origin, start)
    last = max(min(origin + size, stop), first)
    return slice(first - origin, last - origin), slice(first - start, last - start)
