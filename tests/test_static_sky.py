# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import numpy as np
import pytest

from lsst.meas.tno import ImageSequences, MaskBit
from lsst.meas.tno._static_sky import _weighted_median
from lsst.meas.tno.warping import subtract_median


def make_sequences(
    rng: np.random.Generator, n: int, n_times: int, sigma: np.ndarray, *, size: int = 15
) -> ImageSequences:
    """Return white noise of a sigma for each image, all in one band."""
    sequences = ImageSequences.full(n, T=n_times, H=size, W=size, K=3)
    sequences.valid[:] = True
    sequences.band[:] = 2
    sequences.mjd[:] = 60000.0 + np.arange(n_times)
    sequences.variance[:] = (sigma**2)[:, None, None]
    sequences.image[:] = rng.normal(size=sequences.image.shape) * sigma[:, None, None]
    sequences.mask[:] = 0
    return sequences


def test_static_sky_is_removed_band_by_band() -> None:
    rng = np.random.default_rng(1)
    sequences = make_sequences(rng, 2, 30, np.full(30, 2.0))
    sequences.band[:, ::3] = 4
    sky = rng.uniform(0, 1000, (2, 2, 15, 15)).astype(np.float32)
    for index, band in enumerate((2, 4)):
        sequences.image += np.where((sequences.band == band)[:, :, None, None], sky[:, index, None], 0)
    before = sequences.image.copy()
    result = subtract_median(sequences)
    assert np.std(result.image) == pytest.approx(2.0, rel=0.05)
    assert np.all(result.mask == 0)
    # What was given stays as it was.
    np.testing.assert_array_equal(sequences.image, before)
    assert not np.shares_memory(result.variance, sequences.variance)


@pytest.mark.parametrize(
    ("n_times", "spread", "tolerance"), [(50, 1.0, 0.01), (9, 1.0, 0.05), (30, 1.6, 0.03)]
)
def test_variance_after_subtraction(n_times: int, spread: float, tolerance: float) -> None:
    rng = np.random.default_rng(2)
    sigma = np.geomspace(1.0, spread, n_times)
    sequences = make_sequences(rng, 400 if n_times < 20 else 80, n_times, sigma)
    unusable = n_times // 2
    sequences.mask[:, unusable] = MaskBit.BAD
    result = subtract_median(sequences)
    # 18,000 pixels or more: 1 % on the variance of one image, and much less
    # on the mean of all. With few images the formula is 3 to 5 % too large.
    ratio = np.mean(result.image.astype(float) ** 2, axis=(0, 2, 3)) / result.variance[0, :, 0, 0]
    used = np.arange(n_times) != unusable
    assert np.mean(ratio[used]) == pytest.approx(1.0, abs=tolerance)
    assert ratio[unusable] == pytest.approx(1.0, abs=0.05)
    assert result.variance[0, unusable, 0, 0] > sequences.variance[0, unusable, 0, 0]
    np.testing.assert_allclose(ratio, 1.0, atol=0.05)


def test_unusable_pixels_do_not_count() -> None:
    sequences = make_sequences(np.random.default_rng(3), 1, 20, np.full(20, 1.0))
    sequences.image[0, :12] += 1e5
    sequences.mask[0, :12] = MaskBit.SATURATED
    sequences.image[0, 15, 2, 3] = sequences.variance[0, 15, 2, 3] = np.nan
    sequences.mask[0, 15, 2, 3] = MaskBit.NO_DATA
    result = subtract_median(sequences)
    assert np.abs(result.image[0, 12:15]).max() < 10
    assert np.abs(result.image[0, :12] - 1e5).max() < 10
    np.testing.assert_array_equal(result.mask, sequences.mask)
    np.testing.assert_array_equal(np.isnan(result.image), np.isnan(sequences.image))


def test_too_few_images_and_padding() -> None:
    sequences = make_sequences(np.random.default_rng(4), 1, 12, np.full(12, 1.0))
    sequences.band[0, 6:10] = 1
    sequences.mask[0, :2, 7, 7] = MaskBit.BAD
    sequences.valid[0, 10:], sequences.band[0, 10:] = False, 255
    sequences.mask[0, 10:] = MaskBit.NO_DATA
    sequences.image[0, 10:] = sequences.variance[0, 10:] = np.nan
    result = subtract_median(sequences, min_images=5)
    expected = np.zeros((12, 15, 15), bool)
    expected[6:] = True
    expected[:6, 7, 7] = True
    np.testing.assert_array_equal((result.mask[0] & MaskBit.NO_DATA) != 0, expected)
    np.testing.assert_array_equal(np.isnan(result.image[0]), expected)
    np.testing.assert_array_equal(np.isnan(result.variance[0]), expected)
    # The other bits stay.
    assert result.mask[0, 0, 7, 7] == MaskBit.NO_DATA | MaskBit.BAD
    with pytest.raises(ValueError, match="min_images must be at least 1, not 0"):
        subtract_median(sequences, min_images=0)


def test_moving_object_stays() -> None:
    sequences = make_sequences(np.random.default_rng(5), 1, 30, np.full(30, 1.0))
    clean = subtract_median(sequences).image
    for time in range(30):
        sequences.image[0, time, 7, time // 2] += 20.0
    gained = (subtract_median(sequences).image - clean)[0, np.arange(30), 7, np.arange(30) // 2]
    # Two high values of thirty move the median by a twentieth of the noise.
    assert np.mean(gained) == pytest.approx(20.0, abs=0.3)


@pytest.mark.parametrize("n", [1, 4, 7])
def test_weighted_median(n: int) -> None:
    rng = np.random.default_rng(6)
    values = rng.normal(size=n)
    assert _weighted_median(values, np.full(n, 3.0)) == pytest.approx(np.median(values))
    # A heavy value has its way.
    weights = np.ones(n)
    weights[0] = 1e9
    assert _weighted_median(values, weights) == pytest.approx(values[0], abs=1e-6)
