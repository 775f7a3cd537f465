# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from builders import CENTRE, white_sequences
from injection_builders import make_sequences
from nn_builders import untrained_classifier
from scipy.special import expit

import lsst.daf.butler.tests as butler_tests
from lsst.daf.butler import Butler
from lsst.meas.tno import SCHEMAS, ImageSequences, MaskBit, validate_table
from lsst.meas.tno._columns import make_table
from lsst.meas.tno.candidates import Candidates, Tracks, merge_candidates, unique_candidates
from lsst.meas.tno.geometry import apply_affine, inverse_gnomonic, north_up_affine
from lsst.meas.tno.injection import shift_psf
from lsst.meas.tno.nn.calibration import CalibrationError, RateError, fit_calibration
from lsst.meas.tno.nn.classifier import Classifier, classifier_to_table
from lsst.meas.tno.photometry import ab_mag_to_njy
from lsst.meas.tno.tasks import InjectTnosConfig, InjectTnosTask
from lsst.meas.tno.tasks.find_candidates import (
    FindCandidatesConfig,
    FindCandidatesConnections,
    FindCandidatesTask,
)
from lsst.meas.tno.warping import warp_sequences
from lsst.pex.config import FieldValidationError
from lsst.pipe.base import InMemoryDatasetHandle, NoWorkFound
from lsst.pipe.base.testUtils import assertValidOutput, lintConnections, makeQuantum, runTestQuantum

DATA_ID = {"skymap": "map", "tract": 1, "patch": 0}
PIXEL_SCALE = 0.2


def make_task(suffix: str = "", **fields: Any) -> FindCandidatesTask:
    config = FindCandidatesConfig()
    config.connections.suffix = suffix
    config.device = "cpu"
    config.update(**fields)
    config.validate()
    return FindCandidatesTask(config=config)


def as_handle(sequences: ImageSequences) -> InMemoryDatasetHandle:
    return InMemoryDatasetHandle(sequences.to_table(), storageClass="ArrowAstropy", **DATA_ID)


def make_scores(sequences: ImageSequences, logit: Any) -> Table:
    columns = SCHEMAS["tno_scores"]
    logit = np.broadcast_to(np.asarray(logit, dtype=np.float32), len(sequences))
    values = {"logit": logit, "score": expit(logit)}
    return make_table((c, values.get(c.name, getattr(sequences, c.name, None))) for c in columns)


def add_source(
    sequences: ImageSequences, rows: Any, east: float, north: float, rate: tuple[float, float], flux: float
) -> None:
    """Add a source at an offset from `CENTRE` at the mean time, arcsec, that
    moves at rates in arcsec/hour, to all windows in which it is seen.
    """
    for row in rows:
        hours = (sequences.mjd[row] - sequences.mean_mjd[row]) * 24
        cos_dec = np.cos(np.radians(CENTRE[1]))
        xi = east + rate[0] * hours - (sequences.ra[row] - CENTRE[0]) * cos_dec * 3600
        eta = north + rate[1] * hours - (sequences.dec[row] - CENTRE[1]) * 3600
        middle = (sequences.width - 1) / 2
        x, y = middle - xi / PIXEL_SCALE, middle + eta / PIXEL_SCALE
        profile = shift_psf(sequences.psf[row], x, y, sequences.height, sequences.width)
        sequences.image[row] += (flux * profile).astype(np.float32)


def move_windows(sequences: ImageSequences, east: np.ndarray) -> None:
    """Move windows to the east of `CENTRE`, arcsec."""
    sequences.ra[:] = CENTRE[0] + np.asarray(east) / 3600 / np.cos(np.radians(CENTRE[1]))
    sequences.centre_ra[:] = sequences.ra[:, np.newaxis]


def calibrated(n_clean: int = 1000) -> Classifier:
    classifier = untrained_classifier()
    logits = np.concatenate([np.linspace(-5, 1, n_clean), np.linspace(0, 5, 200)])
    calibration = fit_calibration(logits, np.arange(n_clean + 200) >= n_clean)
    classifier.description["calibration"] = calibration.to_json()
    return classifier


