# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from injection_builders import gaussian_pixels, make_sequences, pad, psf_fwhm

import lsst.daf.butler.tests as butler_tests
from lsst.meas.tno._schema import SCHEMAS, validate_table
from lsst.meas.tno._sequences import BANDS, ImageSequences, Injection, MaskBit
from lsst.meas.tno.geometry import apply_affine, gnomonic, inverse_gnomonic
from lsst.meas.tno.photometry import njy_to_ab_mag
from lsst.meas.tno.tasks.inject_tnos import InjectTnosConfig, InjectTnosConnections, InjectTnosTask
from lsst.pex.config import FieldValidationError
from lsst.pipe.base import NoWorkFound
from lsst.pipe.base.testUtils import assertValidOutput, lintConnections, makeQuantum, runTestQuantum

DATA_ID = {"skymap": "map", "tract": 7, "patch": 42}


def make_task(
    *, fraction: float = 0.5, seed: int = 1, noise: bool = True, **population: Any
) -> InjectTnosTask:
    """Return a task; other arguments configure the linear population."""
    config = InjectTnosConfig()
    config.fraction, config.seed = fraction, seed
    if not noise:
        config.zero_points = dict.fromkeys(BANDS, 50.0)
    linear = config.population["linear"]
    linear.min_times_inside = 20
    for name, value in population.items():
        setattr(linear, name, value)
    config.validate()
    return InjectTnosTask(config=config)


def copy_pixels(sequences: ImageSequences) -> ImageSequences:
    """Return the sequences with copies of the pixels."""
    names = ("image", "variance", "mask")
    return dataclasses.replace(sequences, **{name: getattr(sequences, name).copy() for name in names})


def assert_same(first: ImageSequences, second: ImageSequences) -> None:
    """Check that all columns are the same, bit for bit."""
    pairs: list[tuple[Any, Any]] = [(first, second), (first.injection, second.injection)]
    for one, other in pairs:
        for column, array in one.items():
            expected = getattr(other, column.name)
            if column.dtype == "U":
                assert array.tolist() == expected.tolist()
            else:
                assert array.tobytes() == expected.tobytes(), column.name


def matched_filter_snr(
    pixels: np.ndarray, clean: ImageSequences, truth: Injection, row: np.intp, fwhm: np.ndarray
) -> float:
    """Return the S/N that a matched filter at the true positions measures.

    The PSF is drawn where the object is, and not interpolated.
    """
    psf = gaussian_pixels(truth.inj_x[row], truth.inj_y[row], fwhm[row], clean.height, clean.width)
    signal = psf * truth.inj_flux[row][:, None, None]
    weight = np.where(clean.mask[row] == 0, 1 / clean.variance[row], 0.0)
    psi = np.sum(pixels * signal * weight)
    return psi / np.sqrt(np.sum(signal**2 * weight))


def test_matched_filter_has_the_snr_of_the_truth() -> None:
    n = 1000
    clean = make_sequences(n, np.random.default_rng(1))
    bad = np.random.default_rng(2).random(clean.mask.shape) < 0.05
    clean.mask[bad] = MaskBit.BAD
    injected = make_task(fraction=1.0).run(clean).injected
    truth = injected.injection
    fwhm = psf_fwhm(clean)
    rows = np.flatnonzero(truth.injected)
    assert len(rows) > 0.95 * n
    snr = np.array([matched_filter_snr(injected.image[row], clean, truth, row, fwhm) for row in rows])
    pull = snr - truth.snr[rows]
    # The mean of 1000 standard normal variates has a sigma of 0.032.
    assert abs(pull.mean()) < 0.1
    # The Poisson noise of the objects adds a little to the sky's.
    assert 0.95 < pull.std() < 1.15
    added = [
        matched_filter_snr(injected.image[row] - clean.image[row], clean, truth, row, fwhm) for row in rows
    ]
    # Poisson noise only.
    assert abs(np.mean(added / truth.snr[rows]) - 1) < 2e-3


def test_snr_without_noise_is_that_of_the_added_light() -> None:
    clean = make_sequences(40, np.random.default_rng(3))
    injected = make_task(fraction=1.0, noise=False).run(clean).injected
    fwhm = psf_fwhm(clean)
    truth = injected.injection
    for row in np.flatnonzero(truth.injected):
        added = injected.image[row].astype(float) - clean.image[row]
        expected = truth.snr[row]
        assert matched_filter_snr(added, clean, truth, row, fwhm) == pytest.approx(expected, rel=1e-3)


