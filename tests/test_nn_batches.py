# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nn_builders import as_handle, injected_sequences, small_architecture

from lsst.meas.tno import ImageSequences
from lsst.meas.tno.nn import TrainingConfig
from lsst.meas.tno.nn.array_store import ArrayStore
from lsst.meas.tno.nn.batches import Batch, BatchMaker, prefetch
from lsst.meas.tno.nn.training_set import TrainingSet, read_training_set
from lsst.utils.logging import getLogger

LOG = getLogger("test")


def make_batches(
    directory: Path, sequences: ImageSequences, **fields: Any
) -> tuple[BatchMaker, TrainingSet, TrainingConfig]:
    config = TrainingConfig()
    reinjection = fields.pop("reinjection", {})
    config.update(**{"batch_size": 8, **fields})
    config.reinjection.update(**reinjection)
    config.validate()
    directory.mkdir(exist_ok=True)
    data = read_training_set(
        [as_handle(sequences)],
        small_architecture(),
        ArrayStore(directory),
        LOG,
        config.reinjection if config.reinject else None,
    )
    return BatchMaker(small_architecture(), data, config), data, config


def content(batches: list[Batch]) -> bytes:
    return b"".join(batch.arrays["significance"].tobytes() + batch.injected.tobytes() for batch in batches)


@pytest.mark.parametrize("reinject", [False, True])
@pytest.mark.parametrize("name", ["training", "batch_norm"])
def test_batches_do_not_depend_on_the_number_of_workers(tmp_path: Path, reinject: bool, name: str) -> None:
    sequences = injected_sequences(1, 120)
    found = []
    for n_workers in (0, 1, 3):
        directory = tmp_path / f"{n_workers}"
        maker, *_ = make_batches(directory, sequences, n_workers=n_workers, reinject=reinject)
        # Nor on what was made before.
        found.append(content(list(getattr(maker, name)(1))) if n_workers else b"")
        assert content(list(getattr(maker, name)(0))) != found[-1]
        found[-1] = found[-1] or content(list(getattr(maker, name)(1)))
    assert found[0] == found[1] == found[2]


def test_each_sequence_once_an_epoch(tmp_path: Path) -> None:
    maker, data, _ = make_batches(tmp_path, injected_sequences(1, 120), augmentation=False)
    rows = data.rows("training")
    expected = sorted(array.tobytes() for array in data.store.load(rows)["significance"])
    orders = set()
    for epoch in range(2):
        batches = list(maker.training(epoch))
        assert len(batches) == maker.n_steps
        arrays = [array.tobytes() for batch in batches for array in batch.arrays["significance"]]
        assert sorted(arrays) == expected
        orders.add(b"".join(arrays))
        labels = dict(zip(arrays, np.concatenate([batch.injected for batch in batches]), strict=True))
        truth = zip(data.store.load(rows)["significance"], data.injected[rows], strict=True)
        assert all(labels[array.tobytes()] == injected for array, injected in truth)
    assert len(orders) == 2


def test_sampling_repeats_the_rarer_class(tmp_path: Path) -> None:
    sequences = injected_sequences(1, 400)
    keep = ~sequences.injection.injected | (np.cumsum(sequences.injection.injected) % 5 == 0)
    maker, data, _ = make_batches(
        tmp_path, sequences[keep], class_balance="sampling", positive_fraction=0.4, augmentation=False
    )
    batches = list(maker.training(0))
    labels = np.concatenate([batch.injected for batch in batches])
    n = len(data.rows("training"))
    assert len(labels) == n
    assert labels.sum() == round(0.4 * n) == maker.n_training[1]
    arrays = [array.tobytes() for batch in batches for array in batch.arrays["significance"]]
    positives = [array for array, label in zip(arrays, labels, strict=True) if label]
    # All of them are there, about equally often.
    n_injected = np.count_nonzero(data.injected[data.rows("training")])
    _, counts = np.unique(positives, return_counts=True)
    assert len(counts) == n_injected
    assert np.ptp(counts) <= 1


def test_reinjection_gives_new_objects_in_the_configured_fraction(tmp_path: Path) -> None:
    maker, data, _ = make_batches(
        tmp_path, injected_sequences(1, 200), reinject=True, positive_fraction=0.3, augmentation=False
    )
    n = len(data.rows("training"))
    seen: dict[bytes, set[bool]] = {}
    for epoch in range(12):
        batches = list(maker.training(epoch))
        labels = np.concatenate([batch.injected for batch in batches])
        arrays = np.concatenate([batch.arrays["significance"] for batch in batches])
        assert len(labels) == n
        assert labels.sum() == round(0.3 * n)
        # The corners are out of reach of an object: they tell the sequence.
        for array, label in zip(arrays, labels.tolist(), strict=True):
            seen.setdefault(array[0, 0, :2].round(2).tobytes(), set()).add(label)
    assert sum(labels == {False, True} for labels in seen.values()) > 0.5 * n


def test_sequences_that_keep_their_objects_are_as_they_were(tmp_path: Path) -> None:
    maker, data, _ = make_batches(
        tmp_path,
        injected_sequences(1, 200),
        reinject=True,
        augmentation=False,
        reinjection={"max_subtracted_snr": 0.0},
    )
    rows = data.rows("training")
    batches = list(maker.training(0))
    labels = np.concatenate([batch.injected for batch in batches])
    arrays = [array.tobytes() for batch in batches for array in batch.arrays["significance"]]
    stored = [array.tobytes() for array in data.store.load(rows)["significance"]]
    kept = {array for array, injected in zip(stored, data.injected[rows], strict=True) if injected}
    clean = {array for array, injected in zip(stored, data.injected[rows], strict=True) if not injected}
    assert labels.sum() == round(0.5 * len(rows))
    negative = {array for array, label in zip(arrays, labels, strict=True) if not label}
    positive = {array for array, label in zip(arrays, labels, strict=True) if label}
    assert negative <= clean
    assert 0.3 * len(positive) < len(positive & kept) < 0.7 * len(positive)
    assert not positive & clean


def test_validation_is_as_in_the_table(tmp_path: Path) -> None:
    maker, data, _ = make_batches(tmp_path, injected_sequences(1, 200), reinject=True, n_workers=1)
    found = np.concatenate([arrays["significance"] for arrays in maker.split("validation")])
    np.testing.assert_array_equal(found, data.store.load(data.rows("validation"))["significance"])


def test_prefetch_keeps_the_order_and_its_distance() -> None:
    running, most, started = 0, 0, 0
    lock = threading.Lock()

    def make(number: int) -> int:
        nonlocal running, most, started
        with lock:
            running, started = running + 1, started + 1
            most = max(most, running)
        threading.Event().wait(0.002 * (number % 3))
        with lock:
            running -= 1
        return number

    found = []
    for number in prefetch((functools.partial(make, number) for number in range(40)), 3):
        found.append(number)
        assert started <= len(found) + 3
    assert found == list(range(40))
    assert 1 < most <= 3


@pytest.mark.parametrize("n_workers", [0, 2])
def test_prefetch_passes_errors_on(n_workers: int) -> None:
    def fail() -> int:
        raise ValueError("no batch")

    makers: list[Callable[[], int]] = [lambda: 1, fail, lambda: 2]
    made = prefetch(makers, n_workers)
    assert next(made) == 1
    with pytest.raises(ValueError, match="no batch"):
        next(made)
