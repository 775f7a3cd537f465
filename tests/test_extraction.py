# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import numpy as np
import pytest
from builders import white_sequences

from lsst.meas.tno import ImageSequences, MaskBit
from lsst.meas.tno.extraction import (
    SequencePlan,
    bytes_per_sequence,
    drop_images,
    night_of,
    plan_sequences,
    spread,
)


def _plan(covers, mjd, **kwargs):
    return plan_sequences(np.asarray(covers, dtype=bool), np.asarray(mjd), **kwargs)


def test_a_night_of_96_visits_gives_50_and_46():
    plan = _plan(np.ones((1, 96)), 60980.1 + np.arange(96) / 2000, windowing="all", n_times=50, min_times=30)
    assert plan.position.tolist() == [0, 0]
    assert plan.visit[0].tolist() == list(range(50))
    assert plan.visit[1].tolist() == [*range(50, 96), -1, -1, -1, -1]


def test_a_rest_below_min_times_is_left_out():
    plan = _plan(np.ones((1, 70)), np.arange(70.0), windowing="all", n_times=50, min_times=30)
    assert len(plan) == 1


def test_nights_are_not_mixed_and_positions_are_independent():
    mjd = np.concatenate([60980.99 + np.arange(6) / 100, 60981.99 + np.arange(6) / 100])
    covers = np.ones((2, 12), dtype=bool)
    covers[1, 2] = False
    plan = _plan(covers, mjd, windowing="night", n_times=4, min_times=2)
    assert plan.position.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert [row[row >= 0].tolist() for row in plan.visit] == [
        [0, 1, 2, 3],
        [4, 5],
        [6, 7, 8, 9],
        [10, 11],
        [0, 1, 3, 4],
        [6, 7, 8, 9],
        [10, 11],
    ]
    assert plan.slots(3)[0].tolist() == [0, 4]
    assert plan.slots(3)[1].tolist() == [3, 2]


def test_night_does_not_change_at_midnight():
    # 2025-11-01 23:59 and 2025-11-02 00:01 UTC are one night in Chile; the
    # next noon there is 16 h UTC, and Rubin's day begins at 12 h UTC.
    assert night_of([60980.999, 60981.001, 60981.49]).tolist() == [60980, 60980, 60980]
    assert night_of([60981.51]).tolist() == [60981]


def test_no_position_gives_an_empty_plan():
    plan = _plan(np.zeros((3, 5)), np.arange(5.0), windowing="all", n_times=4, min_times=1)
    assert len(plan) == 0
    assert plan.visit.shape == (0, 4)


def test_bytes_per_sequence_is_what_a_row_takes():
    sequences = ImageSequences.full(7, T=50, H=50, W=50, K=25)
    total = sum(array.nbytes for _, array in sequences.items())
    assert 7 * bytes_per_sequence(50, 50, 25) == total


def test_drop_images_closes_the_gaps():
    sequences = white_sequences(np.random.default_rng(1), 3, n_times=5)
    expected = sequences.image[1, [0, 2, 4]].copy()
    keep = np.ones((3, 5), dtype=bool)
    keep[1] = [True, False, True, False, True]
    keep[2] = [False, False, False, True, False]
    result = drop_images(sequences, keep, 2)
    result.validate()
    assert result.sequence_id.tolist() == [0, 1]
    assert result.valid[1].tolist() == [True, True, True, False, False]
    assert result.visit[1].tolist() == [0, 2, 4, -1, -1]
    np.testing.assert_array_equal(result.image[1, :3], expected)
    assert np.all(np.isnan(result.psf[1, 3:]))
    assert np.all(result.mask[1, 3:] == MaskBit.NO_DATA)


def test_drop_nothing_returns_the_same_sequences():
    sequences = white_sequences(np.random.default_rng(1), 2, n_times=5)
    assert drop_images(sequences, sequences.valid.copy(), 2) is sequences


@pytest.mark.parametrize("windowing", ["all", "night"])
def test_every_image_is_used_at_most_once(windowing):
    rng = np.random.default_rng(2)
    covers = rng.uniform(size=(20, 200)) < 0.7
    mjd = np.sort(rng.uniform(60980, 60985, 200))
    plan = _plan(covers, mjd, windowing=windowing, n_times=20, min_times=5)
    for position in range(20):
        used = plan.visit[plan.position == position]
        used = used[used >= 0]
        assert np.all(np.diff(used) > 0)
        assert np.all(covers[position, used])


def test_drop_images_needs_no_second_table():
    sequences = white_sequences(np.random.default_rng(1), 9, n_times=5)
    expected = sequences.image[[1, 2, 5, 8]].copy()
    keep = np.ones((9, 5), dtype=bool)
    keep[[0, 3, 4, 6, 7]] = False
    result = drop_images(sequences, keep, 2)
    assert result.sequence_id.tolist() == [1, 2, 5, 8]
    np.testing.assert_array_equal(result.image, expected)
    for column, array in result.items():
        assert np.shares_memory(array, getattr(sequences, column.name)), column.name


def test_spread():
    assert spread(3, 9).tolist() == [1, 4, 7]
    assert spread(4, 4).tolist() == [0, 1, 2, 3]
    assert spread(0, 4).tolist() == []
    chosen = spread(17, 1000)
    assert len(chosen) == 17
    assert np.ptp(np.diff(chosen)) <= 1
    assert chosen[0] + chosen[-1] == pytest.approx(999, abs=1)


@pytest.fixture
def uneven_plan():
    """Positions 0 to 9 with 1, 2, 3, ... runs each."""
    position = np.repeat(np.arange(10), np.arange(1, 11))
    return SequencePlan(position, np.arange(2 * len(position)).reshape(-1, 2))


@pytest.mark.parametrize("n", [0, 1, 4, 10, 30, 54, 55, 99])
def test_a_plan_with_fewer_positions_has_all_of_their_runs(uneven_plan, n):
    plan = uneven_plan.with_fewer_positions(n)
    assert len(plan) <= n
    for position in np.unique(plan.position):
        np.testing.assert_array_equal(
            plan.visit[plan.position == position], uneven_plan.visit[uneven_plan.position == position]
        )
    assert len(plan) == 55 or n < 55
    assert len(plan) >= n - 10 or n > 55


@pytest.mark.parametrize("n", [0, 9, 10, 20, 54, 55, 99])
def test_a_plan_with_fewer_images_has_all_positions(uneven_plan, n):
    plan = uneven_plan.with_fewer_images(n)
    assert len(plan) <= n
    count = np.bincount(plan.position, minlength=10)
    np.testing.assert_array_equal(count, np.minimum(np.arange(1, 11), count.max(initial=0)))
    assert len(plan) == (0 if n < 10 else 55 if n >= 55 else {10: 10, 20: 19, 54: 54}[n])
    for row, position in zip(plan.visit, plan.position, strict=True):
        assert row.tolist() in uneven_plan.visit[uneven_plan.position == position].tolist()


def test_plans_of_nothing_stay_so():
    plan = SequencePlan(np.empty(0, dtype=np.int64), np.empty((0, 4), dtype=np.int64))
    assert len(plan.with_fewer_positions(5)) == len(plan.with_fewer_images(5)) == 0
