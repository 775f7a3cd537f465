# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which boxes of an image to read for a set of cutouts.

Images are compressed in tiles, and a tile is decompressed as a whole: what a
read costs depends on the tiles that it touches, and a tile should be touched
once.
"""

from __future__ import annotations

__all__ = ("ReadCosts", "plan_reads")

import dataclasses
from collections.abc import Iterator

import numpy as np

from lsst.images import Box

MAX_PIXELS = 1 << 21
"""Pixels that are read at a time, an eighth of one of Rubin's detectors: the
whole of it is never in memory, and the calls cost a hundredth of the reading.
"""

type Rectangle = tuple[int, int, int, int]
"""First and last but one row, then column."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadCosts:
    """CPU time that reading takes, microseconds.

    Only its ratios matter, and only for the speed: cutouts are the same
    whatever is read for them. The defaults are measured with lsst.images,
    image, mask and variance together.
    """

    tile_shape: tuple[int, int] = (1, 1 << 30)
    """Height and width of a tile, pixels; rows, which FITS compresses by
    default (`tuple` [`int`]).
    """

    call: float = 1200.0
    """For each box (`float`)."""

    tile: float = 100.0
    """For each tile (`float`)."""

    pixel: float = 0.029
    """For each pixel of a tile (`float`)."""


def plan_reads(
    x0: np.ndarray, y0: np.ndarray, size: int, bbox: Box, costs: ReadCosts
) -> Iterator[tuple[Box, np.ndarray]]:
    """Iterate over the boxes to read for a set of cutouts.

    Parameters
    ----------
    x0, y0
        Origins of the cutouts, ``(n,)``, pixels.
    size
        Width and height of the cutouts, pixels.
    bbox
        Box of the image.
    costs
        What reading costs.

    Yields
    ------
    box : `lsst.images.Box`
        Box to read, inside of the image.
    indices : `numpy.ndarray`
        Cutouts that it has pixels of. Together, the boxes have all pixels of
        the cutouts that are on the image.
    """
    rows = np.clip(np.stack([y0, y0 + size]) - bbox.y.start, 0, bbox.y.size)
    columns = np.clip(np.stack([x0, x0 + size]) - bbox.x.start, 0, bbox.x.size)
    height, width = (min(tile, n) for tile, n in zip(costs.tile_shape, bbox.shape, strict=True))
    for rectangle in _choose_tiles(rows, columns, (height, width), bbox.shape, costs):
        top, bottom, left, right = rectangle
        step = max(1, MAX_PIXELS // ((right - left) * width * height)) * height
        for first in range(top * height, bottom * height, step):
            last = min(first + step, bottom * height)
            yield from _fit(rows, columns, (first, last, left * width, right * width), bbox)


def _choose_tiles(
    rows: np.ndarray,
    columns: np.ndarray,
    tile_shape: tuple[int, int],
    shape: tuple[int, ...],
    costs: ReadCosts,
) -> list[Rectangle]:
    """Return rectangles of tiles, in units of them, that cost least."""
    needed = np.zeros([-(-n // tile) for n, tile in zip(shape, tile_shape, strict=True)], dtype=bool)
    (first_row, last_row), (first_column, last_column) = (
        (ends[0] // tile, -(-ends[1] // tile)) for ends, tile in zip((rows, columns), tile_shape, strict=True)
    )
    is_inside = (rows[0] < rows[1]) & (columns[0] < columns[1])
    for top, bottom, left, right in zip(
        *(end[is_inside].tolist() for end in (first_row, last_row, first_column, last_column)), strict=True
    ):
        needed[top:bottom, left:right] = True
    if not np.any(needed):
        return []
    per_tile = costs.tile + costs.pixel * tile_shape[0] * tile_shape[1]
    reach = int(costs.call // per_tile)
    _bridge(needed, reach)
    _bridge(needed.T, reach)
    parts = _rectangles(needed)
    whole = _extent(needed)
    cost_of_parts, cost_of_whole = (
        sum(costs.call + per_tile * (bottom - top) * (right - left) for top, bottom, left, right in some)
        for some in (parts, [whole])
    )
    return parts if cost_of_parts < cost_of_whole else [whole]


def _bridge(needed: np.ndarray, reach: int) -> None:
    """Fill gaps along the first axis that cost less than another call."""
    line, where = np.nonzero(needed.T)
    gap = np.diff(where) - 1
    for index in np.flatnonzero((np.diff(line) == 0) & (gap > 0) & (gap <= reach)):
        needed[where[index] : where[index + 1], line[index]] = True


def _rectangles(needed: np.ndarray) -> list[Rectangle]:
    """Divide what is needed into runs of columns, as many rows high as
    possible.
    """
    rectangles: list[Rectangle] = []
    begun: dict[tuple[int, int], int] = {}
    changes = np.flatnonzero(np.any(needed[1:] != needed[:-1], axis=1)) + 1
    for row in [0, *changes.tolist(), len(needed)]:
        line = needed[row] if row < len(needed) else np.zeros_like(needed[0])
        edges = np.flatnonzero(np.diff(line, prepend=False, append=False)).reshape(-1, 2)
        runs = {(left, right) for left, right in edges.tolist()}
        for run in [run for run in begun if run not in runs]:
            rectangles.append((begun.pop(run), row, *run))
        for run in runs:
            begun.setdefault(run, row)
    return sorted(rectangles)


def _extent(needed: np.ndarray) -> Rectangle:
    rows, columns = (np.flatnonzero(np.any(needed, axis=axis)) for axis in (1, 0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _fit(
    rows: np.ndarray, columns: np.ndarray, pixels: Rectangle, bbox: Box
) -> Iterator[tuple[Box, np.ndarray]]:
    """Fit a box to what the cutouts need of some pixels of the image."""
    top, bottom, left, right = pixels
    rows, columns = np.clip(rows, top, bottom), np.clip(columns, left, right)
    indices = np.flatnonzero((rows[0] < rows[1]) & (columns[0] < columns[1]))
    if len(indices):
        (y_start, y_stop), (x_start, x_stop) = (
            (int(ends[0, indices].min()) + start, int(ends[1, indices].max()) + start)
            for ends, start in ((rows, bbox.y.start), (columns, bbox.x.start))
        )
        yield Box.factory[y_start:y_stop, x_start:x_stop], indices
