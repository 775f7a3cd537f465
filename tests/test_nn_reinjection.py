# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from injection_builders import make_sequences
from nn_builders import injected_sequences

from lsst.meas.tno import ImageSequences, MaskBit
from lsst.meas.tno._moving_sources import MovingSources
from lsst.meas.tno.nn import ReinjectionConfig
from lsst.meas.tno.nn.array_store import ArrayStore
from lsst.meas.tno.nn.reinjection import REINJECTION_COLUMNS, Reinjector, _transfer
from lsst.meas.tno.nn.training_set import TrainingSetError
from lsst.meas.tno.tasks import InjectTnosConfig, InjectTnosTask
from lsst.meas.tno.warping import subtract_median, warp_sequences
from lsst.utils.logging import getLogger

LOG = getLogger("test")


def columns_of(sequences: ImageSequences) -> dict[str, np.ndarray]:
    truth = sequences.injection
    return {
        name: np.asarray(getattr(sequences if hasattr(sequences, name) else truth, name))
        for name in REINJECTION_COLUMNS
    }


def make_reinjector(directory: Path, *parts: ImageSequences, **fields: Any) -> Reinjector:
    config = ReinjectionConfig()
    config.update(**fields)
    config.validate()
    reinjector = Reinjector(ArrayStore(directory), (), config)
    for part in parts:
        reinjector.append(columns_of(part))
    return reinjector


def quiet_sequences(n: int = 60, **kwargs: Any) -> tuple[ImageSequences, ImageSequences]:
    """Return sequences in which the photons of objects have no noise, and the
    same without objects.
    """
    sequences = injected_sequences(1, n, **kwargs)
    sequences.exposure_time[:] = 1e15
    clean = dataclasses.replace(sequences, injection=None)
    for name in ("image", "variance", "mask"):
        setattr(clean, name, getattr(sequences, name).copy())
    rng = np.random.default_rng(5)
    clean.image[:], clean.variance[:], clean.mask[:] = rng.normal(0, 20.0, clean.image.shape), 400.0, 0
    config = InjectTnosConfig(seed=1)
    population = config.population["linear"]
    population.rate_max = 3 * 0.2 / (7 * 41.0 / 3600)
    population.window_size, population.edge_margin, population.min_times_inside = 1.8, 0.2, 8
    population.snr_min, population.snr_max = kwargs.get("snr", (10.0, 12.0))
    return InjectTnosTask(config=config).run(clean).injected, clean


def test_objects_are_gone(tmp_path: Path) -> None:
    injected, clean = quiet_sequences()
    reinjector = make_reinjector(tmp_path, injected[:20], injected[20:])
    assert np.all(reinjector.is_background)
    columns, labels = reinjector.load(np.arange(60), np.zeros(60, dtype=bool), np.random.default_rng(1))
    assert not np.any(labels)
    # Two roundings to float32 of pixels of about a hundred nJy.
    np.testing.assert_allclose(columns["image"], clean.image, rtol=0, atol=3e-5)
    np.testing.assert_allclose(columns["variance"], clean.variance, rtol=1e-6)
    assert not np.any(columns["mask"])


def test_new_objects_have_the_snr_that_was_drawn(tmp_path: Path) -> None:
    injected, clean = quiet_sequences(snr=(5.0, 10.0))
    reinjector = make_reinjector(tmp_path, injected)
    inject = np.arange(600) % 3 > 0
    columns, labels = reinjector.load(np.arange(600) % 60, inject, np.random.default_rng(1))
    np.testing.assert_array_equal(labels, inject)
    light = columns["image"] - clean.image[np.arange(600) % 60]
    # The S/N of a matched filter whose template is the light itself.
    snr = np.sqrt(np.sum(light**2 / 400.0, axis=(1, 2, 3)))
    assert np.all(snr[~inject] < 1e-4)
    found, truth = snr[inject], injected.injection.snr[injected.injection.injected]
    assert found.min() >= truth.min() - 1e-3
    assert found.max() <= truth.max() + 1e-3
    # Log-uniform: the logarithm's mean, of 400 draws, is known to 3 % of the
    # range at 2 sigma.
    position = np.log(found / truth.min()) / np.log(truth.max() / truth.min())
    assert position.mean() == pytest.approx(0.5, abs=0.04)
    marked = np.any(columns["mask"] & MaskBit.INJECTED, axis=(1, 2, 3))
    np.testing.assert_array_equal(marked, inject)