def test_connections() -> None:
    lintConnections(FindCandidatesConnections)
    assert FindCandidatesTask._DefaultName == "findCandidates"
    assert not hasattr(FindCandidatesConnections(config=make_task().config), "classifier")
    config = make_task(threshold_mode="per_sequence", threshold=0.01).config
    assert hasattr(FindCandidatesConnections(config=config), "classifier")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"threshold_mode": "per_sequence"}, "threshold=0.0"),
        ({"threshold_mode": "per_sequence", "threshold": 1.0}, "threshold=1.0"),
        ({"threshold_mode": "per_square_degree", "threshold": -1.0}, "threshold=-1.0"),
        ({"colours": {"r": 0.0}}, "colours"),
        ({"merge_sigma": -1.0}, "merge_sigma"),
    ],
)
def test_impossible_configurations(fields: dict, message: str) -> None:
    with pytest.raises(FieldValidationError, match=message):
        make_task(**fields)


@pytest.mark.parametrize("suffix", ["", "_injected"])
@pytest.mark.parametrize("mode", ["logit", "per_sequence"])
def test_quantum(tmp_path: Path, suffix: str, mode: str) -> None:
    sequences = white_sequences(np.random.default_rng(1), 5, n_times=8, size=9)
    sequences.tract[:] = 1
    add_source(sequences, [3], 0.1, -0.2, (2.0, 1.0), 3000.0)
    task = make_task(suffix, threshold_mode=mode, threshold=0.01)
    connections = FindCandidatesConnections(config=task.config)
    Butler.makeRepo(tmp_path)
    with Butler.from_config(tmp_path, run="run") as butler:
        for dimension, value in DATA_ID.items():
            butler_tests.addDataIdValue(butler, dimension, value)
        for name in (*connections.inputs, *connections.outputs):
            connection = getattr(connections, name)
            butler_tests.addDatasetType(
                butler, connection.name, set(connection.dimensions), connection.storageClass
            )
        butler.put(sequences.to_table(), f"tno_sequences{suffix}", DATA_ID)
        scores = make_scores(sequences, [-3, -2, -1, 4, -np.inf])
        butler.put(scores, f"tno_scores{suffix}", DATA_ID)
        ids = {"sequences": DATA_ID, "scores": DATA_ID, "candidates": DATA_ID}
        if mode != "logit":
            butler.put(classifier_to_table(calibrated()), "tno_classifier")
            ids["classifier"] = {}
        runTestQuantum(task, butler, makeQuantum(task, butler, DATA_ID, ids), mockRun=False)
        candidates = butler.get(f"tno_candidates{suffix}", DATA_ID)
    validate_table(candidates, SCHEMAS[f"tno_candidates{suffix}"])
    assert candidates["sequence_id"].tolist() == [3]
    assert candidates["rate_ra_cosdec"][0] == pytest.approx(2.0, abs=0.5)
    assert candidates["position_angle"][0] == pytest.approx(63.0, abs=15)
    assert candidates["n_images"][0] == 8
    assert candidates["mag"][0] == pytest.approx(31.4 - 2.5 * np.log10(3000), abs=0.1)


def test_no_candidates_are_a_table_without_rows() -> None:
    sequences = white_sequences(np.random.default_rng(2), 3, n_times=5, size=9)
    task = make_task(threshold=1.0)
    result = task.run(make_scores(sequences, 0.9), as_handle(sequences))
    assertValidOutput(task, result)
    assert len(result.candidates) == 0
    validate_table(result.candidates, SCHEMAS["tno_candidates"])
    assert task.metadata["n_candidates"] == 0


def test_no_sequences() -> None:
    sequences = white_sequences(np.random.default_rng(2), 1, n_times=5, size=9)
    with pytest.raises(NoWorkFound, match="no scores"):
        make_task().run(make_scores(sequences, 0.0)[:0], as_handle(sequences[:0]))


def test_sequences_of_other_scores_are_refused() -> None:
    sequences = white_sequences(np.random.default_rng(2), 3, n_times=5, size=9)
    with pytest.raises(ValueError, match="Score these sequences again"):
        make_task().run(make_scores(sequences, 1.0), as_handle(sequences[:2]))


def test_masked_and_not_measurable() -> None:
    sequences = white_sequences(np.random.default_rng(3), 4, n_times=5, size=9)
    sequences.mask[0], sequences.image[0], sequences.variance[0] = MaskBit.NO_DATA, np.nan, np.nan
    sequences.mask[1] = MaskBit.SATURATED
    sequences.mask[2, :, :, :4] = MaskBit.BAD
    task = make_task()
    # NaN is no logit, and minus infinity is that of what is masked.
    scores = make_scores(sequences, [-np.inf, 3.0, 1.0, np.nan])
    candidates = task.run(scores, as_handle(sequences)).candidates
    assert candidates["sequence_id"].tolist() == [2]
    assert task.metadata["n_not_measurable"] == 1
    assert np.all(np.isfinite(candidates["ra"]) & np.isfinite(candidates["snr"]))


