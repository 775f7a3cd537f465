# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens to single pixels, at edges and where something is missing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from warp_builders import (
    ALL_KERNELS,
    affine_about,
    blank_cutouts,
    impulse_responses,
    random_affines,
)

from lsst.meas.tno import ImageSequences, MaskBit
from lsst.meas.tno._sequences import Injection
from lsst.meas.tno.geometry import apply_affine, invert_affine, north_up_affine
from lsst.meas.tno.warping import KERNELS, required_cutout_size, warp_sequences


@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_bits_spread_to_what_the_kernel_touches(kernel: str) -> None:
    size, warp_size = 28, 11
    affine = affine_about(size, 25.0, offset=(0.1, 0.3))
    weights = impulse_responses(affine, size, warp_size, kernel).reshape(warp_size, warp_size, size, size)
    sequences = blank_cutouts(affine[None, None], size)
    plain = warp_sequences(sequences, warp_size=warp_size, kernel=kernel)
    sequences.mask[0, 0, 13, 12] = MaskBit.NO_DATA
    sequences.image[0, 0, 13, 12] = sequences.variance[0, 0, 13, 12] = np.nan
    sequences.mask[0, 0, 15, 16] = MaskBit.SATURATED | MaskBit.DETECTED
    sequences.mask[0, 0, 10, 15] = MaskBit.INJECTED
    warped = warp_sequences(sequences, warp_size=warp_size, kernel=kernel)
    expected = (weights[:, :, 13, 12] != 0) * MaskBit.NO_DATA
    expected |= (weights[:, :, 15, 16] != 0) * (MaskBit.SATURATED | MaskBit.DETECTED)
    expected |= (weights[:, :, 10, 15] != 0) * MaskBit.INJECTED
    np.testing.assert_array_equal(warped.mask[0, 0], expected)
    no_data = (expected & MaskBit.NO_DATA) != 0
    assert 0 < no_data.sum() < no_data.size
    for name in ("image", "variance"):
        pixels, expected_pixels = (getattr(table, name)[0, 0] for table in (warped, plain))
        np.testing.assert_array_equal(np.isnan(pixels), no_data)
        np.testing.assert_allclose(pixels[~no_data], expected_pixels[~no_data], rtol=1e-6)
    warped.validate()


@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_whole_pixels_touch_nothing_else(kernel: str) -> None:
    # The grid of the cutout itself: all of it, to the edge, is copied.
    rng = np.random.default_rng(8)
    sequences = blank_cutouts(north_up_affine(35, 0.2)[None, None], 35)
    sequences.image[:] = rng.normal(size=sequences.image.shape)
    sequences.mask[0, 0, 3, 4], sequences.mask[0, 0, 8, 8] = MaskBit.NO_DATA, MaskBit.BAD
    sequences.image[0, 0, 3, 4] = sequences.variance[0, 0, 3, 4] = np.nan
    warped = warp_sequences(sequences, warp_size=35, kernel=kernel)
    np.testing.assert_array_equal(warped.mask, sequences.mask)
    np.testing.assert_allclose(warped.image, sequences.image, rtol=1e-6)
    np.testing.assert_allclose(warped.variance, sequences.variance, rtol=1e-6)
    assert warped.noise_scale[0, 0] == pytest.approx(1.0, rel=1e-5)


def test_kernel_beyond_the_cutout_is_no_data() -> None:
    sequences = blank_cutouts(affine_about(20, 0.0, offset=(0.5, 0.5))[None, None], 20)
    warped = warp_sequences(sequences, warp_size=21, kernel="bilinear", pixel_scale=0.19)
    # The centre of the grid is at 10; 0 to 19 is covered by both pixels.
    position = 10 + 0.95 * np.arange(-10, 11)
    is_covered = (position >= 0) & (position <= 19)
    expected = ~(is_covered & is_covered[:, None])
    np.testing.assert_array_equal((warped.mask[0, 0] & MaskBit.NO_DATA) != 0, expected)
    warped.validate()


def test_missing_pixels_without_their_bit() -> None:
    sequences = blank_cutouts(affine_about(30, 10.0)[None, None], 30)
    sequences.variance[0, 0, 15, 15] = np.nan
    warped = warp_sequences(sequences)
    assert np.isnan(warped.image).any()
    warped.validate()