def test_catalog_keeps_the_distribution_of_the_snr(tmp_path: Path) -> None:
    injected, clean = quiet_sequences()
    faint = np.cumsum(injected.injection.injected) % 4 > 0
    injected.injection.snr[faint] = 3.0
    reinjector = make_reinjector(tmp_path, injected, snr_distribution="catalog")
    columns, _ = reinjector.load(np.arange(600) % 60, np.ones(600, dtype=bool), np.random.default_rng(1))
    light = columns["image"] - clean.image[np.arange(600) % 60]
    snr = np.sqrt(np.sum(light**2 / 400.0, axis=(1, 2, 3)))
    assert np.mean(snr < 3.01) == pytest.approx(0.75, abs=0.06)


def test_one_track_without_shift_gives_the_same_object(tmp_path: Path) -> None:
    injected, clean = quiet_sequences(20)
    donor = int(np.flatnonzero(injected.injection.injected)[0])
    keep = ~injected.injection.injected
    keep[donor] = True
    expected = (injected.image - clean.image)[donor]
    reinjector = make_reinjector(tmp_path, injected[keep], max_shift=0.0)
    n = int(keep.sum())
    columns, labels = reinjector.load(np.arange(n), np.ones(n, dtype=bool), np.random.default_rng(1))
    assert np.all(labels)
    # Tracks are kept as float32, to 1e-6 pixel.
    light = columns["image"] - clean.image[keep]
    np.testing.assert_allclose(light, np.broadcast_to(expected, light.shape), rtol=0, atol=1e-3)


def test_poisson_noise_is_in_image_and_variance(tmp_path: Path) -> None:
    sequences = injected_sequences(1, 40, snr=(200.0, 200.0))
    sequences.image[:] = np.where(sequences.injection.injected[:, None, None, None], sequences.image, 0.0)
    reinjector = make_reinjector(tmp_path, sequences, max_subtracted_snr=0.0, max_shift=0.0)
    rows = np.repeat(np.flatnonzero(reinjector.is_background)[:1], 400)
    # With one track, all have the same light but for the photons.
    reinjector._snr[np.flatnonzero(np.isfinite(reinjector._snr))[1:]] = np.nan
    columns, labels = reinjector.load(rows, np.ones(400, dtype=bool), np.random.default_rng(1))
    assert np.all(labels)
    expected = columns["variance"].mean(axis=0) - 400.0
    bright = expected > 0.2 * expected.max()
    ratio = columns["image"].var(axis=0)[bright] / expected[bright]
    # A variance of 400 values is known to 7 %, the mean of tens of them to 1.
    assert ratio.mean() == pytest.approx(1.0, abs=0.03)


