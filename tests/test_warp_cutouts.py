# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lsst.daf.butler.tests as butler_tests
from lsst.meas.tno import ImageSequences, MaskBit
from lsst.meas.tno._schema import SCHEMAS, validate_table
from lsst.meas.tno._sequences import Injection
from lsst.meas.tno.geometry import north_up_affine
from lsst.meas.tno.tasks.warp_cutouts import WarpCutoutsConfig, WarpCutoutsConnections, WarpCutoutsTask
from lsst.pex.config import FieldValidationError
from lsst.pipe.base import NoWorkFound
from lsst.pipe.base.testUtils import assertValidOutput, lintConnections, makeQuantum, runTestQuantum

DATA_ID = {"skymap": "map", "tract": 7, "patch": 42}


def make_cutouts(*, n: int = 3, n_times: int = 8, size: int = 32) -> ImageSequences:
    """Return sequences of white noise on rotated pixels."""
    rng = np.random.default_rng(1)
    cutouts = ImageSequences.full(n, T=n_times, H=size, W=size, K=11)
    cutouts.sequence_id[:] = np.arange(n)
    cutouts.centre_ra[:], cutouts.centre_dec[:] = 40.0, -30.0
    cutouts.valid[:] = True
    cutouts.visit[:], cutouts.detector[:], cutouts.band[:] = np.arange(n_times), 1, 2
    cutouts.mjd[:], cutouts.exposure_time[:] = 60000.0 + np.arange(n_times), 30.0
    cutouts.image[:] = rng.normal(0, 5.0, cutouts.image.shape)
    cutouts.variance[:], cutouts.noise_scale[:], cutouts.mask[:] = 25.0, 1.0, 0
    cutouts.psf[:] = 1.0 / 121
    angle = rng.uniform(0, 2 * np.pi, (n, n_times))
    linear = 0.2 * np.moveaxis(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], (0, 1), (2, 3)
    )
    cutouts.pixel_to_sky[..., :2] = linear
    cutouts.pixel_to_sky[..., 2] = -linear.sum(axis=-1) * (size - 1) / 2
    return cutouts


def make_task(**fields: Any) -> WarpCutoutsTask:
    """Return a task with a validated configuration."""
    config = WarpCutoutsConfig()
    config.update(**fields)
    config.validate()
    return WarpCutoutsTask(config=config)


def test_run() -> None:
    cutouts = make_cutouts()
    task = make_task(kernel="bilinear", warp_size=9, pixel_scale=0.25)
    result = task.run(cutouts)
    assertValidOutput(task, result)
    assert result.sequences.image.shape == (3, 8, 9, 9)
    np.testing.assert_array_equal(result.sequences.pixel_to_sky[1, 2], north_up_affine(9, 0.25))
    assert task.metadata["n_sequences"] == 3
    assert task.metadata["n_images"] == 24
    assert task.metadata["no_data_fraction"] == 0.0
    result.sequences.validate()


def test_static_sky() -> None:
    cutouts = make_cutouts(n_times=20)
    cutouts.image += 300.0
    plain = make_task(kernel="bilinear").run(cutouts).sequences
    assert plain.image.mean() == pytest.approx(300.0, abs=1.0)
    subtracted = make_task(kernel="bilinear", subtract_median=True).run(cutouts).sequences
    assert subtracted.image.mean() == pytest.approx(0.0, abs=0.5)
    too_few = make_task(kernel="bilinear", subtract_median=True, min_median_images=21).run(cutouts).sequences
    assert np.all(too_few.mask == MaskBit.NO_DATA)
    too_few.validate()


def test_fully_masked_and_padded() -> None:
    cutouts = make_cutouts()
    cutouts.mask[0], cutouts.image[0], cutouts.variance[0] = MaskBit.NO_DATA, np.nan, np.nan
    cutouts.valid[1], cutouts.mask[1], cutouts.image[1] = False, MaskBit.NO_DATA, np.nan
    task = make_task(kernel="bilinear")
    sequences = task.run(cutouts).sequences
    sequences.validate()
    assert np.all(sequences.mask[:2] == MaskBit.NO_DATA)
    assert np.all(np.isfinite(sequences.image[2]))
    assert task.metadata["n_images"] == 16
    assert task.metadata["no_data_fraction"] == 0.5
    cutouts.valid[:], cutouts.mask[:], cutouts.image[:] = False, MaskBit.NO_DATA, np.nan
    task.run(cutouts).sequences.validate()
    assert task.metadata["no_data_fraction"] == 1.0


def test_nothing_to_do() -> None:
    with pytest.raises(NoWorkFound, match="no image sequences"):
        make_task().run(make_cutouts()[slice(0, 0)])


def test_impossible_configurations() -> None:
    for name, value in (("warp_size", 0), ("pixel_scale", 0.0), ("kernel", "sinc"), ("n_threads", 0)):
        with pytest.raises(FieldValidationError, match=name):
            make_task(**{name: value})
    with pytest.raises(ValueError, match="32x32 pixels are too small for a warp of 51x51"):
        make_task(warp_size=51).run(make_cutouts())


@pytest.mark.parametrize("median", [False, True])
def test_parts_give_what_the_whole_gives(median: bool) -> None:
    cutouts = make_cutouts(n=5)
    cutouts.injection = Injection.full(5, T=8)
    task = make_task(subtract_median=median, min_median_images=1)
    expected = task.run(cutouts).sequences
    found = task.run(cutouts[start : start + 2] for start in range(0, 5, 2)).sequences
    assert task.metadata["n_sequences"] == 5
    for name, array in expected.to_table().items():
        assert array.tobytes() == found.to_table()[name].tobytes(), name
    with pytest.raises(NoWorkFound):
        task.run(iter([]))


@pytest.mark.parametrize("suffix", ["", "_injected"])
def test_connections_and_quantum(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsst.meas.tno._stored_tables.PART_SIZE", 2 * 8 * 32 * 32 * 9)
    lintConnections(WarpCutoutsConnections)
    cutouts = make_cutouts()
    if suffix:
        cutouts.injection = Injection.full(3, T=8)
    config = WarpCutoutsConfig()
    config.kernel = "bilinear"
    config.n_threads = 2
    config.connections.suffix = suffix
    task = WarpCutoutsTask(config=config)
    names = [f"tno_{name}{suffix}" for name in ("cutouts", "sequences")]
    with butler_tests.makeTestRepo(str(tmp_path), {"skymap": ["map"], "tract": [7], "patch": [42]}) as repo:
        for name in names:
            butler_tests.addDatasetType(repo, name, {"skymap", "tract", "patch"}, "ArrowAstropy")
        with butler_tests.makeTestCollection(repo, uniqueId="run") as butler:
            butler.put(cutouts.to_arrow(), names[0], DATA_ID)
            data_id = butler.registry.expandDataId(DATA_ID)
            quantum = makeQuantum(task, butler, data_id, {"cutouts": DATA_ID, "sequences": DATA_ID})
            runTestQuantum(task, butler, quantum, mockRun=False)
            table = butler.get(names[1], DATA_ID)
    validate_table(table, SCHEMAS[names[1]])
    sequences = ImageSequences.from_table(table)
    sequences.validate()
    expected = make_task(kernel="bilinear").run(cutouts).sequences
    for column, array in expected.items():
        assert array.tobytes() == getattr(sequences, column.name).tobytes(), column.name