def test_padding_stays_padding() -> None:
    sequences = blank_cutouts(random_affines(np.random.default_rng(9), (3, 4), 40), 40)
    missing = ImageSequences.full(3, T=4, H=40, W=40, K=25)
    for column, array in sequences.items():
        if column.shape[:1] == ("T",):
            array[1, 2:] = getattr(missing, column.name)[1, 2:]
            array[2] = getattr(missing, column.name)[2]
    warped = warp_sequences(sequences)
    expected = ImageSequences.full(3, T=4, H=15, W=15, K=25)
    for column, array in warped.items():
        if column.shape[:1] == ("T",):
            np.testing.assert_array_equal(array[~warped.valid], getattr(expected, column.name)[~warped.valid])
    assert np.all(np.isfinite(warped.image[warped.valid]))
    assert np.all(np.isfinite(warped.noise_scale[warped.valid]))
    warped.validate()


def test_threads_and_input_that_is_not_contiguous() -> None:
    rng = np.random.default_rng(10)
    sequences = blank_cutouts(random_affines(rng, (20, 6), 40), 40)
    sequences.image[:] = rng.normal(size=sequences.image.shape)
    sequences.mask[rng.uniform(size=sequences.mask.shape) < 0.001] = MaskBit.BAD
    one = warp_sequences(sequences)
    two = warp_sequences(sequences, n_threads=2)
    for column, array in one.items():
        assert array.tobytes() == getattr(two, column.name).tobytes(), column.name
    odd = dataclasses.replace(
        sequences,
        **{c.name: a[:, 1::2] for c, a in sequences.items() if c.shape[:1] == ("T",)},
    )
    assert warp_sequences(odd).image.tobytes() == one.image[:, 1::2].tobytes()


