# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every architecture makes of tables and pixels that are broken: an error
or a masked sequence, never a score that is not a number.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from nn_builders import moving_sequences, random_classifier

import lsst.daf.butler.tests as butler_tests
from lsst.daf.butler import Butler
from lsst.meas.tno import ImageSequences, MaskBit
from lsst.meas.tno.nn import architectures
from lsst.meas.tno.nn.classifier import (
    Classifier,
    ClassifierError,
    classifier_from_table,
    classifier_to_table,
)
from lsst.meas.tno.nn.description import METADATA_KEY
from lsst.meas.tno.tasks import ScoreSequencesConfig, ScoreSequencesTask

N, BROKEN = 4, 1
"""Sequences, and the one of them that is broken."""

type Breakage = Callable[[ImageSequences], None]


def _set(**values: float) -> Breakage:
    """Return what sets all of columns of the broken sequence."""

    def apply(sequences: ImageSequences) -> None:
        for name, value in values.items():
            getattr(sequences, name)[BROKEN] = value

    return apply


def _set_some(name: str, *values: float) -> Breakage:
    """Return what sets one pixel, or one image, each to values."""

    def apply(sequences: ImageSequences) -> None:
        array = getattr(sequences, name)
        for time, value in enumerate(values):
            array[(BROKEN, time, 3, 4) if name in ("image", "variance") else (BROKEN, time)] = value

    return apply


def _pad(n_valid: int) -> Breakage:
    """Return what leaves so many images, and makes padding of the rest."""

    def apply(sequences: ImageSequences) -> None:
        padding = ImageSequences.full(1, T=8, H=9, W=9, K=sequences.psf_size)
        for name in ("valid", "visit", "band", "mjd", "image", "variance", "noise_scale", "mask", "psf"):
            getattr(sequences, name)[BROKEN, n_valid:] = getattr(padding, name)[0, n_valid:]
        sequences.pixel_to_sky[BROKEN, n_valid:] = np.nan

    return apply


def _equal_times(sequences: ImageSequences) -> None:
    sequences.mjd[BROKEN] = sequences.mjd[BROKEN, 0]


UNUSABLE: dict[str, Breakage] = {
    "NaN pixels": _set(image=np.nan),
    "infinite pixels": _set(image=np.inf),
    "all masked": _set(mask=MaskBit.BAD),
    "all masked, NaN": _set(mask=MaskBit.NO_DATA, image=np.nan, variance=np.nan),
    "zero variance": _set(variance=0.0),
    "negative variance": _set(variance=-1.0),
    "NaN variance": _set(variance=np.nan),
    "infinite variance": _set(variance=np.inf),
    "padding only": _pad(0),
}
"""Sequences in which there is nothing."""

DAMAGED: dict[str, Breakage] = {
    "some NaN pixels": _set_some("image", np.nan, np.nan),
    "some infinite pixels": _set_some("image", np.inf, -np.inf),
    "pixels of any size": _set_some("image", 1e12, -1e18, 1e25, -3e38),
    "variances of any kind": _set_some("variance", 0.0, -1.0, np.nan, np.inf, 1e-30, 1e-44, 3e38),
    "tiny variance": _set(variance=1e-44),
    "huge variance": _set(variance=3e38),
    "NaN PSF": _set(psf=np.nan),
    "PSF of nothing": _set(psf=0.0),
    "some NaN PSFs": _set_some("psf", np.nan, 0.0),
    "NaN noise scale": _set(noise_scale=np.nan),
    "zero noise scale": _set(noise_scale=0.0),
    "some noise scales": _set_some("noise_scale", np.nan, 0.0, -1.0, np.inf),
    "equal times": _equal_times,
    "NaN times": _set(mjd=np.nan),
    "some NaN times": _set_some("mjd", np.nan),
    "one image": _pad(1),
    "two images": _pad(2),
    "padding": _pad(5),
    "unknown band": _set(band=255),
    "some unknown bands": _set_some("band", 255, 200),
}
"""Sequences in which something is wrong, or little is there."""


