# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import numpy as np
import pytest
from builders import white_sequences

from lsst.meas.tno import MaskBit
from lsst.meas.tno._moving_sources import MovingSources
from lsst.meas.tno.injection import optimal_snr, shift_psf

N, N_TIMES, SIZE = 6, 5, 15
COLUMNS = ("image", "variance", "mask", "psf", "noise_scale", "valid")


def make_columns(seed: int = 1) -> dict[str, np.ndarray]:
    sequences = white_sequences(np.random.default_rng(seed), N, n_times=N_TIMES, size=SIZE)
    sequences.noise_scale[:] = 1.3
    sequences.mask[1, 2, 5:9, 5:9] = MaskBit.BAD
    sequences.valid[2, 3:] = False
    sequences.mask[2, 3:], sequences.psf[2, 3:] = MaskBit.NO_DATA, np.nan
    sequences.image[2, 3:], sequences.variance[2, 3:] = np.nan, np.nan
    return {name: getattr(sequences, name) for name in COLUMNS}


def make_sources(columns: dict[str, np.ndarray]) -> tuple[MovingSources, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    x, y = rng.uniform(3, SIZE - 4, (2, 4, N_TIMES))
    return MovingSources(columns, np.array([4, 1, 2, 0]), x, y), x, y


def test_noise_free_source_is_seen_with_its_snr() -> None:
    columns = make_columns()
    before = {name: array.copy() for name, array in columns.items()}
    sources, x, y = make_sources(columns)
    flux = np.random.default_rng(3).uniform(50, 300, (4, N_TIMES))
    columns["image"][np.isfinite(columns["image"])] = 0.0
    snr = sources.snr(flux)
    sources.add(flux, np.full(flux.shape, 1e15), np.random.default_rng(4))
    # Both are sums of float32 pixels.
    np.testing.assert_allclose(sources.measure(flux), snr, rtol=1e-5)
    for source, row in enumerate((4, 1, 2, 0)):
        n_images = before["valid"][row].sum()
        profile = shift_psf(before["psf"][row, :n_images], x[source, :n_images], y[source, :n_images], 15, 15)
        variance = before["variance"][row, :n_images] * 1.3
        usable = before["mask"][row, :n_images] == 0
        expected = optimal_snr(flux[source, :n_images], profile, variance, usable)
        assert snr[source] == pytest.approx(expected, rel=1e-6)
        marked = (columns["mask"][row, :n_images] & MaskBit.INJECTED) != 0
        np.testing.assert_array_equal(marked, profile > 1e-3 * before["psf"][0, 0].max())
    for name in ("image", "variance", "mask"):
        np.testing.assert_array_equal(columns[name][[3, 5]], before[name][[3, 5]] * (name != "image"))


def test_subtraction_undoes_what_was_added_but_the_noise() -> None:
    columns = make_columns()
    before = {name: array.copy() for name, array in columns.items()}
    sources, *_ = make_sources(columns)
    flux, electrons = np.full((4, N_TIMES), 5000.0), np.full((4, N_TIMES), 2.0)
    sources.add(flux, electrons, np.random.default_rng(4))
    added = np.nan_to_num(columns["variance"] - before["variance"])
    assert added.max() > 50.0
    sources.subtract(flux, electrons)
    np.testing.assert_array_equal(columns["mask"], before["mask"])
    np.testing.assert_allclose(columns["variance"], before["variance"], rtol=1e-6)
    left = np.nan_to_num(columns["image"] - before["image"])[added > 1.0]
    # Hundreds of pixels: the mean of squares is known to a few percent.
    assert np.mean(left**2 / added[added > 1.0]) == pytest.approx(1.0, abs=0.15)


def test_variance_stays_positive() -> None:
    columns = make_columns()
    sources, *_ = make_sources(columns)
    sources.subtract(np.full((4, N_TIMES), 1e7), np.full((4, N_TIMES), 1.0))
    assert np.nanmin(columns["variance"]) == pytest.approx(40.0)


def test_images_without_a_position_or_a_psf_are_left_alone() -> None:
    columns = make_columns()
    before = {name: array.copy() for name, array in columns.items()}
    x = np.full((1, N_TIMES), 7.0)
    x[0, 1] = np.nan
    columns["psf"][3, 2, 0, 0] = np.nan
    sources = MovingSources(columns, np.array([3]), x, np.full((1, N_TIMES), 7.0))
    sources.add(np.full((1, N_TIMES), 1e4), np.full((1, N_TIMES), 2.0), np.random.default_rng(1))
    changed = np.any(columns["image"][3] != before["image"][3], axis=(1, 2))
    assert changed.tolist() == [True, False, False, True, True]


def test_source_off_the_images_has_no_snr() -> None:
    columns = make_columns()
    sources = MovingSources(columns, np.array([3]), np.full((1, N_TIMES), 40.0), np.full((1, N_TIMES), 7.0))
    flux = np.full((1, N_TIMES), 100.0)
    assert sources.snr(flux).tolist() == [0.0]
    assert np.isnan(sources.measure(flux)[0])
