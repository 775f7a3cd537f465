# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each step of a training gets to see.

An epoch depends on nothing but the seed and its number, and a batch on its own
place in the epoch: it does not matter who prepares it, and when.
"""

from __future__ import annotations

__all__ = ("Batch", "BatchMaker", "prefetch", "split_evenly")

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from .architectures import Architecture
from .inputs import augment
from .training_config import TrainingConfig
from .training_set import TrainingSet

TRAINING, BATCH_NORM = 1, 2
"""What a batch is for, as a part of its seed."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """What a network is fed in a step, and what it should say."""

    arrays: dict[str, np.ndarray]
    """Inputs of the network."""

    injected: np.ndarray
    """Whether each sequence holds an object, bool ``(n,)``."""


@dataclasses.dataclass(frozen=True)
class _Draws:
    """Sequences of an epoch, in order."""

    rows: np.ndarray
    positive: np.ndarray
    """Whether each is to hold an object."""


class BatchMaker:
    """Makes the batches of a training.

    Parameters
    ----------
    architecture
        What the network is fed.
    training_set
        The sequences.
    config
        Configuration.
    """

    def __init__(self, architecture: Architecture, training_set: TrainingSet, config: TrainingConfig) -> None:
        self._architecture = architecture
        self._data = training_set
        self._config = config
        self._training_rows = training_set.rows("training")

    @property
    def n_training(self) -> tuple[int, int]:
        """Number of sequences without and with an object in an epoch (`tuple`
        of `int`).
        """
        n, fraction = len(self._training_rows), self._config.positive_fraction
        n_positive = int(np.count_nonzero(self._data.injected[self._training_rows]))
        if self._data.reinjector is not None or self._config.class_balance == "sampling":
            n_positive = min(max(round(fraction * n), 1), n - 1)
        return n - n_positive, n_positive

    @property
    def n_steps(self) -> int:
        """Number of batches of an epoch (`int`)."""
        return len(split_evenly(self._training_rows, self._config.batch_size))

    @property
    def n_batch_norm_steps(self) -> int:
        """Number of batches for batch normalisation (`int`)."""
        rows = self._training_rows[: self._config.batch_norm_sequences]
        return len(split_evenly(rows, self._config.batch_size))

    def training(self, epoch: int) -> Iterator[Batch]:
        """Iterate over the batches of an epoch.

        Parameters
        ----------
        epoch
            Number of the epoch.
        """
        return self._make(epoch, TRAINING, self._draw(epoch), self._config.augmentation)

    def batch_norm(self, epoch: int) -> Iterator[Batch]:
        """Iterate over the batches that the statistics of batch normalisation
        are computed from.

        Parameters
        ----------
        epoch
            Number of the epoch.
        """
        draws, n = self._draw(epoch), self._config.batch_norm_sequences
        return self._make(epoch, BATCH_NORM, _Draws(draws.rows[:n], draws.positive[:n]), False)

    def split(self, name: str) -> Iterator[dict[str, np.ndarray]]:
        """Iterate over all sequences of a split, as they are.

        Parameters
        ----------
        name
            Name of the split.
        """
        batches = split_evenly(self._data.rows(name), self._config.batch_size)
        loads = (functools.partial(self._data.store.load, rows) for rows in batches)
        return prefetch(loads, self._config.n_workers)

    def _make(self, epoch: int, purpose: int, draws: _Draws, turn: bool) -> Iterator[Batch]:
        chunks = split_evenly(np.arange(len(draws.rows)), self._config.batch_size)
        makers = (
            functools.partial(
                self._make_batch,
                _Draws(draws.rows[chunk], draws.positive[chunk]),
                np.random.default_rng([self._config.seed, epoch, purpose, number]),
                turn,
            )
            for number, chunk in enumerate(chunks)
        )
        return prefetch(makers, self._config.n_workers)

    def _draw(self, epoch: int) -> _Draws:
        """Draw the sequences of an epoch."""
        rng = np.random.default_rng([self._config.seed, epoch])
        rows = rng.permutation(self._training_rows)
        injected = self._data.injected[rows]
        n_clean, n_positive = self.n_training
        if self._data.reinjector is not None:
            may_be_clean = self._data.reinjector.is_background[self._positions(rows)]
            positive, rest = rows[:n_positive], rows[n_positive:]
            # Those that are no background are left over, and some backgrounds
            # come twice, with an object and without.
            backgrounds = np.concatenate(
                [rest[may_be_clean[n_positive:]], positive[may_be_clean[:n_positive]]]
            )
            drawn = _Draws(
                np.concatenate([positive, np.resize(backgrounds, n_clean)]), np.arange(len(rows)) < n_positive
            )
        elif self._config.class_balance == "sampling":
            drawn = _Draws(
                np.concatenate([np.resize(rows[injected], n_positive), np.resize(rows[~injected], n_clean)]),
                np.arange(len(rows)) < n_positive,
            )
        else:
            return _Draws(rows, injected)
        order = rng.permutation(len(rows))
        return _Draws(drawn.rows[order], drawn.positive[order])

    def _make_batch(self, draws: _Draws, rng: np.random.Generator, turn: bool) -> Batch:
        if self._data.reinjector is None:
            batch = Batch(self._data.store.load(draws.rows), self._data.injected[draws.rows])
        else:
            batch = self._reinject(draws, rng)
        if turn:
            augment(
                batch.arrays,
                self._architecture.inputs,
                self._data.n_valid[draws.rows],
                rng,
                size=self._data.shape[1:],
            )
        return batch

    def _reinject(self, draws: _Draws, rng: np.random.Generator) -> Batch:
        """Return sequences with new objects; those that could not do without
        theirs are as they were.
        """
        assert self._data.reinjector is not None
        positions = self._positions(draws.rows)
        is_new = self._data.reinjector.is_background[positions]
        columns, injected = self._data.reinjector.load(positions, draws.positive & is_new, rng)
        arrays = self._architecture.encode({name: columns[name] for name in self._architecture.columns})
        if not np.all(is_new):
            for name, array in self._data.store.load(draws.rows[~is_new]).items():
                arrays[name][~is_new] = array
        return Batch(arrays, np.where(is_new, injected, True))

    def _positions(self, rows: np.ndarray) -> np.ndarray:
        """Return which of the training sequences rows are."""
        return np.searchsorted(self._training_rows, rows)


def prefetch[T](makers: Iterable[Callable[[], T]], n_workers: int) -> Iterator[T]:
    """Iterate over what functions return, in their order.

    Parameters
    ----------
    makers
        The functions.
    n_workers
        Number of threads that call them ahead, each at most one; with 0 they
        are called when it is their turn.

    Yields
    ------
    made
        What the next function returned.
    """
    if n_workers == 0:
        for maker in makers:
            yield maker()
        return
    pending: collections.deque[Future[T]] = collections.deque()
    with ThreadPoolExecutor(n_workers) as pool:
        try:
            for maker in makers:
                pending.append(pool.submit(maker))
                if len(pending) > n_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def split_evenly(rows: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Split rows into batches of at least a size, if there are so many.

    Parameters
    ----------
    rows
        The rows.
    batch_size
        Smallest size: the batch normalisation of a single sequence is not
        defined.
    """
    return np.array_split(rows, max(1, len(rows) // batch_size)) if len(rows) else []
