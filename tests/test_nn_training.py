# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nn_builders import as_handle, injected_sequences, moving_sequences, small_architecture

from lsst.meas.tno import ImageSequences
from lsst.meas.tno._schema import TRAINING_HISTORY_COLUMNS, validate_table
from lsst.meas.tno.nn import TrainingConfig
from lsst.meas.tno.nn.batches import split_evenly
from lsst.meas.tno.nn.compute import reproducible, resolve_device
from lsst.meas.tno.nn.metrics import roc_area
from lsst.meas.tno.nn.training import Trainer, _balance, history_table
from lsst.meas.tno.nn.training_set import ArrayStore, read_training_set
from lsst.pex.config import FieldValidationError
from lsst.utils.logging import getLogger

LOG = getLogger("test")


def make_trainer(directory: Path, sequences: ImageSequences, **fields: Any) -> Trainer:
    config = TrainingConfig()
    config.reinjection.update(**fields.pop("reinjection", {}))
    config.update(**{"device": "cpu", "max_epochs": 4, **fields})
    config.validate()
    directory.mkdir(exist_ok=True)
    architecture = small_architecture()
    reinjection = config.reinjection if config.reinject else None
    training_set = read_training_set(
        [as_handle(sequences)], architecture, ArrayStore(directory), LOG, reinjection
    )
    return Trainer(architecture, training_set, config, LOG)


def train(directory: Path, sequences: ImageSequences, **fields: Any) -> Trainer:
    with reproducible(n_threads=1, seed=fields.get("seed", 0)):
        trainer = make_trainer(directory, sequences, **fields)
        trainer.run()
    return trainer


def state_bytes(trainer: Trainer) -> bytes:
    return b"".join(
        tensor.cpu().contiguous().numpy().tobytes() for tensor in trainer.network.state_dict().values()
    )


def test_easy_objects_are_learned(tmp_path: Path) -> None:
    trainer = train(tmp_path, moving_sequences(0, 600, snr=20.0), max_epochs=8, learning_rate=3e-3)
    rows = trainer._data.rows("test")
    assert len(rows) > 50
    assert roc_area(trainer.compute_logits("test"), trainer._data.injected[rows]) > 0.9


def test_unbalanced_classes_are_learned(tmp_path: Path) -> None:
    sequences = moving_sequences(0, 1000, snr=20.0)
    keep = sequences.injection.injected | (np.arange(1000) % 10 == 0)
    trainer = train(tmp_path, sequences[keep], max_epochs=8, learning_rate=3e-3)
    logits, injected = trainer.compute_logits("test"), trainer._data.injected[trainer._data.rows("test")]
    # Without weights both classes would come out above the threshold.
    assert np.median(logits[~injected]) < 0 < np.median(logits[injected])


def test_equal_seeds_give_equal_bytes(tmp_path: Path) -> None:
    sequences = moving_sequences(0, 120)
    one = train(tmp_path / "one", sequences, max_epochs=2)
    torch.manual_seed(99)
    other = train(tmp_path / "other", sequences, max_epochs=2)
    third = train(tmp_path / "third", sequences, max_epochs=2, seed=1)
    assert state_bytes(one) == state_bytes(other)
    assert state_bytes(one) != state_bytes(third)


@pytest.mark.parametrize("reinject", [False, True])
def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path, reinject: bool) -> None:
    sequences = injected_sequences(0, 120)
    one, other = (
        train(tmp_path / str(n_workers), sequences, max_epochs=2, n_workers=n_workers, reinject=reinject)
        for n_workers in (0, 2)
    )
    assert state_bytes(one) == state_bytes(other)


def test_objects_injected_anew_are_learned(tmp_path: Path) -> None:
    sequences = injected_sequences(0, 600, snr=(15.0, 20.0))
    trainer = train(
        tmp_path,
        sequences,
        max_epochs=8,
        learning_rate=3e-3,
        reinject=True,
        reinjection={"max_subtracted_snr": 20.0},
    )
    rows = trainer._data.rows("test")
    assert roc_area(trainer.compute_logits("test"), trainer._data.injected[rows]) > 0.9


def test_sampling_balances_as_weights_do(tmp_path: Path) -> None:
    sequences = moving_sequences(0, 1000, snr=20.0)
    keep = sequences.injection.injected | (np.arange(1000) % 10 == 0)
    trainer = train(tmp_path, sequences[keep], max_epochs=8, learning_rate=3e-3, class_balance="sampling")
    logits, injected = trainer.compute_logits("test"), trainer._data.injected[trainer._data.rows("test")]
    assert np.median(logits[~injected]) < 0 < np.median(logits[injected])


def test_weights_give_the_classes_their_parts(tmp_path: Path) -> None:
    sequences = moving_sequences(0, 400)
    keep = sequences.injection.injected | (np.arange(400) % 8 == 0)
    trainer = make_trainer(tmp_path / "one", sequences[keep], positive_fraction=0.2)
    n_clean, n_injected = trainer._batches.n_training
    clean, injected = trainer._training_weights * (n_clean, n_injected)
    assert injected / (clean + injected) == pytest.approx(0.2)
    assert clean + injected == pytest.approx(n_clean + n_injected)
    np.testing.assert_array_equal(trainer._table_weights, trainer._training_weights)
    trainer = make_trainer(tmp_path / "other", sequences[keep], class_balance="none")
    assert trainer._training_weights.tolist() == trainer._table_weights.tolist() == [1.0, 1.0]


