# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Classifiers for white noise, trained on sequences made for it."""

from __future__ import annotations

__all__ = ("TRAINING", "classifier_for_white_noise")

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from white_noise import SNR_LIMITS, Sky, inject_linear

from lsst.meas.tno import ImageSequences
from lsst.meas.tno.nn.classifier import Classifier, classifier_from_table
from lsst.meas.tno.positions import htm_index, split_of_htm
from lsst.meas.tno.tasks import TrainClassifierConfig, TrainClassifierTask
from lsst.pipe.base import InMemoryDatasetHandle

HTM_LEVEL = 12
"""Level of the trixels that decide about training and validation."""

BOX = 0.5
"""Width of the box on the sky that positions are drawn from, deg."""

TABLE = 2000
"""Sequences of a table."""

SEED = 7_000_000
"""Seed of the first table; far from those of the tests."""

TRAINING: dict[str, dict[str, Any]] = {
    "conv3d": {"schedule": "one_cycle", "learning_rate": 2e-3, "max_epochs": 8, "gradient_clip": 1.0},
    "coadds": {"schedule": "one_cycle", "learning_rate": 3e-3, "max_epochs": 8, "gradient_clip": 1.0},
    "trajectories": {"schedule": "one_cycle", "learning_rate": 3e-3, "max_epochs": 8, "gradient_clip": 1.0},
}
"""Configuration of the training of each architecture."""


def classifier_for_white_noise(name: str, n_sequences: int, n_threads: int, directory: Path) -> Classifier:
    """Return a classifier, trained unless an earlier run has left it.

    Parameters
    ----------
    name
        Architecture, one of `TRAINING`.
    n_sequences
        Number of sequences to train, validate and test on, half of them with
        an object.
    n_threads
        Threads to train with.
    directory
        Where classifiers are left.
    """
    path = directory / f"{name}-{n_sequences}.parquet"
    if not path.exists():
        logging.basicConfig(format="%(message)s", level=logging.INFO)
        config = TrainClassifierConfig()
        config.architecture.name = name
        config.training.update(**TRAINING[name], n_threads=n_threads, patience=TRAINING[name]["max_epochs"])
        config.validate()
        handles = [
            TrainingTable(None, tract=0, patch=patch, storageClass="ArrowAstropy")
            for patch in range(-(-n_sequences // TABLE))
        ]
        directory.mkdir(parents=True, exist_ok=True)
        pq.write_table(TrainClassifierTask(config=config).run(handles).classifier, path)
    return classifier_from_table(pq.read_table(path))


class TrainingTable(InMemoryDatasetHandle):
    """A table of training sequences that is made whenever it is read, since
    all of them together would fill the memory.
    """

    def get(
        self,
        *,
        component: str | None = None,
        parameters: dict[str, Any] | None = None,
        storageClass: Any = None,
    ) -> Any:
        """Return the table, or part of it."""
        table = training_sequences(int(self.dataId["patch"])).to_table()
        handle = InMemoryDatasetHandle(table, storageClass=self.storageClass)
        return handle.get(component=component, parameters=parameters, storageClass=storageClass)


def training_sequences(patch: int) -> ImageSequences:
    """Return the sequences of a table, at positions of all splits."""
    rng = np.random.default_rng([SEED, patch])
    sequences = Sky().blank(rng, TABLE)
    sequences.tract[:], sequences.patch[:] = 0, patch
    sequences.ra += rng.uniform(-BOX / 2, BOX / 2, TABLE)
    sequences.dec += rng.uniform(-BOX / 2, BOX / 2, TABLE)
    sequences.centre_ra[:], sequences.centre_dec[:] = sequences.ra[:, None], sequences.dec[:, None]
    sequences.htm[:] = htm_index(sequences.ra, sequences.dec, HTM_LEVEL)
    sequences.split[:] = split_of_htm(sequences.htm)
    return inject_linear(sequences, SEED + patch, SNR_LIMITS, fraction=0.5)
