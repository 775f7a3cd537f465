# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import numpy as np
import pytest

from lsst.meas.tno import MaskBit
from lsst.meas.tno.nn.inputs import augment, has_usable_pixels, significance


def make_columns(rng: np.random.Generator) -> dict[str, np.ndarray]:
    shape = (2, 4, 5, 5)
    return {
        "image": rng.normal(0, 3.0, shape).astype(np.float32),
        "variance": np.full(shape, 9.0, dtype=np.float32),
        "mask": np.zeros(shape, dtype=np.uint8),
    }


def test_significance_of_noise_is_linear() -> None:
    columns = make_columns(np.random.default_rng(1))
    fed = significance(columns, 5.0)
    assert fed.dtype == np.float32
    linear = columns["image"] / 3.0
    # s arcsinh(x / s) = x (1 - (x / s)^2 / 6 + ...).
    np.testing.assert_allclose(fed, linear, rtol=(np.abs(linear).max() / 5.0) ** 2 / 6)


def test_bright_pixels_are_compressed() -> None:
    columns = make_columns(np.random.default_rng(1))
    columns["image"][0, 0, 0, 0] = 3e4
    fed = significance(columns, 5.0)
    assert fed[0, 0, 0, 0] == pytest.approx(5.0 * np.log(2 * 1e4 / 5.0), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image", np.nan),
        ("image", np.inf),
        ("variance", np.nan),
        ("variance", 0.0),
        ("variance", -1.0),
        ("variance", np.inf),
        ("mask", MaskBit.BAD),
        ("mask", MaskBit.NO_DATA),
        ("mask", MaskBit.SATURATED),
    ],
)
def test_unusable_pixels_are_zero(name: str, value: float) -> None:
    columns = make_columns(np.random.default_rng(1))
    expected = significance(columns, 5.0)
    columns[name][1, 2, 3, 4] = value
    expected[1, 2, 3, 4] = 0.0
    np.testing.assert_array_equal(significance(columns, 5.0), expected)
    columns[name][1] = value
    assert has_usable_pixels(columns).tolist() == [True, False]


def test_overflowing_significance_is_unusable() -> None:
    columns = make_columns(np.random.default_rng(1))
    columns["image"][0], columns["variance"][0] = 3e38, 1e-38
    assert not np.any(significance(columns, 5.0)[0])
    assert has_usable_pixels(columns).tolist() == [False, True]


def test_injected_and_detected_pixels_are_used() -> None:
    columns = make_columns(np.random.default_rng(1))
    expected = significance(columns, 5.0)
    columns["mask"][:] = MaskBit.INJECTED | MaskBit.DETECTED
    np.testing.assert_array_equal(significance(columns, 5.0), expected)


def test_augmentation_keeps_padding_at_the_end() -> None:
    rng = np.random.default_rng(1)
    images = rng.normal(size=(64, 6, 4, 4)).astype(np.float32)
    n_valid = rng.integers(1, 7, size=64)
    images[np.arange(6) >= n_valid[:, None]] = 0.0
    augmented = {"significance": images.copy()}
    augment(augmented, {"significance": "thw"}, n_valid, rng)
    for before, after, n_images in zip(images, augmented["significance"], n_valid, strict=True):
        assert not np.any(after[n_images:])
        # No pixel moves to another image, but in the order of time.
        sums, mirrored = np.sort(before.reshape(6, -1)), np.sort(after.reshape(6, -1))
        reverse = np.concatenate([mirrored[:n_images][::-1], mirrored[n_images:]])
        assert np.array_equal(sums, mirrored) or np.array_equal(sums, reverse)


def test_augmentation_gives_all_symmetries() -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(size=(3, 4, 4)).astype(np.float32)
    augmented = {"significance": np.repeat(image[None], 1000, axis=0)}
    augment(augmented, {"significance": "thw"}, np.full(1000, 3), rng)
    # The square has 8 symmetries, time 2.
    assert len({row.tobytes() for row in augmented["significance"]}) == 16


def test_augmentation_of_an_oblong_window() -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(size=(3, 4, 6)).astype(np.float32)
    augmented = {"significance": np.repeat(image[None], 1000, axis=0), "time": np.zeros((1000, 3), "f4")}
    augmented["time"][:] = [1, 2, 3]
    augment(augmented, {"significance": "thw", "time": "t"}, np.full(1000, 2), rng)
    assert len({row.tobytes() for row in augmented["significance"]}) == 8
    assert {tuple(row) for row in augmented["time"].tolist()} == {(1, 2, 3), (2, 1, 3)}
