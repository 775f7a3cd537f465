# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The training of a network."""

from __future__ import annotations

__all__ = ("Epoch", "Trainer", "history_table")

import copy
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from astropy.table import Column, Table
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from lsst.utils.logging import LsstLogAdapter, PeriodicLogger

from .._schema import TRAINING_HISTORY_COLUMNS
from .architectures import Architecture
from .compute import compute_logits, resolve_device, to_tensors
from .inputs import augment
from .metrics import roc_area
from .training_config import TrainingConfig
from .training_set import TrainingSet


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One row of the training history; `TRAINING_HISTORY_COLUMNS` says what
    the attributes are.
    """

    epoch: int
    learning_rate: float
    training_loss: float
    validation_loss: float
    validation_roc_area: float
    seconds: float


class Trainer:
    """Trains a network on sequences with and without an object.

    The loss is the binary cross-entropy, each class with half of the weight
    whatever its number of sequences.

    Parameters
    ----------
    architecture
        Architecture of the network; a new one is built.
    training_set
        Sequences to train and validate on.
    config
        Configuration.
    log
        Logger.

    Notes
    -----
    Use it inside of `reproducible`, from construction on.
    """

    def __init__(
        self,
        architecture: Architecture,
        training_set: TrainingSet,
        config: TrainingConfig,
        log: LsstLogAdapter,
    ) -> None:
        self.device = resolve_device(config.device)
        self.network = architecture.build(training_set.shape).to(self.device)
        self.history: list[Epoch] = []
        self._axes = architecture.inputs
        self._data = training_set
        self._config = config
        self._log = log
        self._rng = np.random.default_rng(config.seed)
        self._class_weights = _balance(training_set.injected[training_set.rows("training")])
        self._optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self._scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self._optimizer,
            factor=config.learning_rate_factor,
            patience=config.learning_rate_patience - 1,
            threshold=0.0,
        )

    @property
    def best_epoch(self) -> int:
        """Epoch with the smallest validation loss, the first of equals
        (`int`).
        """
        return int(np.argmin([epoch.validation_loss for epoch in self.history]))

    def run(self) -> nn.Module:
        """Train until the validation loss has stopped falling.

        Returns
        -------
        network : `torch.nn.Module`
            Network with the weights of the best epoch.

        Raises
        ------
        FloatingPointError
            Raised if the loss is not finite.
        """
        best_state: dict[str, Any] = {}
        for number in range(self._config.max_epochs):
            epoch = self._run_epoch(number)
            self.history.append(epoch)
            self._report(epoch)
            if self.best_epoch == number:
                best_state = copy.deepcopy(self.network.state_dict())
            self._scheduler.step(epoch.validation_loss)
            if number - self.best_epoch >= self._config.patience:
                self._log.info("No smaller validation loss in %d epochs: done.", self._config.patience)
                break
        self.network.load_state_dict(best_state)
        return self.network

    def compute_logits(self, split: str) -> np.ndarray:
        """Return what the network says of the sequences of a split.

        Parameters
        ----------
        split
            Name of the split.

        Returns
        -------
        logits : `numpy.ndarray`
            Logits, float32, in the order of `TrainingSet.rows`.
        """
        rows = self._data.rows(split)
        batches = (self._data.store.load(batch) for batch in _split_evenly(rows, self._config.batch_size))
        return compute_logits(self.network, batches, self.device)

    def _run_epoch(self, number: int) -> Epoch:
        start = time.monotonic()
        learning_rate = self._optimizer.param_groups[0]["lr"]
        training_loss = self._train(number)
        self._settle_batch_norm()
        logits = self.compute_logits("validation")
        injected = self._data.injected[self._data.rows("validation")]
        loss = float(self._loss(torch.from_numpy(logits).double(), injected))
        if not np.isfinite(loss):
            raise FloatingPointError(f"The validation loss of epoch {number} is {loss}. {_LOSS_ADVICE}")
        return Epoch(
            epoch=number,
            learning_rate=learning_rate,
            training_loss=training_loss,
            validation_loss=loss,
            validation_roc_area=roc_area(logits, injected),
            seconds=time.monotonic() - start,
        )

    def _train(self, number: int) -> float:
        self.network.train()
        rows = self._rng.permutation(self._data.rows("training"))
        batches = _split_evenly(rows, self._config.batch_size)
        progress = PeriodicLogger(self._log)
        total = 0.0
        for i, batch in enumerate(batches):
            loss = self._step(batch)
            if not np.isfinite(loss):
                raise FloatingPointError(f"The training loss of epoch {number} is {loss}. {_LOSS_ADVICE}")
            total += loss * len(batch)
            progress.log("Epoch %d: step %d of %d.", number, i + 1, len(batches))
        return total / len(rows)

    def _settle_batch_norm(self) -> None:
        """Compute the statistics of batch normalisation with the weights at
        the end of the epoch.

        The running averages hold those of the last few batches and of weights
        that have changed since; a few bright stars in them can ruin the
        logits (Wu & Johnson 2021, arXiv:2105.07576, section 3).
        """
        rows = self._rng.permutation(self._data.rows("training"))[: self._config.batch_norm_sequences]
        batches = _split_evenly(rows, self._config.batch_size)
        update_bn((to_tensors(self._data.store.load(batch), self.device) for batch in batches), self.network)

    def _step(self, rows: np.ndarray) -> float:
        arrays = self._data.store.load(rows)
        if self._config.augmentation:
            augment(arrays, self._axes, self._data.n_valid[rows], self._rng)
        self._optimizer.zero_grad()
        logits = self.network(to_tensors(arrays, self.device))
        loss = self._loss(logits, self._data.injected[rows])
        loss.backward()
        self._optimizer.step()
        return loss.item()

    def _loss(self, logits: Tensor, injected: np.ndarray) -> Tensor:
        target = torch.from_numpy(injected).to(logits)
        weight = torch.from_numpy(self._class_weights[injected.astype(int)]).to(logits)
        return functional.binary_cross_entropy_with_logits(logits, target, weight=weight)

    def _report(self, epoch: Epoch) -> None:
        self._log.info(
            "Epoch %d: training loss %.4f, validation loss %.4f, validation ROC area %.4f, "
            "learning rate %.2g, %.1f s.",
            epoch.epoch,
            epoch.training_loss,
            epoch.validation_loss,
            epoch.validation_roc_area,
            epoch.learning_rate,
            epoch.seconds,
        )


_LOSS_ADVICE = "Lower the learning rate."


def history_table(history: Sequence[Epoch]) -> Table:
    """Return the history of a training as a table.

    Parameters
    ----------
    history
        The epochs.
    """
    return Table(
        [
            Column(
                np.array([getattr(epoch, column.name) for epoch in history], dtype=column.dtype),
                name=column.name,
                unit=column.unit,
                description=column.doc,
            )
            for column in TRAINING_HISTORY_COLUMNS
        ]
    )


def _balance(injected: np.ndarray) -> np.ndarray:
    n_injected = np.count_nonzero(injected)
    return len(injected) / (2.0 * np.array([len(injected) - n_injected, n_injected]))


def _split_evenly(rows: np.ndarray, batch_size: int) -> list[np.ndarray]:
    # Batches of no less than the size: the batch normalisation of a single
    # sequence is not defined.
    return np.array_split(rows, max(1, len(rows) // batch_size)) if len(rows) else []
