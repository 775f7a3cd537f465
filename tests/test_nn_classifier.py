# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from nn_builders import moving_sequences, untrained_classifier

import lsst.daf.butler.tests as butler_tests
from lsst.daf.butler import Butler
from lsst.meas.tno import ImageSequences
from lsst.meas.tno.nn.classifier import (
    Classifier,
    ClassifierError,
    PixelScaleMismatchError,
    ShapeMismatchError,
    classifier_from_table,
    classifier_to_table,
)
from lsst.meas.tno.nn.description import METADATA_KEY


def columns_of(sequences: ImageSequences) -> dict[str, np.ndarray]:
    return {name: getattr(sequences, name) for name in ("image", "variance", "mask")}


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return untrained_classifier()


def edit_description(table: pa.Table, **changes: object) -> pa.Table:
    description = json.loads(table.schema.metadata[METADATA_KEY])
    return table.replace_schema_metadata({METADATA_KEY: json.dumps(description | changes)})


def replace_column(table: pa.Table, name: str, values: list) -> pa.Table:
    index = table.schema.names.index(name)
    return table.set_column(
        index, table.schema.field(index), pa.array(values, table.schema.field(index).type)
    )


def test_butler_round_trip(classifier: Classifier, tmp_path: Path) -> None:
    Butler.makeRepo(tmp_path)
    with Butler.from_config(tmp_path, run="run") as butler:
        butler_tests.addDatasetType(butler, "tno_classifier", set(), "ArrowTable")
        table = classifier_to_table(classifier)
        butler.put(table, "tno_classifier")
        found = butler.get("tno_classifier")
    assert found.equals(table, check_metadata=True)
    read = classifier_from_table(found)
    columns = columns_of(moving_sequences(1, 6))
    np.testing.assert_array_equal(read.compute_logits(columns), classifier.compute_logits(columns))
    assert read.description == classifier.description
    assert read.shape == (8, 9, 9)
    assert read.pixel_scale == 0.2


def test_tables_hold_the_statistics_of_the_normalisation(classifier: Classifier) -> None:
    names = classifier_to_table(classifier)["name"].to_pylist()
    assert "blocks.0.normalisation.running_var" in names
    assert len(names) == len(set(names)) == len(classifier.network.state_dict())


def test_any_batch_size(classifier: Classifier) -> None:
    columns = columns_of(moving_sequences(1, 11))
    one = classifier.compute_logits(columns, batch_size=1)
    # float32 sums in another order.
    np.testing.assert_allclose(classifier.compute_logits(columns, batch_size=4), one, rtol=1e-4, atol=1e-5)


def test_sequence_without_usable_pixels(classifier: Classifier) -> None:
    columns = columns_of(moving_sequences(1, 3))
    expected = classifier.compute_logits(columns)
    columns["variance"][1] = 0.0
    np.testing.assert_allclose(
        classifier.compute_logits(columns), [expected[0], -np.inf, expected[2]], rtol=1e-5
    )


def test_no_sequences(classifier: Classifier) -> None:
    assert classifier.compute_logits(columns_of(moving_sequences(1, 2)[:0])).shape == (0,)


def test_other_shape_is_refused(classifier: Classifier) -> None:
    with pytest.raises(ShapeMismatchError, match=r"\(7, 9, 9\).*\(8, 9, 9\)"):
        classifier.compute_logits(columns_of(moving_sequences(1, 2, n_times=7)))


@pytest.mark.parametrize("factor", [0.991, 1.009])
def test_nearly_equal_pixel_scale(classifier: Classifier, factor: float) -> None:
    sequences = moving_sequences(1, 3)
    sequences.pixel_to_sky *= factor
    classifier.check_pixel_scale({"valid": sequences.valid, "pixel_to_sky": sequences.pixel_to_sky})


