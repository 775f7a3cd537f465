# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table, vstack

import lsst.daf.butler.tests as butler_tests
from lsst.daf.butler import Butler, Config, DatasetRef, DeferredDatasetHandle, FileDataset, FileIntegrityError
from lsst.meas.tno import ImageSequences
from lsst.meas.tno._sequences import Injection
from lsst.meas.tno._stored_tables import read_parts, read_table
from lsst.pipe.base import InMemoryDatasetHandle

DATA_ID = {"skymap": "map", "tract": 7, "patch": 42}


def make_sequences(n: int) -> ImageSequences:
    """Return sequences all of whose values differ."""
    rng = np.random.default_rng(3)
    sequences = ImageSequences.full(n, T=4, H=5, W=6, K=3)
    sequences.injection = Injection.full(n, T=4)
    for column, array in [*sequences.items(), *sequences.injection.items()]:
        if array.dtype.kind == "f":
            array[:] = rng.normal(size=array.shape)
        elif array.dtype.kind in "iu":
            array[:] = rng.integers(100, size=array.shape)
        elif array.dtype.kind == "b":
            array[:] = rng.integers(2, size=array.shape)
        else:
            names = np.array([f"{column.name} {'long ' * (row % 3)}{row}" for row in range(n)])
            setattr(sequences.injection, column.name, names)
    return sequences


@pytest.fixture
def butler(tmp_path: Path) -> Iterator[Butler]:
    """Return a repository with room for a table."""
    config = Config({"datastore": {"cls": "lsst.daf.butler.datastores.fileDatastore.FileDatastore"}})
    data_ids = {"skymap": ["map"], "tract": [7], "patch": [42]}
    with butler_tests.makeTestRepo(str(tmp_path), data_ids, config=config) as repo:
        butler_tests.addDatasetType(repo, "table", {"skymap", "tract", "patch"}, "ArrowAstropy")
        with butler_tests.makeTestCollection(repo, uniqueId="run") as butler:
            yield butler


def put(butler: Butler, sequences: ImageSequences) -> DeferredDatasetHandle:
    """Store sequences, and return the handle of the table."""
    return butler.getDeferred(butler.put(sequences.to_arrow(), "table", DATA_ID))


def assert_identical(found: Table, expected: Table) -> None:
    """Compare tables to the last bit, with all that describes them."""
    assert found.colnames == expected.colnames
    assert dict(found.meta) == dict(expected.meta)
    for name in expected.colnames:
        one, other = found[name], expected[name]
        assert (one.dtype, one.shape, one.unit, one.description) == (
            other.dtype,
            other.shape,
            other.unit,
            other.description,
        ), name
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes(), name


@pytest.mark.parametrize("n", [0, 1, 7])
def test_table_is_what_the_butler_gives(butler: Butler, n: int) -> None:
    handle = put(butler, make_sequences(n))
    assert_identical(read_table(handle), handle.get())
    columns = ["psf", "object_id", "ra", "psf"]
    assert_identical(read_table(handle, columns), handle.get(parameters={"columns": columns[:3]}))


def test_table_of_several_parts(butler: Butler, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = put(butler, make_sequences(7))
    monkeypatch.setattr("lsst.meas.tno._stored_tables.PART_SIZE", 5_000)
    assert len(list(read_parts(handle))) == 4
    table = read_table(handle)
    assert_identical(table, handle.get())
    assert len(ImageSequences.from_table(table)) == 7


@pytest.mark.parametrize("is_file", [True, False])
def test_size_of_the_parts(butler: Butler, monkeypatch: pytest.MonkeyPatch, is_file: bool) -> None:
    stored = put(butler, make_sequences(7))
    expected = stored.get()
    handle = stored if is_file else InMemoryDatasetHandle(expected, storageClass="ArrowAstropy", copy=False)
    row_size = sum(column[:1].nbytes for column in expected.itercols())
    monkeypatch.setattr("lsst.meas.tno._stored_tables.PART_SIZE", 3 * row_size)
    parts = list(read_parts(handle))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert_identical(vstack(parts, metadata_conflicts="silent"), expected)
    # A row is never divided.
    monkeypatch.setattr("lsst.meas.tno._stored_tables.PART_SIZE", 1)
    assert [len(part) for part in read_parts(handle)] == [1] * 7
    assert_identical(read_table(handle, ["visit", "mjd"]), expected["visit", "mjd"])


@pytest.mark.parametrize("is_file", [True, False])
def test_table_without_rows_is_one_part(butler: Butler, is_file: bool) -> None:
    stored = put(butler, make_sequences(0))
    table = stored.get()
    handle = stored if is_file else InMemoryDatasetHandle(table, storageClass="ArrowAstropy", copy=False)
    (part,) = read_parts(handle)
    assert_identical(part, table)


def test_damaged_file_is_named(butler: Butler) -> None:
    handle = put(butler, make_sequences(7))
    path = Path(butler.getURI(handle.ref).ospath)
    content = bytearray(path.read_bytes())
    content[4:64] = b"\xff" * 60
    path.write_bytes(content)
    with pytest.raises((pa.ArrowException, OSError)) as caught:
        list(read_parts(handle))
    (note,) = caught.value.__notes__
    assert str(path) in note
    assert "table@" in note


def test_missing_column_is_named(butler: Butler) -> None:
    handle = put(butler, make_sequences(2))
    with pytest.raises(KeyError, match="colour") as caught:
        read_table(handle, ["ra", "colour"])
    assert "table@" in caught.value.__notes__[0]


def test_file_of_another_size_is_refused(butler: Butler) -> None:
    handle = put(butler, make_sequences(7))
    pq.write_table(make_sequences(6).to_arrow(), butler.getURI(handle.ref).ospath)
    with pytest.raises(FileIntegrityError):
        list(read_parts(handle))


@pytest.mark.parametrize("part_size", [1, 5_000, 10**9])
def test_several_row_groups(
    butler: Butler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_size: int
) -> None:
    monkeypatch.setattr("lsst.meas.tno._stored_tables.PART_SIZE", part_size)
    path = tmp_path / "groups.parq"
    pq.write_table(make_sequences(7).to_arrow(), path, row_group_size=3)
    ref = DatasetRef(butler.get_dataset_type("table"), butler.registry.expandDataId(DATA_ID), butler.run)
    butler.ingest(FileDataset(path=str(path), refs=[ref]), transfer="direct")
    handle = butler.getDeferred(ref)
    assert_identical(read_table(handle), handle.get())


_PEAK = """
import resource, sys
from lsst.daf.butler import Butler
from lsst.meas.tno._stored_tables import read_parts, read_table
with Butler.from_config(sys.argv[1], collections=sys.argv[2]) as butler:
    (ref,) = butler.query_datasets("table")
    handle = butler.getDeferred(ref)
    read_table(handle, ["ra"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    n = sum(len(part) for part in read_parts(handle))
    print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_is_that_of_a_part(butler: Butler, tmp_path: Path) -> None:
    sequences = ImageSequences.full(4000, T=50, H=15, W=15, K=9)
    sequences.image[:] = np.random.default_rng(1).normal(size=sequences.image.shape)
    size = sum(array.nbytes for _, array in sequences.items())
    put(butler, sequences)
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(tmp_path), butler.run],
        check=True,
        capture_output=True,
        text=True,
    )
    n, kilobytes = map(int, done.stdout.split())
    assert n == 4000
    assert size > 400e6
    # The file's columns are compressed in pieces of some 10 MB.
    assert 1024 * kilobytes < 0.5 * size
