# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from nn_builders import FILTERS, as_handle, injected_sequences

from lsst.meas.tno.nn.checkpoints import Checkpoints, TrainingState
from lsst.meas.tno.nn.training import Trainer
from lsst.meas.tno.tasks.train_classifier import TrainClassifierConfig, TrainClassifierTask
from lsst.pipe.base import InMemoryDatasetHandle, Struct
from lsst.utils.logging import getLogger

LOG = getLogger("test")
KEY = "0123456789abcdef" * 4


class InterruptedTrainingError(Exception):
    """Somebody pulled the plug."""


def make_task(checkpoint_dir: Path | None, **training: Any) -> TrainClassifierTask:
    config = TrainClassifierConfig()
    config.architecture.name = "conv3d"
    config.architecture["conv3d"].filters = FILTERS
    config.architecture["conv3d"].dense_units = 8
    config.training.update(**{"max_epochs": 6, "device": "cpu", "batch_size": 16, **training})
    config.training.checkpoint_dir = None if checkpoint_dir is None else str(checkpoint_dir)
    config.validate()
    return TrainClassifierTask(config=config)


def make_handles(seed: int = 1) -> list[InMemoryDatasetHandle]:
    return [as_handle(injected_sequences(seed + patch, 80, patch=patch)) for patch in (0, 1)]


def run_task(checkpoint_dir: Path | None, seed: int = 1, **training: Any) -> pa.Table:
    outputs: list[Struct] = []
    butler = SimpleNamespace(
        get=lambda refs: make_handles(seed), put=lambda result, refs: outputs.append(result)
    )
    run_quantum(make_task(checkpoint_dir, **training), butler)
    return outputs[0].classifier


def run_quantum(task: TrainClassifierTask, butler: Any) -> None:
    task.runQuantum(butler, SimpleNamespace(sequences=[]), SimpleNamespace())


def interrupt_after(monkeypatch: pytest.MonkeyPatch, n_steps: int) -> None:
    """Make training fail in the middle of an epoch."""
    original, count = Trainer._step, 0

    def step(*args: Any) -> float:
        nonlocal count
        count += 1
        if count > n_steps:
            raise InterruptedTrainingError
        return original(*args)

    monkeypatch.setattr(Trainer, "_step", step)


@pytest.mark.parametrize(
    "training",
    [
        {"learning_rate_patience": 1},
        {"schedule": "cosine", "gradient_clip": 0.5},
        {"reinject": True, "schedule": "one_cycle", "n_workers": 2},
    ],
)
def test_resumed_training_gives_the_same_bytes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    training: dict[str, Any],
) -> None:
    expected = run_task(None, **training)
    # 7 steps an epoch: the fourth epoch is interrupted.
    with monkeypatch.context() as context:
        interrupt_after(context, 3 * 7 + 4)
        with pytest.raises(InterruptedTrainingError):
            run_task(tmp_path / "new", **training)
    assert len(list((tmp_path / "new").iterdir())) == 1
    with caplog.at_level(logging.INFO):
        resumed = run_task(tmp_path / "new", **training)
    epochs = [message.split(":")[0] for message in caplog.messages if "validation loss 0" in message]
    assert epochs == ["Epoch 3", "Epoch 4", "Epoch 5"]
    assert resumed.equals(expected, check_metadata=True)
    assert not list((tmp_path / "new").iterdir())


def test_training_that_stopped_by_itself_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run_task(None, max_epochs=2)

    def fail(*args: Any) -> None:
        raise InterruptedTrainingError

    with monkeypatch.context() as context:
        context.setattr(TrainClassifierTask, "_summarize", fail)
        with pytest.raises(InterruptedTrainingError):
            run_task(tmp_path, max_epochs=2)
        assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(Trainer, "_run_epoch", fail)
    assert run_task(tmp_path, max_epochs=2).equals(expected, check_metadata=True)


def test_checkpoints_stay_until_the_output_is_put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(*args: Any) -> None:
        raise OSError("No space left on device.")

    butler = SimpleNamespace(get=lambda refs: make_handles(), put=put)
    with pytest.raises(OSError, match="No space left"):
        run_quantum(make_task(tmp_path, max_epochs=2), butler)
    assert len(list(tmp_path.iterdir())) == 1
    interrupt_after(monkeypatch, 0)
    run_task(tmp_path, max_epochs=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", [{"learning_rate": 2e-3}, {"max_epochs": 7}, {"seed": 5}])
def test_other_trainings_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, change: dict[str, Any]
) -> None:
    with monkeypatch.context() as context:
        interrupt_after(context, 2 * 7)
        with pytest.raises(InterruptedTrainingError):
            run_task(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with caplog.at_level(logging.INFO):
        other = run_task(tmp_path, **{"max_epochs": 3, **change})
    assert any("Ignoring 1 checkpoints" in message for message in caplog.messages)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    fresh = run_task(None, **{"max_epochs": 3, **change})
    assert other.equals(fresh, check_metadata=True)


def test_number_of_workers_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        interrupt_after(context, 2 * 7)
        with pytest.raises(InterruptedTrainingError):
            run_task(tmp_path, max_epochs=3)
    assert run_task(tmp_path, max_epochs=3, n_workers=1).equals(
        run_task(None, max_epochs=3), check_metadata=True
    )


def make_state() -> TrainingState:
    rng = np.random.default_rng(1)
    arrays = {"a.weight": rng.normal(size=(3, 2)).astype(np.float32), "header": np.arange(3)}
    return TrainingState(arrays, {"loss": [0.1, 1 / 3], "best": None})


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "new", KEY, LOG)
    assert checkpoints.load() is None
    checkpoints.save(make_state())
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.values == make_state().values
    assert list(loaded.arrays) == list(make_state().arrays)
    for name, array in make_state().arrays.items():
        assert loaded.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded.arrays[name], array)
    checkpoints.remove()
    checkpoints.remove()
    assert checkpoints.load() is None


def test_interrupted_save_keeps_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, KEY, LOG)
    checkpoints.save(make_state())

    def half(stream: Any, **arrays: Any) -> None:
        stream.write(b"half")
        raise InterruptedTrainingError

    with monkeypatch.context() as context:
        context.setattr(np, "savez", half)
        with pytest.raises(InterruptedTrainingError):
            checkpoints.save(TrainingState({}, {}))
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.values == make_state().values
    checkpoints.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["truncated", "objects", "no header", "other key", "other version", "empty"])
def test_files_that_are_no_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    checkpoints = Checkpoints(tmp_path, KEY, LOG)
    checkpoints.save(make_state())
    (path,) = tmp_path.iterdir()
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-50])
    elif kind == "objects":
        np.savez(path, header=np.array([{"key": KEY}], dtype=object))
    elif kind == "no header":
        np.savez(path, weight=np.zeros(3))
    elif kind == "other key":
        checkpoints = Checkpoints(tmp_path, KEY[:16] + "0" * 48, LOG)
    elif kind == "other version":
        monkeypatch.setattr("lsst.meas.tno.nn.checkpoints.FORMAT_VERSION", 2)
    else:
        path.write_bytes(b"")
    assert checkpoints.load() is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(path) in record.message
