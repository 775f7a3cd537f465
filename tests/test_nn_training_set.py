# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nn_builders import as_handle, moving_sequences, small_architecture

from lsst.meas.tno import ImageSequences
from lsst.meas.tno.nn.training_set import (
    ArrayStore,
    TrainingSet,
    TrainingSetError,
    read_training_set,
    split_of_orbits,
)
from lsst.meas.tno.positions import straddles_split
from lsst.pipe.base import InMemoryDatasetHandle
from lsst.utils.logging import getLogger

LOG = getLogger("test")


def read(directory: Path, *parts: ImageSequences) -> TrainingSet:
    directory.mkdir(exist_ok=True)
    handles = [as_handle(part) for part in parts]
    return read_training_set(handles, small_architecture(), ArrayStore(directory), LOG)


def test_order_of_inputs_does_not_matter(tmp_path: Path) -> None:
    parts = [moving_sequences(patch, 40, patch=patch) for patch in (3, 1, 20)]
    one = read(tmp_path / "one", *parts)
    other = read(tmp_path / "other", *parts[::-1])
    assert [source["data_id"]["patch"] for source in one.sources] == [1, 3, 20]
    assert one.sources == other.sources
    assert (tmp_path / "one/significance").read_bytes() == (tmp_path / "other/significance").read_bytes()
    np.testing.assert_array_equal(one.split, other.split)


def test_stored_rows_are_what_the_network_is_fed(tmp_path: Path) -> None:
    parts = [moving_sequences(patch, 40, patch=patch) for patch in (0, 1)]
    # Where trixels do not meet, all are used.
    inside = [~straddles_split(part.ra, part.dec, part.htm, 9 * 0.2) for part in parts]
    parts = [part[keep] for part, keep in zip(parts, inside, strict=True)]
    training_set = read(tmp_path, *parts)
    together = ImageSequences.concatenate(parts)
    assert training_set.counts["left_out_straddling_splits"] == 0
    np.testing.assert_array_equal(training_set.injected, together.injection.injected)
    np.testing.assert_array_equal(training_set.split, together.split)
    rows = np.array([len(together) - 1, 0, 5])
    expected = small_architecture().encode(
        {name: getattr(together, name)[rows] for name in ("image", "variance", "mask")}
    )
    np.testing.assert_array_equal(training_set.store.load(rows)["significance"], expected["significance"])
    assert training_set.shape == (8, 9, 9)


def test_hash_is_that_of_the_content(tmp_path: Path) -> None:
    sequences = moving_sequences(0, 60)
    digest = read(tmp_path / "one", sequences).sources[0]["sha256"]
    assert read(tmp_path / "same", sequences).sources[0]["sha256"] == digest
    sequences.image[7, 0, 0, 0] += 1.0
    assert read(tmp_path / "pixel", sequences).sources[0]["sha256"] != digest
    sequences.image[7, 0, 0, 0] -= 1.0
    sequences.injection.snr[1] += 1.0
    assert read(tmp_path / "label", sequences).sources[0]["sha256"] != digest


def test_windows_across_splits_are_left_out(tmp_path: Path) -> None:
    sequences = moving_sequences(0, 400)
    # Windows of 60 arcsec reach across the border of many trixels, which have
    # sides of 80.
    sequences.pixel_to_sky *= 60.0 / (9 * 0.2)
    straddles = straddles_split(sequences.ra, sequences.dec, sequences.htm, 60.0)
    training_set = read(tmp_path, sequences)
    n_left_out = np.count_nonzero(straddles & (sequences.split < 2))
    assert n_left_out > 20
    assert training_set.counts["left_out_straddling_splits"] == n_left_out
    assert len(training_set.split) == 400 - n_left_out
    assert np.count_nonzero(training_set.split == 2) == np.count_nonzero(sequences.split == 2)


def test_orbits_are_in_one_split_only(tmp_path: Path) -> None:
    sequences = moving_sequences(0, 400)
    injected = sequences.injection.injected
    orbits = np.array([f"orbit-{row % 30}" for row in range(400)])
    sequences.injection.source_orbit = np.where(injected, orbits, "")
    training_set = read(tmp_path, sequences)
    expected = injected & (split_of_orbits(orbits) == sequences.split)
    # No clean sequence is left out on account of orbits.
    inside = ~(straddles_split(sequences.ra, sequences.dec, sequences.htm, 1.8) & (sequences.split < 2))
    np.testing.assert_array_equal(training_set.split, sequences.split[(expected | ~injected) & inside])
    # The hash splits 70:15:15; 3 sigma of 3000 is 2.5 %.
    split = split_of_orbits(np.array([f"name {i}" for i in range(3000)]))
    np.testing.assert_allclose(np.bincount(split) / 3000, (0.70, 0.15, 0.15), atol=0.025)