def make_track(mjd: np.ndarray, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    valid = np.isfinite(mjd)
    return {"mjd": mjd[None], "valid": valid[None], "inj_x": x[None], "inj_y": y[None]}


def test_straight_track_at_other_times_is_the_same_line() -> None:
    rng = np.random.default_rng(1)
    old, new = np.sort(rng.uniform(60000, 60001, (2, 7)), axis=1)
    old[5:], new[6:] = np.nan, np.nan
    old_time, new_time = old - np.nanmean(old), new - np.nanmean(new)
    track = make_track(old, 3.0 + 2.0 * old_time, 4.0 - 1.0 * old_time)
    moved = _transfer(track, new[None], np.isfinite(new)[None])
    # Times are known to 1e-11 day.
    np.testing.assert_allclose(moved[0, 0], 3.0 + 2.0 * new_time, atol=1e-9)
    np.testing.assert_allclose(moved[1, 0], 4.0 - 1.0 * new_time, atol=1e-9)


def test_curved_track_at_equal_times_is_itself() -> None:
    rng = np.random.default_rng(1)
    old = np.sort(rng.uniform(60000, 60001, 7))
    x, y = rng.uniform(0, 9, (2, 7))
    moved = _transfer(make_track(old, x, y), old[None] + 30.0, np.ones((1, 7), dtype=bool))
    np.testing.assert_allclose(moved[:, 0], [x, y], atol=1e-9)


def test_tracks_that_leave_are_not_taken(tmp_path: Path) -> None:
    sequences, _ = quiet_sequences(40)
    truth = sequences.injection
    # One pixel at least in the donors' time is a hundred in the others'.
    slow = np.hypot(np.ptp(truth.inj_x, axis=1), np.ptp(truth.inj_y, axis=1)) < 1.0
    sequences = sequences[~slow]
    truth = sequences.injection
    sequences.mjd[~truth.injected] = 60980.0 + np.arange(8) * 100 * 41.0 / 86400
    reinjector = make_reinjector(tmp_path, sequences)
    n = len(sequences)
    columns, labels = reinjector.load(np.arange(n), np.ones(n, dtype=bool), np.random.default_rng(1))
    np.testing.assert_array_equal(labels, truth.injected)
    np.testing.assert_array_equal(columns["image"][~labels], sequences.image[~labels])


def test_masked_sequence_gets_no_object(tmp_path: Path) -> None:
    sequences, _ = quiet_sequences(20)
    row = int(np.flatnonzero(~sequences.injection.injected)[0])
    sequences.mask[row] |= np.uint8(MaskBit.BAD)
    reinjector = make_reinjector(tmp_path, sequences)
    _, labels = reinjector.load(np.arange(20), np.ones(20, dtype=bool), np.random.default_rng(1))
    assert np.flatnonzero(~labels).tolist() == [row]


def test_padding_gets_no_light(tmp_path: Path) -> None:
    sequences, _ = quiet_sequences(20)
    for name in ("image", "variance", "psf", "mjd", "exposure_time"):
        getattr(sequences, name)[:, 6:] = np.nan
    sequences.valid[:, 6:], sequences.mask[:, 6:], sequences.band[:, 6:] = False, 1, 255
    sequences.pixel_to_sky[:, 6:] = np.nan
    truth = sequences.injection
    truth.inj_x[:, 6:], truth.inj_y[:, 6:], truth.inj_flux[:, 6:] = np.nan, np.nan, 0.0
    reinjector = make_reinjector(tmp_path, sequences)
    columns, labels = reinjector.load(np.arange(20), np.ones(20, dtype=bool), np.random.default_rng(1))
    assert np.all(labels)
    assert np.all(np.isnan(columns["image"][:, 6:]))
    assert np.all(columns["mask"][:, 6:] == 1)


def test_bright_objects_stay(tmp_path: Path) -> None:
    injected, clean = quiet_sequences(40, snr=(5.0, 20.0))
    reinjector = make_reinjector(tmp_path, injected, max_subtracted_snr=12.0)
    bright = injected.injection.snr > 12.0
    assert 0 < bright.sum() < 20
    np.testing.assert_array_equal(reinjector.is_background, ~bright)
    columns, _ = reinjector.load(np.arange(40), np.zeros(40, dtype=bool), np.random.default_rng(1))
    np.testing.assert_array_equal(columns["image"][bright], injected.image[bright])


def test_equal_seeds_give_equal_objects(tmp_path: Path) -> None:
    reinjector = make_reinjector(tmp_path, injected_sequences(1, 20))

    def images(seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        return reinjector.load(np.arange(20), np.arange(20) % 2 > 0, rng)[0]["image"].tobytes()

    assert images(1) == images(1) != images(2)


def test_colours_are_those_of_the_objects(tmp_path: Path) -> None:
    sequences, clean = quiet_sequences(40)
    clean.band[:] = np.arange(8) % 2 + 1
    clean.exposure_time[:] = 1e15
    config = InjectTnosConfig(seed=1)
    population = config.population["linear"]
    population.rate_min, population.rate_max, population.colours["g"] = 0.0, 0.1, 1.5
    population.window_size, population.edge_margin, population.min_times_inside = 1.0, 0.2, 8
    injected = InjectTnosTask(config=config).run(clean).injected
    reinjector = make_reinjector(tmp_path, injected)
    columns, labels = reinjector.load(np.arange(40), np.ones(40, dtype=bool), np.random.default_rng(1))
    light = (columns["image"] - clean.image).sum(axis=(2, 3))
    np.testing.assert_allclose(light[:, 0] / light[:, 1], 10 ** (-0.4 * 1.5), rtol=0.05)
    assert np.all(labels)


def test_subtracted_warps_are_clean(tmp_path: Path) -> None:
    """What is left on its track of a noise-free object of S/N 12."""
    native = make_sequences(60, np.random.default_rng(1), n_times=16, size=28, psf_size=25)
    native.image[native.valid], native.exposure_time[:] = 0.0, 1e15
    config = InjectTnosConfig(fraction=1.0)
    population = config.population["linear"]
    population.rate_max, population.min_times_inside = 1.0, 16
    population.snr_min = population.snr_max = 12.0
    warped = warp_sequences(InjectTnosTask(config=config).run(native).injected, kernel="lanczos3")
    injected = np.flatnonzero(warped.injection.injected)
    assert len(injected) > 50
    reinjector = make_reinjector(tmp_path, warped[injected], max_subtracted_snr=12.1)
    columns, _ = reinjector.load(
        np.arange(len(injected)), np.zeros(len(injected), dtype=bool), np.random.default_rng(1)
    )
    truth = warped.injection.select(injected)
    sources = MovingSources(columns, np.arange(len(injected)), truth.inj_x, truth.inj_y)
    left = sources.measure(truth.inj_flux)
    # A tenth of a sigma would not be noticed.
    assert np.abs(left).max() < 0.1
    assert np.abs(left.mean()) < 0.03


def test_holes_are_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sequences = injected_sequences(1, 200)
    with caplog.at_level(logging.INFO):
        for name, part in (("plain", sequences), ("without sky", subtract_median(sequences))):
            (tmp_path / name).mkdir()
            make_reinjector(tmp_path / name, part).report(LOG)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "static sky" in warnings[0]


def test_sequences_without_objects(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sequences = injected_sequences(1, 20)
    clean = sequences[~sequences.injection.injected]
    reinjector = make_reinjector(tmp_path, clean)
    with caplog.at_level(logging.INFO):
        reinjector.report(LOG)
    assert "0 tracks, 10 sequences without an object, 0 of them" in caplog.text
    columns, labels = reinjector.load(np.arange(10), np.zeros(10, dtype=bool), np.random.default_rng(1))
    assert not np.any(labels)
    np.testing.assert_array_equal(columns["image"], clean.image)


@pytest.mark.parametrize("name", ["mag", "snr", "inj_x"])
def test_missing_truth(tmp_path: Path, name: str) -> None:
    sequences = injected_sequences(1, 20)
    getattr(sequences.injection, name)[:] = np.nan
    with pytest.raises(TrainingSetError, match="10 injected sequences lack"):
        make_reinjector(tmp_path, sequences)


def test_images_on_different_grids(tmp_path: Path) -> None:
    sequences = injected_sequences(1, 20)
    sequences.pixel_to_sky[3, 2, 0, 0] *= -1
    with pytest.raises(TrainingSetError, match="same grid"):
        make_reinjector(tmp_path, sequences)


def test_image_without_a_band(tmp_path: Path) -> None:
    sequences = injected_sequences(1, 20)
    sequences.band[3, 2] = 255
    with pytest.raises(TrainingSetError, match="no band"):
        make_reinjector(tmp_path, sequences)