@pytest.mark.parametrize("part_size", [1, 10**9])
def test_order_and_parts_of_the_inputs_do_not_matter(monkeypatch: pytest.MonkeyPatch, part_size: int) -> None:
    rng = np.random.default_rng(4)
    sequences = white_sequences(rng, 12, n_times=6, size=9)
    move_windows(sequences, 1.2 * np.arange(12))
    sequences.mjd[7] += 0.01
    add_source(sequences, range(12), 4.0, 0.1, (1.0, 0.0), 2000.0)
    logit = rng.normal(0.5, 1, 12)
    order, other = rng.permutation(12), rng.permutation(12)
    first = make_task().run(make_scores(sequences, logit), as_handle(sequences)).candidates
    monkeypatch.setattr("lsst.meas.tno._stored_tables.PART_SIZE", part_size)
    second = make_task().run(make_scores(sequences, logit)[order], as_handle(sequences[other])).candidates
    assert 0 < len(first) < np.sum(logit >= 0)
    for name in first.colnames:
        assert np.asarray(first[name]).tobytes() == np.asarray(second[name]).tobytes(), name


def test_thresholds_from_the_calibration(caplog: pytest.LogCaptureFixture) -> None:
    sequences = white_sequences(np.random.default_rng(5), 4, n_times=5, size=9)
    description = calibrated().description
    scores = make_scores(sequences, [0.5, 0.8, 1.0, 1.2])
    task = make_task(threshold_mode="per_sequence", threshold=0.05)
    task.run(scores, as_handle(sequences), description)
    # 5 % of what is uniform from -5 to 1 is above 0.7.
    assert task.metadata["threshold"] == pytest.approx(0.7, abs=0.02)
    # Windows of 9 x 9 pixels of 0.2 arcsec.
    per_degree = 3600**2 / 1.8**2
    task = make_task(threshold_mode="per_square_degree", threshold=0.05 * per_degree)
    task.run(scores, as_handle(sequences), description)
    assert task.metadata["threshold"] == pytest.approx(0.7, abs=0.02)
    with caplog.at_level(logging.WARNING):
        make_task(threshold_mode="per_sequence", threshold=1e-4).run(
            scores, as_handle(sequences), description
        )
    assert "extrapolated" in caplog.text
    with pytest.raises(RateError, match="at least 3.33e-05"):
        make_task(threshold_mode="per_sequence", threshold=3e-5).run(
            scores, as_handle(sequences), description
        )


def test_classifiers_without_calibration() -> None:
    sequences = white_sequences(np.random.default_rng(5), 1, n_times=5, size=9)
    task = make_task(threshold_mode="per_sequence", threshold=0.05)
    with pytest.raises(CalibrationError, match="threshold_mode='logit'"):
        task.run(make_scores(sequences, 1.0), as_handle(sequences), untrained_classifier().description)
    with pytest.raises(ValueError, match="needs the classifier"):
        task.run(make_scores(sequences, 1.0), as_handle(sequences))


def test_an_object_in_overlapping_windows_is_one_candidate() -> None:
    sequences = white_sequences(np.random.default_rng(6), 5, n_times=20)
    # Three windows of 3 arcsec that overlap, one at another time, one apart.
    move_windows(sequences, [0.0, 0.9, -0.8, 0.0, 6.0])
    sequences.mjd[3] += 1.0
    add_source(sequences, [0, 1, 2, 3], 0.1, 0.3, (1.5, -0.8), 800.0)
    add_source(sequences, [4], 6.0, 0.0, (1.5, -0.8), 800.0)
    task = make_task()
    candidates = task.run(make_scores(sequences, 3.0), as_handle(sequences)).candidates
    assert len(candidates) == 3
    assert candidates["sequence_id"][0] in (0, 1, 2)
    assert candidates["sequence_id"][1:].tolist() == [3, 4]
    assert task.metadata["n_merged"] == 2
    alone = make_task().run(make_scores(sequences, 3.0)[:3], as_handle(sequences)).candidates
    assert len(alone) == 1
    all_snr = [
        make_task().run(make_scores(sequences, 3.0)[i : i + 1], as_handle(sequences)).candidates["snr"][0]
        for i in range(3)
    ]
    assert alone["snr"][0] == pytest.approx(max(all_snr), rel=1e-6)