def test_sequences_without_usable_pixels_are_left_out(tmp_path: Path) -> None:
    sequences = moving_sequences(0, 100)
    n = len(read(tmp_path / "all", sequences).split)
    row = int(np.flatnonzero(sequences.split == 2)[0])
    sequences.mask[row] = 1
    training_set = read(tmp_path / "masked", sequences)
    assert training_set.counts["left_out_without_usable_pixels"] == 1
    assert len(training_set.split) == n - 1


def test_padding_is_counted(tmp_path: Path) -> None:
    sequences = moving_sequences(0, 100)
    sequences.valid[:, 5:], sequences.mask[:, 5:], sequences.image[:, 5:] = False, 1, np.nan
    training_set = read(tmp_path, sequences)
    assert set(training_set.n_valid) == {5}
    assert not np.any(training_set.store.load(np.arange(3))["significance"][:, 5:])


def test_no_tables(tmp_path: Path) -> None:
    with pytest.raises(TrainingSetError, match="no tables"):
        read(tmp_path)


def test_tables_without_sequences(tmp_path: Path) -> None:
    table = moving_sequences(0, 4).to_table()[:0]
    handle = InMemoryDatasetHandle(table, storageClass="ArrowAstropy", skymap="map", tract=1, patch=0)
    with pytest.raises(TrainingSetError, match="no sequences to train on"):
        read_training_set([handle], small_architecture(), ArrayStore(tmp_path), LOG)


def test_fully_masked(tmp_path: Path) -> None:
    sequences = moving_sequences(0, 60)
    sequences.mask[:] = 1
    with pytest.raises(TrainingSetError, match="0 with and 0 without an object in training"):
        read(tmp_path, sequences)


@pytest.mark.parametrize("injected", [True, False])
def test_one_class(tmp_path: Path, injected: bool) -> None:
    sequences = moving_sequences(0, 60)
    sequences.injection.injected[:] = injected
    with pytest.raises(TrainingSetError, match="of one class.*in validation.*in test"):
        read(tmp_path, sequences)


def test_no_validation(tmp_path: Path) -> None:
    sequences = moving_sequences(0, 60)
    with pytest.raises(TrainingSetError, match="validate on.*0 with and 0 without an object in validation"):
        read(tmp_path, sequences[sequences.split != 1])


def test_tables_of_different_shapes(tmp_path: Path) -> None:
    parts = [moving_sequences(0, 60, patch=1), moving_sequences(0, 60, patch=2, n_times=7)]
    with pytest.raises(TrainingSetError, match=r"'patch': 2.*\(7, 9, 9\).*'patch': 1.*\(8, 9, 9\)"):
        read(tmp_path, *parts)


def test_tables_of_different_pixel_scales(tmp_path: Path) -> None:
    parts = [moving_sequences(patch, 60, patch=patch) for patch in (1, 2, 3)]
    parts[1].pixel_to_sky *= 1.008
    assert read(tmp_path / "near", *parts).pixel_scale == pytest.approx(0.2)
    # Each is within 1 % of the first, but they are not of each other.
    parts[2].pixel_to_sky *= 0.996
    with pytest.raises(TrainingSetError, match="'patch': 2.* 0.2016 arcsec.*'patch': 3.* 0.1992 arcsec"):
        read(tmp_path / "far", *parts)
    assert not list((tmp_path / "far").iterdir())


def test_pixel_scale_is_that_of_valid_images(tmp_path: Path) -> None:
    sequences = moving_sequences(0, 60)
    sequences.valid[:, 5:], sequences.mask[:, 5:], sequences.image[:, 5:] = False, 1, np.nan
    sequences.pixel_to_sky[:, 5:] *= 2.0
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    sequences.pixel_to_sky = turn @ sequences.pixel_to_sky
    assert read(tmp_path / "padded", sequences).pixel_scale == pytest.approx(0.2)
    # A table without any valid image says nothing of the others.
    empty = moving_sequences(1, 4, patch=1)
    empty.valid[:], empty.mask[:], empty.pixel_to_sky[:] = False, 1, np.nan
    assert read(tmp_path / "empty", sequences, empty).pixel_scale == pytest.approx(0.2)


def test_no_pixel_scale(tmp_path: Path) -> None:
    sequences = moving_sequences(0, 60)
    sequences.pixel_to_sky[:] = np.nan
    with pytest.raises(TrainingSetError, match="finite pixel_to_sky"):
        read(tmp_path, sequences)


def test_clean_table(tmp_path: Path) -> None:
    sequences = moving_sequences(0, 60)
    sequences.injection = None
    with pytest.raises(TrainingSetError, match="'patch': 0.*lacks the columns.*injected"):
        read(tmp_path, sequences)