def test_truth_and_clean_sequences() -> None:
    clean = make_sequences(41, np.random.default_rng(4))
    before = copy_pixels(clean)
    task = make_task(snr_min=5.0, snr_max=6.0)
    injected = task.run(clean).injected
    injected.validate()
    truth = injected.injection
    assert truth.injected.sum() == 21
    assert task.metadata["n_sequences"] == 41
    assert task.metadata["n_injected"] == 21
    assert task.metadata["n_left_out"] == 0
    for column, array in injected.items():
        # The input is as it was, and so is all but the injected pixels.
        np.testing.assert_array_equal(getattr(clean, column.name), getattr(before, column.name))
        kept = ~truth.injected if column.name in ("image", "variance", "mask") else slice(None)
        assert array[kept].tobytes() == getattr(before, column.name)[kept].tobytes()
    assert np.all(np.any(injected.image != before.image, axis=(1, 2, 3)) == truth.injected)
    assert np.all(injected.variance >= before.variance)
    assert np.all((truth.snr >= 5) & (truth.snr <= 6) == truth.injected)
    assert len(set(truth.object_id[truth.injected])) == 21
    assert np.all(truth.object_id[~truth.injected] == "")
    assert np.all(truth.source_orbit == "")
    for name in ("mag", "snr", "rate", "position_angle"):
        assert np.all(np.isfinite(getattr(truth, name)) == truth.injected)
    assert np.all(np.isnan(truth.distance) & np.isnan(truth.distance_scale))


def test_motion_and_brightness_of_the_pixels_positions() -> None:
    clean = make_sequences(30, np.random.default_rng(5))
    task = make_task(fraction=1.0, brightness="mag", mag_min=23.0, mag_max=24.0)
    truth = task.run(clean).injected.injection
    for row in np.flatnonzero(truth.injected):
        xi, eta = apply_affine(clean.pixel_to_sky[row], truth.inj_x[row], truth.inj_y[row])
        hours = (clean.mjd[row] - clean.mean_mjd[row]) * 24
        v_xi, v_eta = np.polyfit(hours, xi, 1)[0], np.polyfit(hours, eta, 1)[0]
        assert np.hypot(v_xi, v_eta) == pytest.approx(truth.rate[row], rel=1e-6)
        difference = np.degrees(np.arctan2(v_xi, v_eta)) - truth.position_angle[row]
        assert abs((difference + 180) % 360 - 180) < 1e-4
        assert 0.5 <= truth.rate[row] <= 2.5
        # All of the images, and not nearer than edge_margin to the edge.
        assert np.abs([xi, eta]).max() <= 1.5 - 0.4 + 1e-9
        r_band = clean.band[row] == BANDS.index("r")
        np.testing.assert_allclose(njy_to_ab_mag(truth.inj_flux[row][r_band]), truth.mag[row], atol=1e-9)
        g_band = clean.band[row] == BANDS.index("g")
        g_mag = njy_to_ab_mag(truth.inj_flux[row][g_band])
        np.testing.assert_allclose(g_mag - truth.mag[row], 0.67, atol=1e-9)
        assert 23 <= truth.mag[row] <= 24


def test_distributions_are_those_of_the_configuration() -> None:
    # Slow objects always fit, so that nothing is drawn again.
    clean = make_sequences(1000, np.random.default_rng(6), n_times=2, size=15, psf_size=3)
    task = make_task(
        fraction=1.0, rate_min=0.01, rate_max=0.1, rate_distribution="log_uniform", position_angle_max=90.0
    )
    truth = task.run(clean).injected.injection
    assert truth.injected.all()
    # Four sigma of the mean of a uniform variate: 4 / sqrt(12 * 1000).
    for value in (
        np.log10(truth.rate) + 2,
        truth.position_angle / 90,
        np.log(truth.snr / 3) / np.log(60 / 3),
    ):
        assert value.min() >= 0
        assert value.max() <= 1
        assert value.mean() == pytest.approx(0.5, abs=0.037)
    xi, eta = apply_affine(clean.pixel_to_sky, truth.inj_x, truth.inj_y)
    for value in (xi / 2.2 + 0.5, eta / 2.2 + 0.5):
        assert value[:, 0].mean() == pytest.approx(0.5, abs=0.037)
        assert value[:, 0].std() == pytest.approx(1 / np.sqrt(12), rel=0.05)


def test_min_times_inside() -> None:
    clean = make_sequences(60, np.random.default_rng(7), hours=2.0)
    task = make_task(fraction=1.0, min_times_inside=8, rate_min=2.0, rate_max=2.5, max_tries=3)
    truth = task.run(clean).injected.injection
    sky = inverse_gnomonic(
        *apply_affine(clean.pixel_to_sky, truth.inj_x, truth.inj_y), clean.centre_ra, clean.centre_dec
    )
    xi, eta = gnomonic(*sky, clean.centre_ra, clean.centre_dec)
    n_inside = np.sum(np.maximum(np.abs(xi), np.abs(eta)) <= 1.1 + 1e-9, axis=1)
    assert 0 < truth.injected.sum() < 60
    assert task.metadata["n_left_out"] == 60 - truth.injected.sum()
    assert np.all(n_inside[truth.injected] >= 8)
    assert n_inside[truth.injected].min() < 20


