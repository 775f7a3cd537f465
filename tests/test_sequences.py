# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
from builders import white_sequences

from lsst.daf.butler.formatters.parquet import arrow_to_astropy
from lsst.meas.tno import SCHEMAS, ImageSequences, Injection, MaskBit, SchemaError, validate_table


@pytest.fixture
def sequences():
    return white_sequences(np.random.default_rng(1), 4, n_times=6)


def _round_trip(sequences, path):
    pyarrow.parquet.write_table(sequences.to_arrow(), path)
    return arrow_to_astropy(pyarrow.parquet.read_table(path))


def test_round_trip_keeps_every_bit_and_unit(sequences, tmp_path):
    table = _round_trip(sequences, tmp_path / "table.parq")
    sizes = validate_table(table, SCHEMAS["tno_sequences"])
    assert sizes == {"T": 6, "H": 15, "W": 15, "K": 25}
    again = ImageSequences.from_table(table)
    for column, array in sequences.items():
        np.testing.assert_array_equal(getattr(again, column.name), array)
    assert table["image"].unit == "nJy"
    assert table["pixel_to_sky"].unit == "arcsec"


def test_injected_round_trip(sequences, tmp_path):
    sequences.injection = Injection.full(4, T=6)
    sequences.injection.object_id = np.array(["", "a", "object", ""])
    table = _round_trip(sequences, tmp_path / "table.parq")
    validate_table(table, SCHEMAS["tno_sequences_injected"])
    again = ImageSequences.from_table(table)
    assert again.injection.object_id.tolist() == ["", "a", "object", ""]
    assert np.all(np.isnan(again.injection.mag))
    assert np.all(again.injection.inj_flux == 0)


def test_to_arrow_shares_the_pixels(sequences):
    table = sequences.to_arrow()
    flat = table["image"].chunk(0).values.to_numpy(zero_copy_only=True)
    assert np.shares_memory(flat, sequences.image)


@pytest.mark.parametrize(("batch_size", "n_batches"), [(1, 4), (3 * 28_000, 2), (10**9, 1)])
def test_to_arrow_in_batches(sequences, tmp_path, monkeypatch, batch_size, n_batches):
    expected = _round_trip(sequences, tmp_path / "one.parq")
    monkeypatch.setattr("lsst.meas.tno._sequences.BATCH_SIZE", batch_size)
    table = sequences.to_arrow()
    assert table["image"].num_chunks == n_batches
    flat = table["image"].chunk(n_batches - 1).values.to_numpy(zero_copy_only=True)
    assert np.shares_memory(flat, sequences.image)
    found = _round_trip(sequences, tmp_path / "several.parq")
    assert found.colnames == expected.colnames
    for name in expected.colnames:
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[name].unit == expected[name].unit


def test_to_arrow_without_rows(sequences, tmp_path):
    table = _round_trip(sequences[:0], tmp_path / "table.parq")
    assert len(table) == 0
    validate_table(table, SCHEMAS["tno_sequences"])


_PEAK = """
import resource, sys
import numpy as np, pyarrow.parquet
from lsst.meas.tno import ImageSequences
sequences = ImageSequences.full(1000, T=50, H=20, W=20, K=9)
sequences.image[:] = np.random.default_rng(1).random(sequences.image.shape, dtype=np.float32)
for array in (sequences.variance, sequences.mask, sequences.psf):
    array[:] = 1
table = sequences.to_arrow()
pyarrow.parquet.write_table(table[:10], sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pyarrow.parquet.write_table(table, sys.argv[1])
print(table.nbytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_writing_takes_little_memory(tmp_path):
    command = [sys.executable, "-c", _PEAK, str(tmp_path / "table.parq")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    size, kilobytes = map(int, done.stdout.split())
    assert size > 150e6
    # Some 60 MB are needed for a table of any size; more than all of it if
    # the table is one batch.
    assert 1024 * kilobytes < 0.7 * size


def test_slices_are_views_and_concatenation_restores(sequences):
    first, rest = sequences[:1], sequences[1:]
    assert np.shares_memory(first.image, sequences.image)
    again = ImageSequences.concatenate([first, rest])
    np.testing.assert_array_equal(again.image, sequences.image)
    assert len(sequences[np.array([True, False, True, False])]) == 2


def test_concatenation_refuses_a_mixture(sequences):
    other = sequences[:2]
    other.injection = Injection.full(2, T=6)
    with pytest.raises(ValueError, match="with and without"):
        ImageSequences.concatenate([sequences, other])


def test_full_is_valid_padding():
    sequences = ImageSequences.full(2, T=3, H=4, W=5, K=3)
    sequences.validate()
    assert (sequences.n_times, sequences.height, sequences.width, sequences.psf_size) == (3, 4, 5, 3)
    assert not np.any(sequences.usable)
    assert np.all(sequences.band == 255)
    assert np.all(np.isnan(sequences.mean_mjd))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.valid.__setitem__((0, 2), False), "Padding"),
        (lambda s: s.mjd.__setitem__((0, 2), 0.0), "order of time"),
        (lambda s: s.image.__setitem__((0, 2, 3, 3), np.nan), "NO_DATA"),
        (lambda s: setattr(s, "image", s.image.astype(float)), "'image' has dtype float64"),
        (lambda s: setattr(s, "psf", s.psf[:, :-1]), "'psf' has row shape"),
    ],
)
def test_validate_names_what_is_wrong(sequences, damage, message):
    sequences.validate()
    damage(sequences)
    with pytest.raises(SchemaError, match=message):
        sequences.validate()


def test_schema_names_missing_and_unexpected_columns(sequences):
    table = sequences.to_table()
    table["extra"] = 1
    with pytest.raises(SchemaError, match="extra"):
        validate_table(table, SCHEMAS["tno_sequences"])
    table.remove_columns(["extra", "mjd"])
    with pytest.raises(SchemaError, match="mjd"):
        validate_table(table, SCHEMAS["tno_sequences"])
    table = sequences.to_table()
    table["ra"].unit = "rad"
    with pytest.raises(SchemaError, match="unit rad"):
        validate_table(table, SCHEMAS["tno_sequences"])


def test_usable_leaves_out_what_is_masked(sequences):
    sequences.mask[0, 0, 0, :5] = [
        MaskBit.NO_DATA,
        MaskBit.BAD,
        MaskBit.SATURATED,
        MaskBit.DETECTED,
        MaskBit.INJECTED,
    ]
    assert sequences.usable[0, 0, 0, :6].tolist() == [False, False, False, True, True, True]
