# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nn_builders import moving_sequences, untrained_classifier
from scipy.special import expit

import lsst.daf.butler.tests as butler_tests
from lsst.daf.butler import Butler
from lsst.meas.tno._schema import SCHEMAS, validate_table
from lsst.meas.tno.nn.classifier import PixelScaleMismatchError, ShapeMismatchError, classifier_to_table
from lsst.meas.tno.tasks.score_sequences import (
    ScoreSequencesConfig,
    ScoreSequencesConnections,
    ScoreSequencesTask,
)
from lsst.pex.config import FieldValidationError
from lsst.pipe.base import NoWorkFound
from lsst.pipe.base.testUtils import assertValidOutput, lintConnections, makeQuantum, runTestQuantum

DATA_ID = {"skymap": "map", "tract": 1, "patch": 0}


def make_task(suffix: str = "", batch_size: int = 4) -> ScoreSequencesTask:
    config = ScoreSequencesConfig()
    config.connections.suffix = suffix
    config.batch_size = batch_size
    config.device = "cpu"
    return ScoreSequencesTask(config=config)


def test_connections() -> None:
    lintConnections(ScoreSequencesConnections)
    assert ScoreSequencesTask._DefaultName == "scoreSequences"
    with pytest.raises(FieldValidationError, match="batch_size"):
        make_task(batch_size=0)


@pytest.mark.parametrize("suffix", ["", "_injected"])
def test_quantum(tmp_path: Path, suffix: str) -> None:
    sequences, classifier = moving_sequences(1, 7), untrained_classifier()
    if not suffix:
        sequences.injection = None
    task = make_task(suffix)
    connections = ScoreSequencesConnections(config=task.config)
    Butler.makeRepo(tmp_path)
    with Butler.from_config(tmp_path, run="run") as butler:
        for dimension, value in DATA_ID.items():
            butler_tests.addDataIdValue(butler, dimension, value)
        for name in (*connections.inputs, *connections.outputs):
            connection = getattr(connections, name)
            butler_tests.addDatasetType(
                butler, connection.name, set(connection.dimensions), connection.storageClass
            )
        butler.put(sequences.to_table(), f"tno_sequences{suffix}", DATA_ID)
        butler.put(classifier_to_table(classifier), "tno_classifier")
        ids = {"sequences": DATA_ID, "classifier": {}, "scores": DATA_ID}
        runTestQuantum(task, butler, makeQuantum(task, butler, DATA_ID, ids), mockRun=False)
        scores = butler.get(f"tno_scores{suffix}", DATA_ID)
    validate_table(scores, SCHEMAS[f"tno_scores{suffix}"])
    np.testing.assert_array_equal(scores["htm"], sequences.htm)
    columns = {name: getattr(sequences, name) for name in ("image", "variance", "mask")}
    # float32 sums in another order.
    np.testing.assert_allclose(scores["logit"], classifier.compute_logits(columns), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores["score"], expit(scores["logit"]), rtol=1e-5)
    if suffix:
        assert scores["object_id"].tolist() == sequences.injection.object_id.tolist()
        np.testing.assert_array_equal(scores["snr"], sequences.injection.snr)


def test_valid_output() -> None:
    task = make_task()
    assertValidOutput(task, task.run(moving_sequences(1, 3).to_table(), untrained_classifier()))
    assert task.metadata["n_sequences"] == 3


def test_order_of_the_rows() -> None:
    sequences, classifier = moving_sequences(1, 9), untrained_classifier()
    scores = make_task().run(sequences.to_table(), classifier).scores
    order = np.random.default_rng(1).permutation(9)
    shuffled = make_task(batch_size=3).run(sequences.to_table()[order], classifier).scores
    assert shuffled["sequence_id"].tolist() == scores["sequence_id"][order].tolist()
    # float32 sums in another order.
    np.testing.assert_allclose(shuffled["logit"], scores["logit"][order], rtol=1e-4, atol=1e-5)


def test_pixels_that_are_not_usable() -> None:
    sequences, classifier = moving_sequences(1, 5), untrained_classifier()
    sequences.image[0, :3], sequences.mask[0, :3] = np.nan, 1
    sequences.image[1, 2, 3, 4] = np.nan
    sequences.variance[2, 2, 3] = 0.0
    sequences.variance[3, 1], sequences.image[3, 2] = np.inf, -np.inf
    scores = make_task().run(sequences.to_table(), classifier).scores
    assert np.all(np.isfinite(scores["logit"]))


def test_fully_masked() -> None:
    sequences, classifier = moving_sequences(1, 5), untrained_classifier()
    sequences.mask[:] = 1
    sequences.image[:] = np.nan
    task = make_task()
    scores = task.run(sequences.to_table(), classifier).scores
    assert np.all(np.isneginf(scores["logit"]))
    assert not np.any(scores["score"])
    assert task.metadata["n_without_usable_pixels"] == 5


def test_no_sequences() -> None:
    with pytest.raises(NoWorkFound, match="no sequences"):
        make_task().run(moving_sequences(1, 4).to_table()[:0], untrained_classifier())


def test_other_shape_is_refused() -> None:
    table = moving_sequences(1, 2, size=11).to_table()
    with pytest.raises(ShapeMismatchError, match=r"\(8, 11, 11\).*\(8, 9, 9\)"):
        make_task().run(table, untrained_classifier())


def test_other_pixel_scale_is_refused() -> None:
    sequences = moving_sequences(1, 2)
    sequences.pixel_to_sky *= 0.25 / 0.2
    with pytest.raises(PixelScaleMismatchError, match="0.2500 arcsec.*0.2000 arcsec"):
        make_task().run(sequences.to_table(), untrained_classifier())
