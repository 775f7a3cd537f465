# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import numpy as np
import pytest

from lsst.images import Box
from lsst.meas.tno._read_plan import MAX_PIXELS, ReadCosts, plan_reads

BBOX = Box.factory[-300:3796, 1000:5096]
SIZE = 50
ROWS, SQUARES = ReadCosts(tile_shape=(1, 4096)), ReadCosts(tile_shape=(256, 256))


def _origins(n: int, seed: int = 1, bbox: Box = BBOX) -> tuple[np.ndarray, np.ndarray]:
    """Return cutouts, some of which reach over the edges of the image."""
    rng = np.random.default_rng(seed)
    x0 = rng.integers(bbox.x.start - SIZE, bbox.x.stop, n)
    y0 = rng.integers(bbox.y.start - SIZE, bbox.y.stop, n)
    return x0, y0


def _tiles(box: Box, costs: ReadCosts, bbox: Box = BBOX) -> set[tuple[int, int]]:
    height, width = costs.tile_shape
    rows = range((box.y.start - bbox.y.start) // height, (box.y.stop - 1 - bbox.y.start) // height + 1)
    columns = range((box.x.start - bbox.x.start) // width, (box.x.stop - 1 - bbox.x.start) // width + 1)
    return {(row, column) for row in rows for column in columns}


def _cost(boxes: list[Box], costs: ReadCosts) -> float:
    height, width = costs.tile_shape
    n_tiles = sum(len(_tiles(box, costs)) for box in boxes)
    return len(boxes) * costs.call + n_tiles * (costs.tile + costs.pixel * height * width)


@pytest.mark.parametrize("n", [1, 7, 60, 500])
@pytest.mark.parametrize("costs", [ROWS, SQUARES, ReadCosts(), ReadCosts(call=20_000.0)])
def test_all_pixels_are_read_and_no_tile_twice(costs: ReadCosts, n: int) -> None:
    x0, y0 = _origins(n)
    is_read = np.zeros(BBOX.shape, dtype=bool)
    seen: set[tuple[int, int]] = set()
    for box, indices in plan_reads(x0, y0, SIZE, BBOX, costs):
        assert BBOX.contains(box)
        assert box.y.size * box.x.size <= MAX_PIXELS
        tiles = _tiles(box, costs)
        assert not seen & tiles
        seen |= tiles
        for index in indices:
            y, x = (
                slice(max(origin, axis.start) - start, min(origin + SIZE, axis.stop) - start)
                for origin, axis, start in (
                    (int(y0[index]), box.y, BBOX.y.start),
                    (int(x0[index]), box.x, BBOX.x.start),
                )
            )
            is_read[y, x] = True
    needed = np.zeros_like(is_read)
    for x, y in zip(x0 - BBOX.x.start, y0 - BBOX.y.start, strict=True):
        needed[max(y, 0) : max(y + SIZE, 0), max(x, 0) : max(x + SIZE, 0)] = True
    np.testing.assert_array_equal(is_read, needed)


@pytest.mark.parametrize("n", [2, 10, 30, 100, 500])
@pytest.mark.parametrize("costs", [ROWS, SQUARES])
def test_it_costs_less_than_boxes_and_than_the_whole(costs: ReadCosts, n: int) -> None:
    # Cutouts that share no tile may come in two boxes where they lie across
    # the border of tiles.
    x0, y0 = _origins(n, seed=2)
    boxes = [box for box, _ in plan_reads(x0, y0, SIZE, BBOX, costs)]
    alone = [box for i in range(n) for box, _ in plan_reads(x0[i : i + 1], y0[i : i + 1], SIZE, BBOX, costs)]
    rows = MAX_PIXELS // BBOX.x.size
    starts = range(BBOX.y.start, BBOX.y.stop, rows)
    whole = [Box.factory[start : start + rows, BBOX.x.start : BBOX.x.stop] for start in starts]
    assert _cost(boxes, costs) <= 1.1 * _cost(alone, costs)
    assert _cost(boxes, costs) <= _cost(whole, costs)


def test_one_cutout_is_read_alone() -> None:
    for costs in (ROWS, SQUARES):
        ((box, indices),) = plan_reads(np.array([2000]), np.array([100]), SIZE, BBOX, costs)
        assert box == Box.factory[100:150, 2000:2050]
        assert indices.tolist() == [0]


def test_gaps_are_bridged_where_a_call_costs_more() -> None:
    x0, y0 = np.array([1500, 4000]), np.array([100, 100 + SIZE + 3])
    assert len(list(plan_reads(x0, y0, SIZE, BBOX, ROWS))) == 1
    assert len(list(plan_reads(x0, y0 + [0, 20], SIZE, BBOX, ROWS))) == 2
    assert len(list(plan_reads(x0, y0 + [0, 20], SIZE, BBOX, ReadCosts(call=20_000.0)))) == 1


def test_nothing_is_read_off_the_image() -> None:
    x0, y0 = np.array([1000 - SIZE, 2000]), np.array([0, 3796])
    assert list(plan_reads(x0, y0, SIZE, BBOX, SQUARES)) == []
    assert list(plan_reads(x0[:0], y0[:0], SIZE, BBOX, SQUARES)) == []