def test_gradients_are_clipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []

    def step(self: torch.optim.AdamW, closure: Any = None) -> None:
        gradients = [parameter.grad for group in self.param_groups for parameter in group["params"]]
        norms.append(float(torch.cat([gradient.ravel() for gradient in gradients]).norm()))

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    sequences = moving_sequences(0, 60)
    train(tmp_path / "one", sequences, max_epochs=1, batch_size=8)
    free, norms = norms, []
    train(tmp_path / "other", sequences, max_epochs=1, batch_size=8, gradient_clip=0.1)
    assert min(free) > 0.1
    assert norms == pytest.approx([0.1] * len(free), rel=1e-4)


def test_schedules_set_the_rates_of_the_epochs(tmp_path: Path) -> None:
    trainer = train(
        tmp_path,
        moving_sequences(0, 60),
        schedule="cosine",
        max_epochs=4,
        warmup_epochs=2,
        learning_rate=0.002,
    )
    rates = [epoch.learning_rate for epoch in trainer.history]
    assert rates == pytest.approx([0.001, 0.002, (0.002 + 2e-5) / 2, 2e-5])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_changes_nothing_on_a_cpu(tmp_path: Path, precision: str) -> None:
    sequences = moving_sequences(0, 60)
    one = train(tmp_path / "one", sequences, max_epochs=1)
    other = train(tmp_path / "other", sequences, max_epochs=1, mixed_precision=precision)
    assert state_bytes(one) == state_bytes(other)


def test_mixed_precision_on_a_gpu(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("There is no GPU.")
    sequences = moving_sequences(0, 600, snr=20.0)
    for precision in ("bf16", "fp16"):
        trainer = train(
            tmp_path / precision,
            sequences,
            max_epochs=8,
            learning_rate=3e-3,
            device="cuda",
            mixed_precision=precision,
        )
        rows = trainer._data.rows("test")
        assert roc_area(trainer.compute_logits("test"), trainer._data.injected[rows]) > 0.9


def test_what_does_not_change_the_classifier_is_not_described() -> None:
    config = TrainingConfig()
    described = config.describe()
    config.n_workers, config.checkpoint_dir = 3, "/somewhere"
    assert config.describe() == described
    config.reinjection.max_shift = 0.1
    assert config.describe() != described


def test_best_weights_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([0.5, 0.2, 0.4, 0.2, 0.3, 0.1])
    states = []

    def fake_epoch(self: Trainer, number: int) -> Any:
        epoch = original(self, number)
        states.append(state_bytes(self))
        object.__setattr__(epoch, "validation_loss", next(losses))
        return epoch

    original = Trainer._run_epoch
    monkeypatch.setattr(Trainer, "_run_epoch", fake_epoch)
    plateau = {"schedule": "plateau", "learning_rate": 1e-3, "learning_rate_patience": 2}
    trainer = train(tmp_path, moving_sequences(0, 60), max_epochs=10, patience=3, **plateau)
    # The first of equals is kept, and three epochs without a smaller one end
    # the training before the sixth.
    assert len(states) == len(trainer.history) == 5
    assert trainer.best_epoch == 1
    assert state_bytes(trainer) == states[1] != states[4]
    rates = [epoch.learning_rate for epoch in trainer.history]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 1e-3, 3e-4])


def test_validation_loss_is_that_of_the_kept_weights(tmp_path: Path) -> None:
    trainer = train(tmp_path, moving_sequences(0, 100))
    rows = trainer._data.rows("validation")
    injected = trainer._data.injected[rows]
    logits = trainer.compute_logits("validation").astype(float)
    weight = _balance(trainer._data.injected[trainer._data.rows("training")])[injected.astype(int)]
    loss = np.mean(weight * np.logaddexp(0.0, np.where(injected, -logits, logits)))
    assert trainer.history[trainer.best_epoch].validation_loss == pytest.approx(loss, rel=1e-6)


def test_history_has_its_schema(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        trainer = train(tmp_path, moving_sequences(0, 60), max_epochs=3)
    table = history_table(trainer.history)
    validate_table(table, TRAINING_HISTORY_COLUMNS)
    assert table["epoch"].tolist() == [0, 1, 2]
    assert sum("validation loss" in message for message in caplog.messages) == 3


def test_loss_that_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="learning rate"):
        train(tmp_path, moving_sequences(0, 60), learning_rate=1e30)


@pytest.mark.parametrize("n", [0, 1, 2, 31, 32, 33, 63, 64, 100])
def test_no_batch_of_one(n: int) -> None:
    batches = split_evenly(np.arange(n), 32)
    assert np.concatenate([[], *batches]).tolist() == list(range(n))
    if n >= 2:
        assert min(map(len, batches)) >= min(n, 32)
        assert max(map(len, batches)) < 64


def test_state_of_torch_is_put_back() -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    with reproducible(n_threads=before[0] + 1, seed=5):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == before[0] + 1
        torch.rand(1)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(RuntimeError, match="no GPU"):
        resolve_device("cuda")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 1),
        ("max_epochs", 0),
        ("patience", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate_patience", 0),
        ("learning_rate_factor", 1.0),
        ("weight_decay", -0.1),
        ("n_threads", 0),
        ("seed", -1),
    ],
)
def test_impossible_configuration(name: str, value: float) -> None:
    config = TrainingConfig()
    setattr(config, name, value)
    with pytest.raises(FieldValidationError, match=name):
        config.validate()