def test_two_objects_in_overlapping_windows_stay_two() -> None:
    sequences = white_sequences(np.random.default_rng(7), 2, n_times=20)
    move_windows(sequences, [0.0, 1.5])
    # Each is in one window only, but for its wings.
    add_source(sequences, [0, 1], -0.6, 0.5, (0.5, 0.5), 900.0)
    add_source(sequences, [0, 1], 2.1, -0.5, (0.5, 0.5), 900.0)
    assert len(make_task().run(make_scores(sequences, 3.0), as_handle(sequences)).candidates) == 2


def _pair(separation: float, rate: float, hours: float, sigma: float) -> int:
    """Return how many are left of two candidates with a separation and a
    difference in rate.
    """
    candidates = Candidates.full(2)
    candidates.mjd[:] = 60000.0
    candidates.sequence_id[:], candidates.snr[:] = [0, 1], [8.0, 9.0]
    candidates.ra[:], candidates.dec[:] = 10.0, [-30.0, -30.0 + separation / 3600]
    candidates.rate_dec[1] = rate
    candidates.covariance[:] = np.diag(np.full(4, sigma**2 / 2))
    begin, end = 60000.0 - hours / 48, 60000.0 + hours / 48
    same = np.ones(2)
    tracks = Tracks(10 * same, -30 * same, 4 * same, begin * same, end * same, 0.8 * same)
    kept = merge_candidates(candidates, tracks) == np.arange(2)
    assert kept[1]
    return int(kept.sum())


def test_positions_and_rates_must_agree() -> None:
    # Within half of the FWHM, whatever the errors are.
    assert _pair(0.39, 0.0, 1.0, 0.01) == 1
    assert _pair(0.41, 0.0, 1.0, 0.01) == 2
    # At both ends of the time: 0.79 arcsec/hour are 0.395 arcsec from the
    # middle to either.
    assert _pair(0.0, 0.79, 1.0, 0.001) == 1
    assert _pair(0.0, 0.81, 1.0, 0.001) == 2
    # Within 5 standard deviations, where that is more.
    assert _pair(0.9, 0.0, 0.0, 0.2) == 1
    assert _pair(1.1, 0.0, 0.0, 0.2) == 2


def test_merging_does_not_chain() -> None:
    # Of three in a row, the outer two are not the same.
    candidates = Candidates.full(3)
    candidates.sequence_id[:], candidates.snr[:] = [0, 1, 2], [9.0, 8.0, 7.0]
    candidates.dec[:] = np.array([0.0, 0.3, 0.6]) / 3600
    candidates.covariance[:] = np.nan
    same = np.ones(3)
    tracks = Tracks(0 * same, 0 * same, 4 * same, 0 * same, 0.1 * same, 0.8 * same)
    assert merge_candidates(candidates, tracks).tolist() == [0, 0, 2]
    candidates.snr[1] = 10.0
    assert merge_candidates(candidates, tracks).tolist() == [1, 1, 1]
    assert merge_candidates(candidates.select(slice(0, 0)), tracks).shape == (0,)


def _crop(large: ImageSequences, x0: int, y0: int, size: int = 15) -> ImageSequences:
    """Cut windows out of large ones."""
    pixels = (slice(None), slice(None), slice(y0, y0 + size), slice(x0, x0 + size))
    window = dataclasses.replace(
        large,
        **{name: np.copy(getattr(large, name)[pixels]) for name in ("image", "variance", "mask")},
        pixel_to_sky=np.broadcast_to(north_up_affine(size, PIXEL_SCALE), large.pixel_to_sky.shape),
    )
    middle = (large.width - size) / 2
    window.ra, window.dec = inverse_gnomonic(
        PIXEL_SCALE * (middle - x0), PIXEL_SCALE * (y0 - middle), large.ra, large.dec
    )
    shape = (1, large.n_times)
    window.centre_ra, window.centre_dec = (
        np.tile(window.ra[:, None], shape),
        np.tile(window.dec[:, None], shape),
    )
    return window


