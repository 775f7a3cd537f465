# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lsst.meas.tno.nn.array_store import ArrayStore


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    arrays = {
        "image": rng.normal(size=(7, 3, 2)).astype(np.float32),
        "mask": rng.integers(256, size=(7, 3), dtype=np.uint8),
        "mjd": rng.uniform(60000, 61000, 7),
    }
    store = ArrayStore(tmp_path)
    for part in (slice(0, 4), slice(4, 4), slice(4, 7)):
        store.append({name: array[part] for name, array in arrays.items()})
    rows = np.array([6, 0, 3, 6])
    loaded = store.load(rows)
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array[rows])
    loaded["image"][:] = 0.0
    np.testing.assert_array_equal(store.load(rows)["image"], arrays["image"][rows])


def test_rows_of_another_shape(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path)
    store.append({"image": np.zeros((2, 3), dtype=np.float32)})
    with pytest.raises(ValueError, match=r"\(4,\).*\(3,\)"):
        store.append({"image": np.zeros((2, 4), dtype=np.float32)})


def test_child_has_files_of_its_own(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path)
    child = store.child("more")
    store.append({"image": np.zeros(2)})
    child.append({"image": np.ones(3)})
    assert store.load(np.arange(2))["image"].sum() == 0
    assert child.load(np.arange(3))["image"].sum() == 3
