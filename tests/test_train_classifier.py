# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from nn_builders import FILTERS, as_handle, moving_sequences

import lsst.daf.butler.tests as butler_tests
from lsst.daf.butler import Butler
from lsst.meas.tno._schema import TRAINING_HISTORY_COLUMNS, validate_table
from lsst.meas.tno.nn.calibration import MIN_CLEAN, calibration_from_description
from lsst.meas.tno.nn.classifier import classifier_from_table
from lsst.meas.tno.nn.description import METADATA_KEY
from lsst.meas.tno.nn.training_set import TrainingSetError
from lsst.meas.tno.tasks.train_classifier import (
    TrainClassifierConfig,
    TrainClassifierConnections,
    TrainClassifierTask,
)
from lsst.pipe.base.testUtils import assertValidOutput, lintConnections, makeQuantum, runTestQuantum

PATCHES = [{"skymap": "map", "tract": 1, "patch": patch} for patch in (0, 1)]


def make_task(scratch_directory: Path | None = None, **training: Any) -> TrainClassifierTask:
    config = TrainClassifierConfig()
    config.architecture.name = "conv3d"
    config.architecture["conv3d"].filters = FILTERS
    config.architecture["conv3d"].dense_units = 8
    config.training.update(**{"max_epochs": 2, "device": "cpu", **training})
    if scratch_directory is not None:
        config.scratch_directory = str(scratch_directory)
    config.validate()
    return TrainClassifierTask(config=config)


def make_handles(snr: float = 20.0) -> list:
    return [as_handle(moving_sequences(patch, 60, patch=patch, snr=snr)) for patch in (0, 1)]


def test_connections() -> None:
    lintConnections(TrainClassifierConnections)
    assert TrainClassifierTask._DefaultName == "trainClassifier"


def test_result() -> None:
    task = make_task()
    result = task.run(make_handles())
    assertValidOutput(task, result)
    assert isinstance(result.plot, Figure)
    validate_table(result.history, TRAINING_HISTORY_COLUMNS)
    description = classifier_from_table(result.classifier).description
    assert description["architecture"]["config"]["filters"] == FILTERS
    assert description["calibration"] is None
    assert description["pixel_scale"] == pytest.approx(0.2)
    assert [source["data_id"] for source in description["training"]["data"]] == PATCHES
    assert set(description["metrics"]) == {"validation", "test"}
    assert description["metrics"]["test"]["snr < 5"]["roc_area"] is None
    counts = description["training"]["counts"]
    used = sum(count for name, count in counts.items() if name.startswith("n_"))
    assert used + sum(count for name, count in counts.items() if name.startswith("left_out")) == 120
    assert task.metadata["n_training_injected"] == counts["n_training_injected"]


def test_equal_inputs_give_equal_bytes() -> None:
    first = make_task().run(make_handles()).classifier
    second = make_task().run(make_handles()[::-1]).classifier
    assert first.equals(second, check_metadata=True)
    assert not first.equals(make_task().run(make_handles(snr=21.0)).classifier)


def test_quantum(tmp_path: Path) -> None:
    Butler.makeRepo(tmp_path)
    with Butler.from_config(tmp_path, run="run") as butler:
        for dimension, value in (("skymap", "map"), ("tract", 1), ("patch", 0), ("patch", 1)):
            butler_tests.addDataIdValue(butler, dimension, value)
        task = make_task()
        connections = TrainClassifierConnections(config=task.config)
        for name in (*connections.inputs, *connections.outputs):
            connection = getattr(connections, name)
            butler_tests.addDatasetType(
                butler, connection.name, set(connection.dimensions), connection.storageClass
            )
        for data_id, handle in zip(PATCHES, make_handles(), strict=True):
            butler.put(handle.get(), "tno_sequences_injected", data_id)
        ids = {"sequences": PATCHES, "classifier": {}, "history": {}, "plot": {}}
        runTestQuantum(task, butler, makeQuantum(task, butler, {}, ids), mockRun=False)
        written = butler.get("tno_classifier")
        history = butler.get("tno_training_history")
        plot = Path(butler.getURI("tno_training_plot").ospath)
        assert plot.read_bytes().startswith(b"\x89PNG")
    # Nothing of the repository but the data IDs is in it.
    assert written.equals(make_task().run(make_handles()).classifier, check_metadata=True)
    validate_table(history, TRAINING_HISTORY_COLUMNS)


def test_nothing_of_the_day_in_the_classifier() -> None:
    description = make_task().run(make_handles()).classifier.schema.metadata[METADATA_KEY]
    assert set(json.loads(description)["training"]) == {
        "config",
        "device",
        "best_epoch",
        "n_epochs",
        "counts",
        "data",
    }


def test_calibration() -> None:
    task = make_task(max_epochs=1)
    handles = [as_handle(moving_sequences(patch, 250, patch=patch)) for patch in (0, 1)]
    description = classifier_from_table(task.run(handles).classifier).description
    calibration = calibration_from_description(description)
    counts = description["training"]["counts"]
    assert calibration.n_clean == counts["n_validation_clean"] >= MIN_CLEAN
    assert calibration.n_injected == counts["n_validation_injected"]
    assert not calibration.threshold_for_rate(2 / calibration.n_clean).extrapolated


def test_no_sequences() -> None:
    with pytest.raises(TrainingSetError, match="no tables"):
        make_task().run([])


def test_no_test_sequences(caplog: pytest.LogCaptureFixture) -> None:
    sequences = moving_sequences(0, 80)
    with caplog.at_level(logging.INFO):
        result = make_task().run([as_handle(sequences[sequences.split != 2])])
    metrics = classifier_from_table(result.classifier).description["metrics"]
    assert metrics["test"]["all"] == {"roc_area": None, "n_injected": 0, "n_clean": 0}
    assert "validation" in result.plot.axes[1].get_title()


def test_scratch_is_removed(tmp_path: Path) -> None:
    make_task(tmp_path, max_epochs=1).run(make_handles())
    assert not list(tmp_path.iterdir())


def test_bright_stars_do_not_hide_objects() -> None:
    # A star a thousand times the noise in a fifth of the sequences, with and
    # without an object.
    handles = [as_handle(moving_sequences(patch, 300, patch=patch, snr=25.0)) for patch in (0, 1)]
    for handle in handles:
        rng = np.random.default_rng(1)
        images = handle.inMemoryDataset["image"]
        images[rng.random(len(images)) < 0.2, :, 2, 2] += 20.0 * 1000.0
    result = make_task(max_epochs=10, learning_rate=3e-3).run(handles)
    metrics = classifier_from_table(result.classifier).description["metrics"]
    assert metrics["test"]["all"]["roc_area"] > 0.9


def test_import_does_not_load_torch() -> None:
    code = (
        "import sys, lsst.meas.tno.nn, lsst.meas.tno.tasks.train_classifier, "
        "lsst.meas.tno.tasks.score_sequences; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
