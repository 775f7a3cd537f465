# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import numpy as np
import pytest
from builders import CENTRE
from export_builders import found_candidates, injected_sequences, pad

from lsst.meas.tno import ImageSequences
from lsst.meas.tno.astrometry import Positions, measure_light_curve, measure_positions
from lsst.meas.tno.candidates import Candidates, psf_fwhm
from lsst.meas.tno.geometry import apply_affine, gnomonic
from lsst.meas.tno.photometry import njy_to_ab_mag
from lsst.meas.tno.tracks import candidate_positions, match_candidates

FAINT = 180.0
"""nJy: S/N 10 in 50 images, 1.4 in one."""


@pytest.fixture(scope="module")
def faint() -> tuple[ImageSequences, Candidates]:
    sequences = injected_sequences(np.random.default_rng(5), 40, flux=FAINT)
    return sequences, found_candidates(sequences)


def offsets(positions: Positions, sequences: ImageSequences) -> np.ndarray:
    """Return how far positions are from the truth, arcsec, ``(2, m)``."""
    truth = sequences.injection
    x, y = (
        np.array(
            [
                np.interp(mjd, sequences.mjd[row], values[row])
                for mjd, row in zip(positions.mjd, positions.candidate, strict=True)
            ]
        )
        for values in (truth.inj_x, truth.inj_y)
    )
    expected = apply_affine(sequences.pixel_to_sky[0, 0], x, y)
    return np.array(gnomonic(positions.ra, positions.dec, *CENTRE)) - expected


@pytest.mark.parametrize("n_stack", [1, 5, 25])
def test_errors_are_right(faint: tuple[ImageSequences, Candidates], n_stack: int) -> None:
    sequences, candidates = faint
    positions, n_left_out = measure_positions(sequences, candidates, n_stack=n_stack)
    assert n_left_out == 0
    assert len(positions) == 40 * 50 // n_stack
    assert np.all(positions.n_images == n_stack)
    pull = offsets(positions, sequences) / [positions.rms_ra, positions.rms_dec]
    # The trajectory has been fitted to the same noise, and its flux is 10 %
    # uncertain; 80 positions in two axes are enough for 8 %.
    assert np.std(pull) == pytest.approx(1.0, abs=0.2)
    assert abs(np.mean(pull)) < 0.25


def test_error_is_that_of_a_gaussian(faint: tuple[ImageSequences, Candidates]) -> None:
    sequences, candidates = faint
    positions, _ = measure_positions(sequences, candidates)
    # sqrt(2) sigma / (S/N) of a well sampled Gaussian.
    expected = np.sqrt(2) * 1.8 * 0.2 / positions.snr
    np.testing.assert_allclose(positions.rms_ra, expected, rtol=0.05)
    np.testing.assert_allclose(positions.rms_dec, expected, rtol=0.05)
    assert np.all(np.abs(positions.correlation) < 0.05)
    np.testing.assert_allclose(psf_fwhm(sequences), 2.3548 * 1.8 * 0.2, rtol=1e-3)


def test_positions_together_are_the_trajectory(faint: tuple[ImageSequences, Candidates]) -> None:
    sequences, candidates = faint
    positions, _ = measure_positions(sequences, candidates)
    for row in range(len(candidates)):
        one = positions.select(positions.candidate == row)
        hours = (one.mjd - candidates.mjd[row]) * 24
        plane = gnomonic(one.ra, one.dec, candidates.ra[row], candidates.dec[row])
        for axis, rms, index in ((plane[0], one.rms_ra, 0), (plane[1], one.rms_dec, 1)):
            rate, start = np.polyfit(hours, axis, 1, w=1 / rms)
            error = np.sqrt(np.diag(candidates.covariance[row]))
            rates = candidates.rate_ra_cosdec[row], candidates.rate_dec[row]
            # The maximum is found to 0.005 standard deviations; the flux of
            # the candidate is a little lower than at the maximum.
            assert abs(start) < 0.1 * error[index]
            assert abs(rate - rates[index]) < 0.1 * error[index + 2]


def test_magnitude_is_that_of_the_band() -> None:
    sequences = injected_sequences(np.random.default_rng(6), 1, flux=2000.0)
    sequences.band[0, 30:] = 3
    candidates = found_candidates(sequences)
    positions, _ = measure_positions(sequences, candidates, n_stack=10)
    assert list(positions.band) == [2, 2, 2, 3, 3]
    assert list(positions.visit) == [0, 10, 20, 30, 40]
    np.testing.assert_allclose(positions.exposure_time, 300.0)
    assert len(set(positions.mag)) == 2
    # S/N 85 and 69.
    np.testing.assert_allclose(positions.mag, njy_to_ab_mag(2000.0), atol=0.08)
    np.testing.assert_allclose(positions.mag_err, [0.0127] * 3 + [0.0156] * 2, rtol=0.1)


def test_only_images_that_the_object_is_on() -> None:
    sequences = injected_sequences(np.random.default_rng(7), 2, flux=3000.0)
    candidates = found_candidates(sequences)
    pad(sequences, 0, 20)
    sequences.mask[1, 3] = 4
    positions, _ = measure_positions(sequences, candidates)
    assert list(positions.visit[positions.candidate == 0]) == list(range(20))
    assert list(positions.visit[positions.candidate == 1]) == [v for v in range(50) if v != 3]


def test_what_is_less_certain_than_the_psf_is_left_out() -> None:
    sequences = injected_sequences(np.random.default_rng(8), 3, flux=FAINT)
    candidates = found_candidates(sequences)
    candidates.flux[:] = 40.0
    positions, n_left_out = measure_positions(sequences, candidates)
    assert (len(positions), n_left_out) == (0, 150)
    nothing, _ = measure_positions(sequences[:0], candidates.select(np.array([], dtype=int)))
    assert len(Positions.concatenate([nothing, positions])) == 0
    assert nothing.candidate.dtype == int
    positions, n_left_out = measure_positions(sequences, candidates, n_stack=25)
    assert (len(positions), n_left_out) == (6, 0)
    with pytest.raises(ValueError, match="n_stack=0"):
        measure_positions(sequences, candidates, n_stack=0)


def test_candidates_find_their_sequences(faint: tuple[ImageSequences, Candidates]) -> None:
    sequences, candidates = faint
    some = candidates.select(np.array([7, 3]))
    index = match_candidates(sequences, some)
    assert list(np.flatnonzero(index >= 0)) == [3, 7]
    assert list(index[[3, 7]]) == [1, 0]
    x, y = candidate_positions(sequences, candidates)
    truth = sequences.injection
    # The position at the mean time is good to 0.3 pixels here, the ends of the
    # track to twice that.
    assert np.median(np.hypot(x - truth.inj_x, y - truth.inj_y)) < 0.5


def test_light_curve() -> None:
    sequences = injected_sequences(np.random.default_rng(9), 20, flux=3000.0)
    candidates = found_candidates(sequences)
    sequences.mask[3, 7] = 4
    flux, flux_err = measure_light_curve(sequences, candidates)
    assert np.isnan(flux[3, 7])
    assert np.isfinite(flux).sum() == 20 * 50 - 1
    # Noise of 20 nJy a pixel in 4 pi sigma^2 pixels.
    np.testing.assert_allclose(flux_err[np.isfinite(flux_err)], 20 * np.sqrt(4 * np.pi) * 1.8, rtol=0.02)
    pull = ((flux - 3000.0) / flux_err)[np.isfinite(flux)]
    # A thousand of them.
    assert np.mean(pull) == pytest.approx(0.0, abs=0.12)
    assert np.std(pull) == pytest.approx(1.0, abs=0.08)
