# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The training of a network."""

from __future__ import annotations

__all__ = ("Epoch", "Trainer", "history_table")

import copy
import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import Column, Table
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from lsst.utils.logging import LsstLogAdapter

from .._progress import log_progress
from .._schema import TRAINING_HISTORY_COLUMNS
from .architectures import Architecture
from .batches import Batch, BatchMaker, split_evenly
from .checkpoints import Checkpoints, TrainingState
from .compute import compute_logits, resolve_device, to_tensors
from .metrics import roc_area
from .schedules import learning_rate
from .training_config import TrainingConfig
from .training_set import TrainingSet

PRECISIONS = {"none": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""dtypes of the products, by ``mixed_precision``."""


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

    The loss is the binary cross-entropy, by default each class with half of
    the weight whatever its number of sequences.

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
        self._data = training_set
        self._config = config
        self._log = log
        self._batches = BatchMaker(architecture, training_set, config)
        self._best_state: dict[str, Any] = {}
        self._optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        is_mixed = self.device.type == "cuda" and config.mixed_precision != "none"
        self._autocast = torch.autocast(
            self.device.type, dtype=PRECISIONS[config.mixed_precision], enabled=is_mixed
        )
        self._scaler = torch.amp.GradScaler(
            self.device.type, enabled=is_mixed and config.mixed_precision == "fp16"
        )
        self._checkpoints = None
        if config.checkpoint_dir is not None:
            key = _training_key(architecture, training_set, config, self.device)
            self._checkpoints = Checkpoints(Path(config.checkpoint_dir), key, log)

    @property
    def best_epoch(self) -> int:
        """Epoch with the smallest validation loss, the first of equals
        (`int`).
        """
        return int(np.argmin([epoch.validation_loss for epoch in self.history]))

    def run(self) -> nn.Module:
        """Train until the validation loss has stopped falling, from where an
        earlier training was interrupted.

        Returns
        -------
        network : `torch.nn.Module`
            Network with the weights of the best epoch.

        Raises
        ------
        FloatingPointError
            Raised if the loss is not finite.
        """
        self._resume()
        while not self._is_done():
            epoch = self._run_epoch(len(self.history))
            self.history.append(epoch)
            self._report(epoch)
            if self.best_epoch == epoch.epoch:
                self._best_state = copy.deepcopy(self.network.state_dict())
            self._save()
        self.network.load_state_dict(self._best_state)
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
        n_batches = len(split_evenly(self._data.rows(split), self._config.batch_size))
        message = f"Scored %d of %d batches of the {split} sequences."
        batches = log_progress(self._log, message, self._batches.split(split), n_batches)
        return compute_logits(self.network, batches, self.device)

    def remove_checkpoint(self) -> None:
        """Remove the state that an interrupted training would go on from."""
        if self._checkpoints is not None:
            self._checkpoints.remove()

    def _is_done(self) -> bool:
        if self.history and len(self.history) - 1 - self.best_epoch >= self._config.patience:
            self._log.info("No smaller validation loss in %d epochs: done.", self._config.patience)
            return True
        return len(self.history) >= self._config.max_epochs

    def _run_epoch(self, number: int) -> Epoch:
        start = time.monotonic()
        training_loss = self._train(number)
        self._settle_batch_norm(number)
        logits = self.compute_logits("validation")
        injected = self._data.injected[self._data.rows("validation")]
        loss = float(self._loss(torch.from_numpy(logits).double(), injected, self._table_weights))
        if not np.isfinite(loss):
            raise FloatingPointError(f"The validation loss of epoch {number} is {loss}. {_LOSS_ADVICE}")
        return Epoch(
            epoch=number,
            learning_rate=self._optimizer.param_groups[0]["lr"],
            training_loss=training_loss,
            validation_loss=loss,
            validation_roc_area=roc_area(logits, injected),
            seconds=time.monotonic() - start,
        )

    def _train(self, number: int) -> float:
        self.network.train()
        losses = [epoch.validation_loss for epoch in self.history]
        total, n_steps = 0.0, self._batches.n_steps
        message = f"Epoch {number}: step %d of %d."
        batches = log_progress(self._log, message, self._batches.training(number), n_steps)
        for i, batch in enumerate(batches):
            rate = learning_rate(self._config, number + (i + 1) / n_steps, losses)
            loss = self._step(batch, rate)
            if not np.isfinite(loss):
                raise FloatingPointError(f"The training loss of epoch {number} is {loss}. {_LOSS_ADVICE}")
            total += loss * len(batch.injected)
        return total / sum(self._batches.n_training)

    def _settle_batch_norm(self, number: int) -> None:
        """Compute the statistics of batch normalisation with the weights at
        the end of the epoch.

        The running averages hold those of the last few batches and of weights
        that have changed since; a few bright stars in them can ruin the
        logits (Wu & Johnson 2021, arXiv:2105.07576, section 3).
        """
        n_batches = self._batches.n_batch_norm_steps
        message = f"Epoch {number}: batch normalisation, step %d of %d."
        batches = log_progress(self._log, message, self._batches.batch_norm(number), n_batches)
        update_bn((to_tensors(batch.arrays, self.device) for batch in batches), self.network)

    def _step(self, batch: Batch, rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        with self._autocast:
            logits = self.network(to_tensors(batch.arrays, self.device))
        loss = self._loss(logits.float(), batch.injected, self._training_weights)
        self._scaler.scale(loss).backward()
        if self._config.gradient_clip is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self._config.gradient_clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return loss.item()

    @functools.cached_property
    def _training_weights(self) -> np.ndarray:
        """Weights of sequences without and with an object in training."""
        if self._config.class_balance != "weights":
            return np.ones(2)
        return _weights(*self._batches.n_training, self._config.positive_fraction)

    @functools.cached_property
    def _table_weights(self) -> np.ndarray:
        """The same for sequences as the tables have them."""
        if self._config.class_balance == "none":
            return np.ones(2)
        return _balance(self._data.injected[self._data.rows("training")], self._config.positive_fraction)

    def _loss(self, logits: Tensor, injected: np.ndarray, weights: np.ndarray) -> Tensor:
        target = torch.from_numpy(injected).to(logits)
        weight = torch.from_numpy(weights[injected.astype(int)]).to(logits)
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

    def _save(self) -> None:
        if self._checkpoints is None:
            return
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self._best_state.items()}
        for index, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        history = [dataclasses.asdict(epoch) for epoch in self.history]
        self._checkpoints.save(
            TrainingState(arrays, {"history": history, "scaler": self._scaler.state_dict()})
        )

    def _resume(self) -> None:
        state = None if self._checkpoints is None else self._checkpoints.load()
        if state is None:
            return
        tensors = {name: torch.from_numpy(array) for name, array in state.arrays.items()}
        self.network.load_state_dict(_within(tensors, "network."))
        self._best_state = {
            name: tensor.to(self.device) for name, tensor in _within(tensors, "best.").items()
        }
        self._load_optimizer(_within(tensors, "optimizer."))
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        self._scaler.load_state_dict(state.values["scaler"])
        self.history = [Epoch(**epoch) for epoch in state.values["history"]]
        self._log.info("Going on after epoch %d of a training that was interrupted.", len(self.history) - 1)

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        content = self._optimizer.state_dict()
        for index, parameter in enumerate(self.network.parameters()):
            state = _within(tensors, f"{index}.")
            for name, tensor in state.items():
                if tensor.shape == parameter.shape and name != "step":
                    # The fused optimizer goes through memory: its averages
                    # must lie there as the weights do.
                    state[name] = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
            content["state"][index] = state
        self._optimizer.load_state_dict(content)


def _within(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _training_key(
    architecture: Architecture, training_set: TrainingSet, config: TrainingConfig, device: torch.device
) -> str:
    """Return a digest of all that the weights depend on."""
    content = {
        "architecture": [type(architecture).__name__, architecture.config.toDict()],
        "normalisation": architecture.describe_normalisation(),
        "shape": training_set.shape,
        "data": training_set.sources,
        "config": config.describe(),
        "device": device.type,
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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


def _balance(injected: np.ndarray, positive_fraction: float = 0.5) -> np.ndarray:
    n_injected = int(np.count_nonzero(injected))
    return _weights(len(injected) - n_injected, n_injected, positive_fraction)


def _weights(n_clean: int, n_injected: int, positive_fraction: float) -> np.ndarray:
    """Return weights, 1 in the mean, that give both classes their parts."""
    parts = np.array([1 - positive_fraction, positive_fraction])
    return (n_clean + n_injected) * parts / np.array([n_clean, n_injected])