def test_window_that_moves() -> None:
    # The centre drifts by 5 arcsec: objects must go with it, and do.
    clean = make_sequences(20, np.random.default_rng(8))
    drift = np.linspace(0, 0.5, clean.n_times)
    clean.centre_ra, clean.centre_dec = inverse_gnomonic(
        drift, 0 * drift, clean.ra[:, None], clean.dec[:, None]
    )
    truth = make_task(fraction=1.0, rate_max=1.0).run(clean).injected.injection
    xi, eta = apply_affine(clean.pixel_to_sky, truth.inj_x, truth.inj_y)
    assert truth.injected.sum() > 10
    assert np.abs([xi[truth.injected], eta[truth.injected]]).max() <= 1.1 + 1e-9


def test_padded_and_empty_sequences() -> None:
    clean = make_sequences(3, np.random.default_rng(9))
    pad(clean, 0, 7)
    pad(clean, 1, 0)
    task = make_task(fraction=1.0)
    injected = task.run(clean).injected
    injected.validate()
    assert injected.injection.injected.tolist() == [True, False, True]
    assert task.metadata["n_left_out"] == 1
    assert np.all(np.isfinite(injected.injection.inj_x[0]) == clean.valid[0])


def test_same_inputs_same_bytes_whatever_else_is_there() -> None:
    clean = make_sequences(12, np.random.default_rng(10))
    task = make_task(fraction=1.0)
    first, second = task.run(clean).injected, task.run(clean).injected
    assert_same(first, second)
    part = task.run(clean[slice(4, 9)]).injected
    assert_same(part, first[slice(4, 9)])
    other = make_task(fraction=1.0, seed=2).run(clean).injected
    assert not np.array_equal(other.injection.rate, first.injection.rate)


def test_impossible_configurations() -> None:
    clean = make_sequences(3, np.random.default_rng(11), hours=50.0)
    with pytest.raises(
        ValueError, match=r"rate_min=0.5 to rate_max=2.5.*window_size=3.0.*span at least 4\d\.\d+ hours"
    ):
        make_task().run(clean)
    # Not impossible: slow enough for the diagonal.
    longest = np.sqrt(2) * 2.2 / (np.ptp(clean.mjd, axis=1).min() * 24)
    make_task(rate_min=0.99 * longest, rate_max=longest).run(clean)
    with pytest.raises(ValueError, match="longest path is 2.2 arcsec"):
        make_task(rate_min=0.99 * longest, position_angle_max=0.0).run(clean)
    with pytest.raises(FieldValidationError, match="rate_min=3.0 is above rate_max=2.5"):
        make_task(rate_min=3.0)
    with pytest.raises(FieldValidationError, match="edge_margin=1.5 leaves nothing of window_size=3.0"):
        make_task(edge_margin=1.5)
    with pytest.raises(FieldValidationError, match="no value for the bands"):
        make_task(colours={"r": 0.0})
    with pytest.raises(FieldValidationError, match="rate_min must be above 0"):
        make_task(rate_min=0.0, rate_distribution="log_uniform")
    config = InjectTnosConfig()
    config.zero_points = {"r": 28.0}
    with pytest.raises(FieldValidationError, match="zero_points has no value"):
        config.validate()


def test_nothing_to_do_and_nothing_twice() -> None:
    clean = make_sequences(2, np.random.default_rng(12))
    task = make_task()
    with pytest.raises(NoWorkFound, match="no image sequences"):
        task.run(clean[slice(0, 0)])
    with pytest.raises(ValueError, match="injected into these image sequences before"):
        task.run(task.run(clean).injected)


def test_connections_and_quantum(tmp_path: Path) -> None:
    lintConnections(InjectTnosConnections)  # type: ignore[arg-type]
    clean = make_sequences(6, np.random.default_rng(13))
    task = make_task()
    result = task.run(clean)
    assertValidOutput(task, result)
    with butler_tests.makeTestRepo(str(tmp_path), {"skymap": ["map"], "tract": [7], "patch": [42]}) as repo:
        for name in ("tno_cutouts", "tno_cutouts_injected"):
            butler_tests.addDatasetType(repo, name, {"skymap", "tract", "patch"}, "ArrowAstropy")
        with butler_tests.makeTestCollection(repo, uniqueId="run") as butler:
            butler.put(clean.to_arrow(), "tno_cutouts", DATA_ID)
            data_id = butler.registry.expandDataId(DATA_ID)
            quantum = makeQuantum(task, butler, data_id, {"cutouts": DATA_ID, "injected": DATA_ID})
            runTestQuantum(task, butler, quantum, mockRun=False)
            table = butler.get("tno_cutouts_injected", DATA_ID)
    validate_table(table, SCHEMAS["tno_cutouts_injected"])
    injected = ImageSequences.from_table(table)
    injected.validate()
    assert_same(injected, result.injected)
    assert table["injected"].sum() == 3