@pytest.mark.parametrize(("dx", "dy"), [(5, 0), (8, 4)])
def test_windows_of_the_same_pixels_find_the_same_object(dx: int, dy: int) -> None:
    n, snr = 40, 7.0
    rng = np.random.default_rng(9)
    large = white_sequences(rng, n, n_times=20, size=25)
    phase = np.linspace(-1, 1, 20)
    for row in range(n):
        # In both windows all of the time.
        (x, y), (step_x, step_y) = rng.uniform((dx + 3, dy + 3), (13, 13)), rng.uniform(-2, 2, 2)
        profile = shift_psf(large.psf[row], x + step_x * phase, y + step_y * phase, 25, 25)
        large.image[row] += (snr * 20 / np.sqrt(np.sum(profile**2)) * profile).astype(np.float32)
    both = ImageSequences.concatenate([_crop(large, 1, 1), _crop(large, 1 + dx, 1 + dy)])
    # Rows are of one sky each, far from that of the others.
    both.dec += np.tile(np.arange(n), 2) / 60
    both.centre_dec[:] = both.dec[:, np.newaxis]
    both.sequence_id[:] = np.arange(2 * n)
    candidates = make_task(rate_max=3.0).run(make_scores(both, 1.0), as_handle(both)).candidates
    assert sorted(candidates["sequence_id"] % n) == list(range(n))


def test_candidates_of_overlapping_patches_are_listed_once() -> None:
    def patch(number: int, offsets: list[float], snr: float) -> Candidates:
        candidates = Candidates.full(len(offsets))
        candidates.patch[:], candidates.sequence_id[:] = number, np.arange(len(offsets))
        candidates.mjd[:], candidates.dec[:] = 60000.0, np.array(offsets) / 3600
        candidates.snr[:], candidates.covariance[:] = snr, 1e-4 * np.eye(4)
        return candidates

    first, second = patch(0, [0.0, 30.0, 60.0], 8.0), patch(1, [0.1, 30.7, 60.0], 9.0)
    second.mjd[2] += 1.0
    tables = [make_table(part.items()) for part in (second, first)]
    unique = unique_candidates(tables)
    validate_table(unique, SCHEMAS["tno_candidates"])
    assert list(zip(unique["patch"], unique["sequence_id"], strict=True)) == [
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 2),
    ]
    assert len(unique_candidates([tables[0][:0]])) == 0


@pytest.mark.slow
def test_pulls_of_candidates() -> None:
    config = InjectTnosConfig()
    config.fraction = 1.0
    config.population.name = "linear"
    population = config.population["linear"]
    population.min_times_inside, population.edge_margin = 16, 0.6
    population.snr_min, population.snr_max = 7.0, 15.0
    native = make_sequences(1500, np.random.default_rng(8), n_times=16, size=28, psf_size=25)
    sequences = warp_sequences(InjectTnosTask(config=config).run(native).injected, kernel="lanczos3")
    truth = sequences.injection
    assert truth is not None
    task = make_task("_injected", rate_max=2.5)
    candidates = task.run(make_scores(sequences, 5.0), as_handle(sequences)).candidates
    validate_table(candidates, SCHEMAS["tno_candidates_injected"])
    assert len(candidates) == 1500
    xi, eta = apply_affine(sequences.pixel_to_sky, truth.inj_x, truth.inj_y)
    hours = (sequences.mjd - sequences.mean_mjd[:, np.newaxis]) * 24
    slope = np.sum(hours * [xi, eta], axis=2) / np.sum(hours**2, axis=1)
    ra, dec = inverse_gnomonic(xi.mean(axis=1), eta.mean(axis=1), sequences.ra, sequences.dec)
    error = [
        (np.mod(candidates["ra"] - ra + 180, 360) - 180) * np.cos(np.radians(dec)) * 3600,
        (candidates["dec"] - dec) * 3600,
        candidates["rate_ra_cosdec"] - slope[0],
        candidates["rate_dec"] - slope[1],
        candidates["flux"] - ab_mag_to_njy(truth.mag),
    ]
    deviation = np.sqrt(np.einsum("nii->in", candidates["covariance"]))
    pulls = np.array(error) / [*deviation, candidates["flux_err"]]
    known = np.isfinite(pulls).all(axis=0)
    print("known", known.mean(), "mean", pulls[:, known].mean(axis=1), "width", pulls[:, known].std(axis=1))
    assert known.mean() > 0.99
    # The mean of 1500 scatters by 0.026, the width by 0.018.
    assert np.all(np.abs(pulls[:, known].mean(axis=1)) < 0.1)
    assert np.all((pulls[:, known].std(axis=1) > 0.9) & (pulls[:, known].std(axis=1) < 1.2))