@pytest.mark.parametrize("factor", [0.989, 1.011])
def test_other_pixel_scale_is_refused(classifier: Classifier, factor: float) -> None:
    sequences = moving_sequences(1, 3)
    sequences.pixel_to_sky *= factor
    columns = {"valid": sequences.valid, "pixel_to_sky": sequences.pixel_to_sky}
    with pytest.raises(PixelScaleMismatchError, match=f"of {0.2 * factor:.4f} arcsec.*for 0.2000 arcsec"):
        classifier.check_pixel_scale(columns)
    # Nothing is there to be refused.
    sequences.valid[:] = False
    classifier.check_pixel_scale(columns)


def test_weights_that_are_not_numbers_are_refused() -> None:
    broken = untrained_classifier()
    broken.network.state_dict()["head.5.bias"].fill_(np.nan)
    with pytest.raises(ClassifierError, match="gives no finite logit for 2 sequences"):
        broken.compute_logits(columns_of(moving_sequences(1, 2)))


def test_missing_tensor(classifier: Classifier) -> None:
    with pytest.raises(ClassifierError, match=r"truncated: the tensors \['head.5.bias'\] are missing"):
        classifier_from_table(classifier_to_table(classifier)[:-1])


def test_truncated_tensor(classifier: Classifier) -> None:
    table = classifier_to_table(classifier)
    data = table["data"].to_pylist()
    data[0] = data[0][:-3]
    with pytest.raises(ClassifierError, match="blocks.0.convolution.weight' has 429 bytes, not 432"):
        classifier_from_table(replace_column(table, "data", data))


def test_other_shape_of_tensor(classifier: Classifier) -> None:
    table = classifier_to_table(classifier)
    shapes = table["shape"].to_pylist()
    shapes[0] = [2, *shapes[0][1:]]
    with pytest.raises(ClassifierError, match="blocks.0.convolution.weight"):
        classifier_from_table(replace_column(table, "shape", shapes))


def test_other_dtype(classifier: Classifier) -> None:
    table = classifier_to_table(classifier)
    dtypes = table["dtype"].to_pylist()
    with pytest.raises(ClassifierError, match="object"):
        classifier_from_table(replace_column(table, "dtype", ["object", *dtypes[1:]]))


def test_unexpected_tensor(classifier: Classifier) -> None:
    table = classifier_to_table(classifier)
    names = table["name"].to_pylist()
    extra = replace_column(table[:1], "name", ["other"])
    with pytest.raises(ClassifierError, match="'other'"):
        classifier_from_table(pa.concat_tables([table, extra]))
    assert "other" not in names


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"a": [1]}),
        pa.table({"a": [1]}).replace_schema_metadata({METADATA_KEY: "{}"}),
        classifier_to_table(untrained_classifier()).replace_schema_metadata(None),
    ],
)
def test_foreign_table(table: pa.Table) -> None:
    with pytest.raises(ClassifierError, match="no classifier of meas_tno"):
        classifier_from_table(table)


def test_foreign_description(classifier: Classifier) -> None:
    table = classifier_to_table(classifier)
    with pytest.raises(ClassifierError, match="not JSON"):
        classifier_from_table(table.replace_schema_metadata({METADATA_KEY: "{"}))
    with pytest.raises(ClassifierError, match="version 99"):
        classifier_from_table(edit_description(table, format_version=99))
    with pytest.raises(ClassifierError, match="'transformer'"):
        classifier_from_table(edit_description(table, architecture={"name": "transformer", "config": {}}))
    with pytest.raises(ClassifierError, match="description"):
        classifier_from_table(edit_description(table, input_shape={}))
    with pytest.raises(ClassifierError, match="description"):
        classifier_from_table(edit_description(table, architecture={"name": "conv3d", "config": {"x": 1}}))
    for pixel_scale in (None, "0.2", 0.0, float("inf")):
        with pytest.raises(ClassifierError, match=f"pixel_scale={pixel_scale!r}"):
            classifier_from_table(edit_description(table, pixel_scale=pixel_scale))