def test_truth_of_injected_objects() -> None:
    affines = random_affines(np.random.default_rng(11), (2, 3), 40)
    sequences = blank_cutouts(affines, 40)
    xi, eta = np.array([0.3, -1.4, 1.55]), np.array([-0.5, 1.4, 0.2])
    sequences.injection = Injection.full(2, T=3)
    for name in ("injected", "inj_flux", "snr"):
        getattr(sequences.injection, name)[0] = 7.0
    for time in range(3):
        linear, offset = affines[0, time, :, :2], affines[0, time, :, 2]
        x, y = np.linalg.solve(linear, [xi[time], eta[time]] - offset)
        sequences.injection.inj_x[0, time], sequences.injection.inj_y[0, time] = x, y
    warped = warp_sequences(sequences)
    truth = warped.injection
    assert truth is not None
    np.testing.assert_allclose(truth.inj_x[0], 7 - xi / 0.2, atol=1e-9)
    np.testing.assert_allclose(truth.inj_y[0], 7 + eta / 0.2, atol=1e-9)
    # The grid ends 1.5 arcsec from its centre.
    np.testing.assert_array_equal(truth.inj_flux, [[7.0, 7.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(truth.snr, sequences.injection.snr)
    np.testing.assert_array_equal(sequences.injection.inj_flux[0], 7.0)
    assert np.all(np.isnan(truth.inj_x[1]))
    warped.validate()


@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_required_cutout_size(kernel: str) -> None:
    size = required_cutout_size(15, 0.2, kernel)
    angles = np.arange(0, 90, 5.0)
    offsets = [(0.5, 0.5), (-0.499, -0.499), (0.5, -0.499)]

    def n_missing(size: int) -> int:
        affines = [[affine_about(size, angle, offset=offset) for angle in angles] for offset in offsets]
        warped = warp_sequences(blank_cutouts(np.array(affines), size), kernel=kernel)
        return int(np.sum((warped.mask & MaskBit.NO_DATA) != 0))

    assert n_missing(size) == 0
    assert n_missing(size - 1) > 0
    assert required_cutout_size(15, 0.2, kernel, 0.1) > size


def test_impossible_arguments() -> None:
    sequences = blank_cutouts(affine_about(18, 0.0)[None, None], 18)
    with pytest.raises(
        ValueError, match="18x18 pixels are too small for a warp of 31x31.*cutout_size at least 49"
    ):
        warp_sequences(sequences, warp_size=31)
    with pytest.raises(ValueError, match="no kernel 'sinc'; choose one of lanczos3"):
        warp_sequences(sequences, kernel="sinc")
    with pytest.raises(ValueError, match="pixel_scale=0.0"):
        warp_sequences(sequences, pixel_scale=0.0)
    sequences.pixel_to_sky[0, 0, 0] = sequences.pixel_to_sky[0, 0, 1]
    with pytest.raises(ValueError, match="no invertible pixel_to_sky.*visit 0, detector -1"):
        warp_sequences(sequences)


def test_no_sequences() -> None:
    sequences = blank_cutouts(np.zeros((0, 4, 2, 3)), 40)
    assert warp_sequences(sequences).image.shape == (0, 4, 15, 15)


@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_table_of_kernel(kernel: str) -> None:
    exact = KERNELS[kernel].weights(np.linspace(0, 1, 5000))
    table = KERNELS[kernel].table.astype(float)
    phases = np.linspace(0, 1, len(table))
    for j in range(KERNELS[kernel].n_taps):
        interpolated = np.interp(np.linspace(0, 1, 5000), phases, table[:, j])
        np.testing.assert_allclose(interpolated, exact[:, j], atol=2.5e-6)
    np.testing.assert_allclose(table.sum(axis=1), 1.0, rtol=1e-6)
    padded = KERNELS[kernel].padded_table
    assert padded.shape == (len(table), len(KERNELS[kernel].lanes))
    np.testing.assert_array_equal(padded[:, : table.shape[1]], table)
    assert not np.any(padded[:, table.shape[1] :])


@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_pixels_beside_the_kernel_do_not_matter(kernel: str) -> None:
    """Not even infinite ones, in the columns that fill vector registers."""
    size, warp_size = 40, 9
    affine = affine_about(size, 12.0, offset=(0.2, -0.4))
    weights = impulse_responses(affine, size, warp_size, kernel).reshape(-1, size, size)
    beside = ~np.any(weights != 0, axis=0)
    sequences = blank_cutouts(affine[None, None], size)
    sequences.image[:] = np.random.default_rng(12).normal(size=sequences.image.shape)
    plain = warp_sequences(sequences, warp_size=warp_size, kernel=kernel)
    for value in (np.nan, np.inf):
        sequences.image[0, 0, beside] = sequences.variance[0, 0, beside] = value
        warped = warp_sequences(sequences, warp_size=warp_size, kernel=kernel)
        for name in ("image", "variance", "mask"):
            assert getattr(warped, name).tobytes() == getattr(plain, name).tobytes()


def test_grids_that_reach_over_any_edge() -> None:
    """They have what a larger cutout would give them, where the kernel is
    inside.
    """
    rng = np.random.default_rng(13)
    size, margin = 26, 15
    shifts = [(8.3, 0.2), (-9.1, 0.4), (0.1, 7.7), (-0.3, -8.9), (9.2, -9.4), (40.0, 0.0), (-0.5, 1e9)]
    affines = np.array(
        [[affine_about(size, angle, offset=at) for at in shifts] for angle in (0.0, 33.0, 215.0)]
    )
    larger = affines.copy()
    larger[..., 2] -= affines[..., :2].sum(axis=-1) * margin
    wide = blank_cutouts(larger, size + 2 * margin)
    wide.image[:] = rng.normal(size=wide.image.shape)
    wide.mask[rng.uniform(size=wide.mask.shape) < 0.01] = MaskBit.BAD
    narrow = blank_cutouts(affines, size)
    for name in ("image", "variance", "mask"):
        getattr(narrow, name)[:] = getattr(wide, name)[..., margin:-margin, margin:-margin]
    warped, expected = warp_sequences(narrow), warp_sequences(wide)
    no_data = (warped.mask & MaskBit.NO_DATA) != 0
    for name in ("image", "variance", "mask"):
        np.testing.assert_allclose(
            getattr(warped, name)[~no_data], getattr(expected, name)[~no_data], rtol=1e-6
        )
    y, x = np.mgrid[:15, :15]
    to_input = apply_affine(
        invert_affine(affines)[..., None, None, :, :], *apply_affine(north_up_affine(15, 0.2), x, y)
    )
    first, last = KERNELS["lanczos3"].radius - 1, size - KERNELS["lanczos3"].radius
    inside = np.all([(axis > first + 1e-6) & (axis < last - 1e-6) for axis in to_input], axis=0)
    np.testing.assert_array_equal(no_data, ~inside)
    assert np.any(no_data)
    assert not np.all(no_data)
