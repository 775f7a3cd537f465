# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sequences that a small network learns in seconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from builders import white_sequences

from lsst.meas.tno import ImageSequences, Injection
from lsst.meas.tno.nn import Architecture, Conv3dConfig, architectures
from lsst.meas.tno.nn.classifier import Classifier, describe_classifier
from lsst.meas.tno.positions import htm_index, split_of_htm
from lsst.meas.tno.tasks import InjectTnosConfig, InjectTnosTask
from lsst.pipe.base import InMemoryDatasetHandle

FILTERS = [4, 8, 16]


def moving_sequences(
    seed: int, n: int, *, patch: int = 0, snr: float = 40.0, n_times: int = 8, size: int = 9
) -> ImageSequences:
    """Return sequences of white noise, every other one with an object.

    The positions are uniform in a box of half a degree, thousands of trixels.
    """
    rng = np.random.default_rng(seed)
    sequences = scattered_sequences(rng, n, patch, n_times, size)
    injection = Injection.full(n, T=n_times)
    injection.injected = np.arange(n) % 2 == 1
    injection.object_id = np.where(injection.injected, [f"object-{row}" for row in range(n)], "")
    injection.source_orbit = np.full(n, "")
    injection.snr[injection.injected] = snr
    sequences.injection = injection
    for row in np.flatnonzero(injection.injected):
        sequences.image[row] += 20.0 * snr * _moving_source(rng, n_times, size)
    return sequences


def injected_sequences(
    seed: int, n: int, *, patch: int = 0, snr: tuple[float, float] = (10.0, 12.0), n_times: int = 8
) -> ImageSequences:
    """Return such sequences of 9x9 pixels with all of the truth, half of them
    with an object that moves up to 3 pixels.
    """
    rng = np.random.default_rng(seed)
    config = InjectTnosConfig(seed=seed)
    population = config.population["linear"]
    population.rate_min, population.rate_max = 0.0, 3 * 0.2 / ((n_times - 1) * 41.0 / 3600)
    population.window_size, population.edge_margin, population.min_times_inside = 1.8, 0.2, n_times
    population.snr_min, population.snr_max = snr
    return InjectTnosTask(config=config).run(scattered_sequences(rng, n, patch, n_times, 9)).injected


def scattered_sequences(
    rng: np.random.Generator, n: int, patch: int, n_times: int, size: int
) -> ImageSequences:
    """Return sequences of white noise at positions of all splits."""
    sequences = white_sequences(rng, n, n_times=n_times, size=size)
    sequences.tract[:], sequences.patch[:] = 1, patch
    sequences.ra += rng.uniform(-0.25, 0.25, n)
    sequences.dec += rng.uniform(-0.25, 0.25, n)
    sequences.centre_ra[:], sequences.centre_dec[:] = sequences.ra[:, None], sequences.dec[:, None]
    sequences.htm[:] = htm_index(sequences.ra, sequences.dec, 12)
    sequences.split[:] = split_of_htm(sequences.htm)
    return sequences


def _moving_source(rng: np.random.Generator, n_times: int, size: int) -> np.ndarray:
    """Return images of a source that crosses the middle, the sum of whose
    squares is 1.
    """
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    phase = np.linspace(-1, 1, n_times)[:, None, None]
    dx, dy = rng.uniform(-2, 2, 2)
    source = np.exp(-0.5 * ((x - phase * dx) ** 2 + (y - phase * dy) ** 2) / 1.8**2)
    return source / np.sqrt(np.sum(source**2))


def as_handle(sequences: ImageSequences) -> InMemoryDatasetHandle:
    """Return a handle of the sequences' table."""
    return InMemoryDatasetHandle(
        sequences.to_table(),
        storageClass="ArrowAstropy",
        skymap="map",
        tract=int(sequences.tract[0]),
        patch=int(sequences.patch[0]),
    )


def small_architecture(**fields: Any) -> Architecture:
    """Return the architecture conv3d with few filters."""
    config = Conv3dConfig()
    config.filters, config.dense_units = FILTERS, 8
    config.update(**fields)
    return architectures["conv3d"](config)


def untrained_classifier(seed: int = 0, n_times: int = 8, size: int = 9) -> Classifier:
    """Return a small classifier with random weights and statistics, for
    pixels of 0.2 arcsec.
    """
    architecture = small_architecture()
    shape = (n_times, size, size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = architecture.build(shape).eval()
        for name, tensor in network.state_dict().items():
            if name.endswith("running_mean"):
                tensor.normal_(0, 0.1)
    description = describe_classifier("conv3d", architecture, shape, 0.2, training={}, metrics={})
    return Classifier(architecture, network, description)


def random_classifier(name: str, *, n_times: int = 8, size: int = 9) -> Classifier:
    """Return a classifier of any architecture, of its default size, with
    random weights.
    """
    architecture = architectures[name](architectures[name].ConfigClass())
    shape = (n_times, size, size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = architecture.build(shape).eval()
        for parameter in network.parameters():
            # Layers that begin at zero would hide what comes before them.
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    description = describe_classifier(name, architecture, shape, 0.2, training={}, metrics={})
    return Classifier(architecture, network, description)