@pytest.fixture(scope="module", params=sorted(architectures))
def classifier(request: pytest.FixtureRequest) -> Classifier:
    return random_classifier(request.param)


def _score(classifier: Classifier, breakage: Breakage | None = None) -> tuple[np.ndarray, np.ndarray, Any]:
    sequences = moving_sequences(1, N)
    if breakage is not None:
        breakage(sequences)
    config = ScoreSequencesConfig()
    config.device, config.batch_size = "cpu", 3
    task = ScoreSequencesTask(config=config)
    scores = task.run(sequences.to_table(), classifier).scores
    return np.asarray(scores["logit"]), np.asarray(scores["score"]), task.metadata


@pytest.fixture(scope="module")
def expected(classifier: Classifier) -> np.ndarray:
    return _score(classifier)[0]


def _check_others(logit: np.ndarray, expected: np.ndarray) -> None:
    # float32 sums in another order.
    others = np.arange(N) != BROKEN
    np.testing.assert_allclose(logit[others], expected[others], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", UNUSABLE)
def test_sequences_of_nothing_are_masked(classifier: Classifier, expected: np.ndarray, kind: str) -> None:
    logit, score, metadata = _score(classifier, UNUSABLE[kind])
    assert np.isneginf(logit[BROKEN])
    assert score[BROKEN] == 0.0
    assert metadata["n_without_usable_pixels"] == 1
    _check_others(logit, expected)


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_sequences_have_a_score(classifier: Classifier, expected: np.ndarray, kind: str) -> None:
    logit, score, _ = _score(classifier, DAMAGED[kind])
    assert np.all(np.isfinite(logit))
    assert np.all((score >= 0.0) & (score <= 1.0))
    _check_others(logit, expected)


def test_all_sequences_of_nothing(classifier: Classifier) -> None:
    sequences = moving_sequences(1, N)
    sequences.mask[:] = MaskBit.SATURATED
    columns = {column.name: array for column, array in sequences.items()}
    assert np.all(np.isneginf(classifier.compute_logits(columns, device="cpu")))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_give_no_score(classifier: Classifier, value: float) -> None:
    broken = random_classifier(classifier.description["architecture"]["name"])
    for parameter in broken.network.parameters():
        parameter.detach().fill_(value)
    with pytest.raises(ClassifierError, match="no finite logit for 4 sequences"):
        _score(broken)
    with pytest.raises(ClassifierError, match="values that are not finite numbers"):
        classifier_from_table(classifier_to_table(broken))


def _edit(table: pa.Table, row: int, **values: Any) -> pa.Table:
    rows = table.to_pylist()
    rows[row] |= values
    return pa.Table.from_pylist(rows, schema=table.schema)


def test_truncated_tables(classifier: Classifier) -> None:
    table = classifier_to_table(classifier)
    for length in (0, 1, len(table) - 1):
        with pytest.raises(ClassifierError, match="truncated: the tensors|do not belong to the architecture"):
            classifier_from_table(table[:length])
    for row in (0, len(table) - 1):
        data = table["data"][row].as_py()
        for short in (b"", data[:-1], data + b"\0"):
            with pytest.raises(ClassifierError, match="is truncated: tensor"):
                classifier_from_table(_edit(table, row, data=short))
        for name in table.schema.names:
            with pytest.raises(ClassifierError, match="nulls"):
                classifier_from_table(_edit(table, row, **{name: None}))
        with pytest.raises(ClassifierError, match=r"has shape \(1, 2, 3\)"):
            classifier_from_table(_edit(table, row, shape=[1, 2, 3]))
        with pytest.raises(ClassifierError, match="dtype 'float64'"):
            classifier_from_table(_edit(table, row, dtype="float64"))


def test_truncated_files(classifier: Classifier, tmp_path: Path) -> None:
    Butler.makeRepo(tmp_path)
    with Butler.from_config(tmp_path, run="run") as butler:
        butler_tests.addDatasetType(butler, "tno_classifier", set(), "ArrowTable")
        ref = butler.put(classifier_to_table(classifier), "tno_classifier")
        path = Path(butler.getURI(ref).ospath)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(Exception, match="(?i)size|integrity"):
            classifier_from_table(butler.get(ref))


def test_foreign_tables(classifier: Classifier) -> None:
    table = classifier_to_table(classifier)
    for foreign in (
        table.replace_schema_metadata(None),
        table.drop_columns(["data"]),
        table.rename_columns(["key", "dtype", "shape", "data"]),
        # The right names, of other types.
        pa.table({name: ["a"] for name in table.schema.names}).replace_schema_metadata(table.schema.metadata),
        moving_sequences(1, 2).to_arrow(),
    ):
        with pytest.raises(ClassifierError, match="no classifier of meas_tno"):
            classifier_from_table(foreign)
    with pytest.raises(ClassifierError, match="several tensors of one name"):
        classifier_from_table(pa.concat_tables([table, table[:1]]))
    with pytest.raises(ClassifierError, match="'foreign'"):
        classifier_from_table(pa.concat_tables([table, _edit(table[:1], 0, name="foreign")]))
    other = next(name for name in architectures if name != classifier.description["architecture"]["name"])
    metadata = classifier_to_table(random_classifier(other)).schema.metadata
    # conv3d has all tensors that the smaller network of coadds has, and more.
    has_all = classifier.description["architecture"]["name"] == "conv3d"
    message = "do not belong to the architecture 'coadds'" if has_all else "truncated: the tensors"
    with pytest.raises(ClassifierError, match=message):
        classifier_from_table(table.replace_schema_metadata(metadata))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("[1, 2]", "version None"),
        ('"text"', "version None"),
        ("{}", "version None"),
    ],
)
def test_foreign_descriptions(classifier: Classifier, content: str, message: str) -> None:
    table = classifier_to_table(classifier).replace_schema_metadata({METADATA_KEY: content})
    with pytest.raises(ClassifierError, match=message):
        classifier_from_table(table)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 0}, "has format version 0"),
        ({"format_version": 2}, "has format version 2"),
        ({"format_version": "1"}, "has format version 1, this version"),
        ({"architecture": None}, "description of the classifier lacks"),
        ({"architecture": {"name": ["conv3d"], "config": {}}}, "which is not among"),
        ({"input_shape": None}, "description of the classifier lacks"),
        ({"input_shape": {"n_times": 0, "height": 9, "width": 9}}, "has the input shape"),
        ({"input_shape": {"n_times": "8", "height": 9, "width": 9}}, "has the input shape"),
        ({"input_shape": {"n_times": 8.0, "height": 9, "width": 9}}, "has the input shape"),
        ({"pixel_scale": None}, "pixel_scale=None"),
        ({"normalisation": {"significance": "image / variance"}}, "is fed otherwise"),
        ({"normalisation": None}, "is fed otherwise"),
    ],
)
def test_descriptions_of_other_versions(
    classifier: Classifier, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ClassifierError, match=message):
        classifier_from_table(_change(classifier, changes))


def _change(classifier: Classifier, changes: dict[str, Any]) -> pa.Table:
    content = json.dumps(classifier.description | changes)
    return classifier_to_table(classifier).replace_schema_metadata({METADATA_KEY: content})


def test_configurations_of_other_versions(classifier: Classifier) -> None:
    architecture = classifier.description["architecture"]
    first = next(iter(architecture["config"]))
    for config in (None, 3, {"no_such_field": 1}, {**architecture["config"], first: {"a": "b"}}):
        with pytest.raises(ClassifierError, match="does not fit the architecture"):
            classifier_from_table(_change(classifier, {"architecture": architecture | {"config": config}}))
