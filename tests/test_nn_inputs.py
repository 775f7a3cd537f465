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


def test_psf_turns_with_an_oblong_window() -> None:
    rng = np.random.default_rng(1)
    image, psf = rng.normal(size=(3, 4, 6)), rng.normal(size=(3, 5, 5))
    arrays = {"image": np.repeat(image[None], 400, axis=0), "psf": np.repeat(psf[None], 400, axis=0)}
    augment(arrays, {"image": "thw", "psf": "thw"}, np.full(400, 3), rng)
    pairs = {(one.tobytes(), other.tobytes()) for one, other in zip(*arrays.values(), strict=True)}
    # One symmetry of the window is one of its PSF, and none is a quarter turn.
    assert len(pairs) == len({row.tobytes() for row in arrays["psf"]}) == 8


def test_source_stays_where_vectors_and_affines_say() -> None:
    rng = np.random.default_rng(1)
    n, size = 200, 7
    x, y = rng.integers(size, size=(2, n, 2))
    arrays = {
        "image": np.zeros((n, 2, size, size)),
        "position": np.stack([x, y], axis=-1) - (size - 1) / 2,
        "affine": rng.normal(size=(n, 2, 2, 3)),
        "time": np.tile([0.0, 1.0], (n, 1)),
    }
    np.put_along_axis(arrays["image"].reshape(n, 2, -1), (size * y + x)[..., None], 1.0, axis=2)
    letters = {"image": "thw", "position": "tv", "affine": "tsp", "time": "t"}

    def sky() -> np.ndarray:
        _, _, row, column = np.nonzero(arrays["image"])
        pixel = np.stack([column, row, np.ones(2 * n)], axis=-1).reshape(n, 2, 3)
        np.testing.assert_array_equal(arrays["position"], pixel[..., :2] - (size - 1) / 2)
        return np.einsum("ntij,ntj->nti", arrays["affine"], pixel)

    before = sky()
    augment(arrays, letters, np.full(n, 2), rng, size=(size, size))
    is_reversed = arrays["time"][:, 0] == 1.0
    assert 0 < is_reversed.sum() < n
    before[is_reversed] = before[is_reversed, ::-1]
    np.testing.assert_allclose(sky(), before, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="size"):
        augment(arrays, letters, np.full(n, 2), rng)


def test_motion_backwards_is_a_motion_at_the_same_times() -> None:
    """Positions that are linear in unequal times are so after the reversal,
    with the opposite rate.
    """
    rng = np.random.default_rng(1)
    n, n_times = 100, 6
    times = np.sort(rng.uniform(60000.0, 60001.0, (n, n_times)), axis=1)
    n_valid = rng.integers(2, n_times + 1, n)
    padding = np.arange(n_times) >= n_valid[:, None]
    times[padding] = -1.0
    rate, start = rng.uniform(1, 2, (2, n, 1))
    arrays = {"time": times.copy(), "x": np.where(padding, 0.0, start + rate * (times - 60000.0))}
    before = {name: array.copy() for name, array in arrays.items()}
    augment(arrays, {"time": "T", "x": "t"}, n_valid, rng)
    signs = set()
    for row, n_images in enumerate(n_valid):
        new = arrays["time"][row, :n_images]
        assert np.all(np.diff(new) > 0)
        old = times[row, :n_images]
        assert (new[0], new[-1]) == pytest.approx((old[0], old[-1]), abs=1e-9)
        slope = np.diff(arrays["x"][row, :n_images]) / np.diff(new)
        signs.add(np.sign(slope[0]))
        # Steps of 1e-4 days are known to 1e-11.
        np.testing.assert_allclose(slope, np.sign(slope[0]) * rate[row, 0], rtol=1e-5)
        for name, array in arrays.items():
            np.testing.assert_array_equal(array[row, n_images:], before[name][row, n_images:])
    assert signs == {-1.0, 1.0}
