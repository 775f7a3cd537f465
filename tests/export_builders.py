# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sequences with objects that were injected and found, for tests of what is
made of them.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from astropy.table import Table
from builders import white_sequences

from lsst.daf.butler import Butler, DatasetType
from lsst.meas.tno import ImageSequences, Injection
from lsst.meas.tno._columns import make_table
from lsst.meas.tno.candidates import Candidates, measure_candidates
from lsst.meas.tno.injection import shift_psf

FLUX = 600.0
"""Flux of the objects, nJy; S/N 33 in 50 images of `white_sequences`."""

SKYMAP, TRACT = "map", 3
COLLECTION = "u/test/search"


def injected_sequences(
    rng: np.random.Generator, n: int, *, n_times: int = 50, flux: float = FLUX, reach: float = 3.0
) -> ImageSequences:
    """Return white noise with an object in each sequence that moves through
    the middle on a line of random direction, up to ``reach`` pixels off it.
    """
    sequences = white_sequences(rng, n, n_times=n_times)
    truth = Injection.full(n, T=n_times)
    angle = rng.uniform(0, 2 * np.pi, n)[:, np.newaxis]
    along = np.linspace(-reach, reach, n_times)
    middle = (sequences.width - 1) / 2 + rng.uniform(-1, 1, (2, n, 1))
    truth.inj_x, truth.inj_y = middle[0] + along * np.cos(angle), middle[1] + along * np.sin(angle)
    truth.inj_flux[:], truth.injected[:] = flux, True
    truth.object_id = np.array([f"object-{row}" for row in range(n)])
    truth.distance[:], truth.mag[:], truth.snr[:] = 45.0, 24.5, 33.0
    for row in range(n):
        x, y = truth.inj_x[row], truth.inj_y[row]
        profile = shift_psf(sequences.psf[row], x, y, sequences.height, sequences.width)
        sequences.image[row] += (flux * profile).astype(np.float32)
    return dataclasses.replace(sequences, injection=truth)


def pad(sequences: ImageSequences, row: int, n_valid: int) -> None:
    """Turn the end of a sequence into padding."""
    blank = ImageSequences.full(1, T=sequences.n_times, H=sequences.height, W=sequences.width, K=25)
    for column, array in sequences.items():
        if column.shape and column.shape[0] == "T":
            array[row, n_valid:] = getattr(blank, column.name)[0, n_valid:]


def found_candidates(sequences: ImageSequences) -> Candidates:
    """Return the candidates of sequences, the first of the highest logit."""
    logit = np.linspace(20.0, 2.0, len(sequences))
    candidates, rows = measure_candidates(sequences, logit, device="cpu")
    assert len(rows) == len(sequences)
    return candidates


def make_repository(root: Path) -> str:
    """Make a repository with sequences of two patches, with and without
    injected objects, and candidates.
    """
    Butler.makeRepo(root)
    with Butler.from_config(root, run="u/test/run", writeable=True) as butler:
        registry = butler.registry
        registry.insertDimensionData(
            "skymap",
            {"name": SKYMAP, "hash": b"x", "tract_max": 10, "patch_nx_max": 10, "patch_ny_max": 10},
        )
        registry.insertDimensionData("tract", {"skymap": SKYMAP, "id": TRACT})
        dimensions = ("skymap", "tract", "patch")
        for name in ("tno_sequences", "tno_sequences_injected", "tno_candidates", "tno_candidates_injected"):
            registry.registerDatasetType(
                DatasetType(name, dimensions, "ArrowAstropy", universe=butler.dimensions)
            )
        for patch in (0, 1):
            registry.insertDimensionData("patch", {"skymap": SKYMAP, "tract": TRACT, "id": patch})
            data_id = {"skymap": SKYMAP, "tract": TRACT, "patch": patch}
            for name, table in _tables(patch).items():
                butler.put(table, name, data_id)
        butler.collections.register(COLLECTION, type=_chained())
        butler.collections.redefine_chain(COLLECTION, ["u/test/run"])
    return str(root)


def _chained() -> object:
    from lsst.daf.butler import CollectionType

    return CollectionType.CHAINED


def _tables(patch: int) -> dict[str, Table]:
    sequences = injected_sequences(np.random.default_rng(patch), 3, n_times=12)
    sequences.tract[:], sequences.patch[:] = TRACT, patch
    # Elsewhere in each patch, so that all candidates are objects of their own.
    sequences.ra += 0.1 * patch + 0.01 * np.arange(3)
    sequences.centre_ra[:] = sequences.ra[:, np.newaxis]
    pad(sequences, 1, 10)
    candidates = make_table(found_candidates(sequences).items())
    return {
        "tno_sequences_injected": sequences.to_table(),
        "tno_sequences": dataclasses.replace(sequences, injection=None).to_table(),
        "tno_candidates": candidates,
        "tno_candidates_injected": candidates,
    }
