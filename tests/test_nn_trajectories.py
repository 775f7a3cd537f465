# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The architecture that judges trajectories: features and network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from builders import white_sequences
from nn_builders import moving_sequences
from scipy.special import logsumexp

from lsst.meas.tno import ImageSequences, MaskBit
from lsst.meas.tno.nn import TrajectoryConfig, architectures
from lsst.meas.tno.nn.classifier import (
    Classifier,
    classifier_from_table,
    classifier_to_table,
    describe_classifier,
)
from lsst.meas.tno.nn.metrics import roc_area
from lsst.meas.tno.nn.static_sky import static_sky
from lsst.meas.tno.nn.trajectory_features import (
    FEATURE_COLUMNS,
    FEATURES,
    displacements,
    trajectory_features,
)
from lsst.meas.tno.nn.trajectory_network import NOTHING
from lsst.pex.config import FieldValidationError

SIGMA, NOISE = 1.8, 20.0
GREY = dict.fromkeys("ugrizy", 1.0)
MOTIONS = displacements(7.5, 2.5)


def _columns(sequences: ImageSequences) -> dict[str, np.ndarray]:
    return {name: getattr(sequences, name) for name in FEATURE_COLUMNS}


def _features(sequences: ImageSequences) -> dict[str, np.ndarray]:
    features = trajectory_features(_columns(sequences), MOTIONS, GREY)
    assert np.all(np.isfinite(features))
    return dict(zip(FEATURES, np.moveaxis(features, 1, 0), strict=True))


def _source(x: np.ndarray, y: np.ndarray, snr: float) -> np.ndarray:
    """Return images of a source of constant flux whose S/N in all of them
    together is given, in noise of `NOISE`.
    """
    pixels = np.arange(15)
    along_x, along_y = (np.exp(-0.5 * ((pixels - axis[:, None]) / SIGMA) ** 2) for axis in (x, y))
    profile = along_y[:, :, None] * along_x[:, None, :]
    return snr * NOISE * profile / np.sqrt(np.sum(profile**2))


def _gaussians(size: int, width_x: np.ndarray, width_y: np.ndarray, x: float, y: float) -> np.ndarray:
    """Return images of Gaussians at a distance from the middle."""
    pixels = np.arange(size) - size // 2
    along_x, along_y = (
        np.exp(-0.5 * ((pixels - offset) / width[..., np.newaxis]) ** 2) / width[..., np.newaxis]
        for offset, width in ((x, width_x), (y, width_y))
    )
    return along_y[..., :, np.newaxis] * along_x[..., np.newaxis, :] / (2 * np.pi)


def _blank(n: int = 1) -> ImageSequences:
    sequences = white_sequences(np.random.default_rng(0), n)
    sequences.image[:] = 0.0
    return sequences


def _moving(sequences: ImageSequences, dx: float, dy: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a track through the middle with a motion over the whole time."""
    mjd = sequences.mjd[0]
    fraction = (mjd - (mjd[0] + mjd[-1]) / 2) / (mjd[-1] - mjd[0])
    return 7.0 + dx * fraction, 7.0 + dy * fraction


def test_lattice_of_motions() -> None:
    lengths = np.hypot(*MOTIONS.T)
    np.testing.assert_array_equal(MOTIONS[0], 0.0)
    assert len(MOTIONS) == 37
    # No motion is farther than step / sqrt(3) from a point of the lattice.
    angle = np.linspace(0, 2 * np.pi, 100)
    for radius in np.linspace(0, 7.0, 8):
        points = radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        nearest = np.linalg.norm(points[:, None] - MOTIONS, axis=2).min(axis=1)
        assert nearest.max() < 2.5 / np.sqrt(3) + 1e-9
    assert lengths.max() < 8.2


@pytest.mark.parametrize("irregular", [False, True])
@pytest.mark.parametrize("motion", [(0.0, 0.0), (4.3, -2.2), (-6.5, 1.0), (0.7, 0.9)])
def test_snr_of_a_source_is_found(motion: tuple[float, float], irregular: bool) -> None:
    sequences = _blank()
    if irregular:
        rng = np.random.default_rng(1)
        sequences.mjd[0] = 60980 + np.sort(np.append(rng.uniform(0.0, 0.02, 30), rng.uniform(0.2, 0.21, 20)))
    sequences.image[0] = _source(*_moving(sequences, *motion), snr=8.0)
    found = _features(sequences)
    # The nearest motion and start lose up to (2.5 / sqrt(3) / 1.8)^2 / 48 and
    # (0.25 * sqrt(2) / 1.8)^2 / 4, rounding to half pixels a little more. Two
    # bunches of times weigh the ends of the motion more: 3 times the loss.
    loss = 0.09 if irregular else 0.04
    assert 8.0 * (1 - loss) < found["snr"].max() < 8.05
    at = np.unravel_index(found["snr"].argmax(), found["snr"].shape)
    assert found["coverage"][at] > 0.95
    assert found["largest"][at] < 2.0


def test_white_noise_has_unit_scatter() -> None:
    sequences = white_sequences(np.random.default_rng(2), 60)
    found = _features(sequences)
    middle = (slice(None), slice(None), slice(5, 10), slice(5, 10))
    # The best of four start positions half a pixel apart is above 0.
    assert 0.2 < found["snr"][middle].mean() < 0.5
    for name in ("snr", "static_snr"):
        assert found[name][middle].std() == pytest.approx(1.0, abs=0.1), name
    # A part of it vanishes with the static sky.
    assert 0.7 < np.sqrt(np.mean(found["drift"][middle] ** 2)) < 1.0
    far = found["displacement"][0, :, 0, 0] > 4.0
    assert found["moving_snr"][:, far][middle].std() == pytest.approx(1.0, abs=0.15)
    # So it does where the window shows a part of the trajectory.
    part = (found["coverage"] > 0.3) & (found["coverage"] < 0.7) & (found["displacement"] > 2.0)
    assert np.std(found["moving_snr"][part]) == pytest.approx(1.0, abs=0.1)
    assert found["moving_snr"].max() < 6.0
    assert np.abs(found["excess"][middle].mean()) < 0.3
    assert np.all(found["largest"] < 6.0)


def test_features_tell_stars_and_flashes_from_what_moves() -> None:
    sequences = _blank(3)
    star = _source(*_moving(sequences, 0.0, 0.0), snr=100.0)
    mover = _source(*_moving(sequences, 6.0, 0.0), snr=15.0)
    flash = np.zeros_like(star)
    flash[20] = _source(np.array([7.0]), np.array([7.0]), snr=40.0)[0]
    sequences.image[:] = np.stack([star, mover, flash])
    found = _features(sequences)
    assert np.all(found["static_snr"].max(axis=(1, 2, 3))[:2] > [95.0, 5.0])
    # A star vanishes with the static sky; what moves that far does not.
    assert np.abs(found["moving_snr"][0]).max() < 0.01
    # Of its S/N is left what does not overlap with its own mean: the root of
    # 1 less the mean of exp(-(6 d / 3.6)^2) over pairs of times d apart, 0.55.
    assert found["moving_snr"][1].max() == pytest.approx(15.0 * 0.55, rel=0.05)
    moving = np.unravel_index(found["moving_snr"][1].argmax(), found["moving_snr"][1].shape)
    apart = np.subtract.outer(np.arange(50), np.arange(50)) / 49 * found["displacement"][1][moving]
    assert found["left"][1][moving] == pytest.approx(1 - np.mean(np.exp(-((apart / 3.6) ** 2))), rel=0.03)
    assert found["largest"][2].max() == pytest.approx(40.0, rel=0.05)
    assert found["largest"][1].max() < 4.0
    best = np.unravel_index(found["snr"][1].argmax(), found["snr"][1].shape)
    assert found["excess"][2].max() > 50.0 > 5.0 > abs(found["excess"][1][best])
    assert found["clipped_snr"][2].max() < 1.0
    assert found["snr"][1].max() == pytest.approx(15.0, rel=0.05)


@pytest.mark.parametrize("snr", [40.0, 150.0, 400.0, 1000.0, 5000.0])
def test_flash_counts_no_more_than_an_object(snr: float) -> None:
    sequences = _blank()
    sequences.image[0, 20] = _source(np.array([7.0]), np.array([7.0]), snr=snr)[0]
    found = _features(sequences)
    # Not snr / sqrt(50), but what an object of S/N 12 has in one image, and 3.
    limit = (3.0 + 12.0 / np.sqrt(50)) / np.sqrt(50)
    assert found["snr"].max() < 2.0 * limit
    assert np.abs(found["moving_snr"]).max() < 4.0


def test_flash_does_not_tell_what_the_seeing_does() -> None:
    sequences = _blank()
    # Two nights; the flash is in the better one.
    width = np.repeat([1.5, 2.3], 25)
    sequences.psf[0] = _gaussians(25, width, width, 0.0, 0.0)
    sequences.image[0, 20] = _source(np.array([7.0]), np.array([7.0]), snr=5000.0)[0]
    assert np.abs(_features(sequences)["moving_snr"]).max() < 4.0


def test_order_of_the_motions_does_not_matter() -> None:
    columns = _columns(white_sequences(np.random.default_rng(13), 3))
    order = np.append(0, 1 + np.random.default_rng(14).permutation(len(MOTIONS) - 1))
    expected = trajectory_features(columns, MOTIONS, GREY)[:, :, order]
    np.testing.assert_allclose(trajectory_features(columns, MOTIONS[order], GREY), expected, atol=1e-5)


def test_scatter_is_that_of_a_psf_with_wings() -> None:
    sequences = white_sequences(np.random.default_rng(15), 60)
    y, x = np.indices((25, 25)) - 12
    moffat = (1 + (x**2 + y**2) / 2.2**2) ** -2.5
    sequences.psf[:] = moffat / moffat.sum()
    sequences.band[:, 25:] = 3
    found = _features(sequences)
    whole = (found["coverage"] > 0.9) & (found["displacement"] > 4.0)
    assert np.std(found["moving_snr"][whole]) == pytest.approx(1.0, abs=0.07)


def test_order_of_the_images_does_not_matter() -> None:
    sequences = white_sequences(np.random.default_rng(10), 3)
    order = np.random.default_rng(11).permutation(50)
    columns = _columns(sequences)
    expected = trajectory_features(columns, MOTIONS, GREY)
    shuffled = trajectory_features({name: a[:, order] for name, a in columns.items()}, MOTIONS, GREY)
    np.testing.assert_array_equal(shuffled, expected)


@pytest.mark.parametrize(("size", "largest"), [(3, 7.5), (5, 7.5), (15, 40.0)])
def test_trajectories_that_leave_the_window(size: int, largest: float) -> None:
    sequences = white_sequences(np.random.default_rng(12), 5, size=size)
    features = trajectory_features(_columns(sequences), displacements(largest, 2.5), GREY)
    found = dict(zip(FEATURES, np.moveaxis(features, 1, 0), strict=True))
    assert found["coverage"].max() < 1.01
    assert np.abs(found["snr"]).max() < 7.0


def test_moves_in_two_bands_with_their_colours() -> None:
    sequences = _blank()
    sequences.band[0, :25] = 1
    ratio = {**GREY, "g": 0.5}
    flux = np.where(sequences.band[0] == 1, 0.5, 1.0)[:, None, None]
    sequences.image[0] = flux * _source(*_moving(sequences, 5.0, 0.0), snr=10.0)
    snr = 10.0 * np.sqrt(np.mean(flux**2))
    found = trajectory_features(_columns(sequences), MOTIONS, ratio)[:, 0].max()
    assert found == pytest.approx(snr, rel=0.04)
    assert found > trajectory_features(_columns(sequences), MOTIONS, GREY)[:, 0].max()


def test_broken_pixels_and_times_do_not_count() -> None:
    sequences = white_sequences(np.random.default_rng(7), 2)
    sequences.mask[:, 3, 4, 5] = MaskBit.BAD
    sequences.valid[:, 8] = False
    reference = _features(sequences)
    sequences.mask[:, 3, 4, 5] = 0
    sequences.image[0, 3, 4, 5], sequences.variance[1, 3, 4, 5] = 1e25, 1e-30
    sequences.valid[:, 8], sequences.mjd[:, 8] = True, [np.nan, np.inf]
    found = _features(sequences)
    for name in FEATURES:
        np.testing.assert_array_equal(found[name], reference[name])


@pytest.mark.parametrize("uneven", [False, True])
def test_static_sky_follows_the_seeing(uneven: bool) -> None:
    rng = np.random.default_rng(8)
    sequences = _blank()
    width = rng.normal(1.8, 0.2, 50)
    stretch = 1 + rng.normal(0.0, 0.02, 50)
    sequences.psf[0] = _gaussians(25, width * stretch, width / stretch, 0.0, 0.0)
    star = _gaussians(15, width * stretch, width / stretch, 1.3, -2.6)
    # A star of S/N 1000 in the sum of all images; its mean is wrong by 10 %.
    sequences.image[0] = star * 1000 * NOISE / np.sqrt(np.sum(star**2))
    weight = np.full_like(sequences.image, NOISE**-2)
    if uneven:
        # Images of bad seeing are noisier.
        weight /= np.where(width > 1.8, 4.0, 1.0)[:, None, None]
    sky = static_sky(sequences.image, weight, sequences.band, sequences.psf)
    wrong = np.sqrt(np.sum((sequences.image - sequences.image.mean(axis=1, keepdims=True)) ** 2)) / NOISE
    left = np.sqrt(np.sum((sequences.image - sky) ** 2)) / NOISE
    assert wrong > 80.0
    assert left < 0.02 * wrong


@pytest.mark.parametrize("dead_pixel", [False, True])
def test_what_moves_stays_while_the_seeing_changes(dead_pixel: bool) -> None:
    sequences = _blank()
    width = np.linspace(1.6, 2.0, 50)
    x, y = _moving(sequences, 6.0, 0.0)
    pixels = np.arange(15)
    along = [np.exp(-0.5 * ((pixels - at[:, None]) / width[:, None]) ** 2) / width[:, None] for at in (x, y)]
    mover = along[1][:, :, None] * along[0][:, None, :] / (2 * np.pi)
    sequences.psf[0] = _gaussians(25, width, width, 0.0, 0.0)
    sequences.image[0] = mover * 50 * NOISE / np.sqrt(np.sum(mover**2))
    weight = np.full_like(sequences.image, NOISE**-2)
    if dead_pixel:
        sequences.image[0, :, 8, 7], mover[:, 8, 7], weight[0, :, 8, 7] = 0.0, 0.0, 0.0
    sky = static_sky(sequences.image, weight, sequences.band, sequences.psf)
    constant = static_sky(
        sequences.image,
        weight,
        sequences.band,
        np.broadcast_to(sequences.psf[:, 25:26], sequences.psf.shape).copy(),
    )
    left, most = (np.sum(mover * (sequences.image[0] - value[0])) for value in (sky, constant))
    # A trend of the seeing is no motion, though both are trends.
    assert 0.8 * most < left < most


def test_pixels_that_a_night_lacks_do_not_tell_the_seeing() -> None:
    sequences = _blank()
    width = np.repeat([1.5, 2.3], 25)
    sequences.psf[0] = _gaussians(25, width, width, 0.0, 0.0)
    star = _gaussians(15, width, width, 0.0, 0.0)
    sequences.image[0] = star * 300 * NOISE / np.sqrt(np.sum(star**2))
    weight = np.full_like(sequences.image, NOISE**-2)
    sequences.image[0, :25, :, 7], weight[0, :25, :, 7] = 0.0, 0.0
    left = sequences.image - static_sky(sequences.image, weight, sequences.band, sequences.psf)
    # In sigma of the sum of all pixels, of a star of S/N 300.
    assert np.sqrt(np.sum(weight * left**2)) < 3.0


def test_image_without_a_psf_has_no_part_in_the_sky() -> None:
    sequences = white_sequences(np.random.default_rng(16), 2)
    sequences.psf[:, ::2] = 0.0
    expected = _features(sequences)
    sequences.image[:, ::2] += 1000.0
    found = _features(sequences)
    for name in FEATURES:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_empty_sky_costs_its_mean_only() -> None:
    rng = np.random.default_rng(9)
    sequences = white_sequences(rng, 20)
    width = rng.normal(1.8, 0.2, (20, 50))
    sequences.psf[:] = _gaussians(25, width, width, 0.0, 0.0)
    weight = np.full_like(sequences.image, NOISE**-2)
    sky = static_sky(sequences.image, weight, sequences.band, sequences.psf)
    left = np.mean((sequences.image - sky) ** 2) / NOISE**2
    # One of 50 degrees of freedom goes with the mean; four more would be 0.90.
    assert left == pytest.approx(0.98, abs=0.01)


def test_what_is_masked_or_padding_does_not_count() -> None:
    rng = np.random.default_rng(3)
    sequences = white_sequences(rng, 4)
    sequences.valid[:, 40:] = False
    for name in ("image", "variance", "noise_scale", "psf", "mjd"):
        getattr(sequences, name)[:, 40:] = np.nan
    sequences.band[:, 40:] = 255
    bad = rng.random(sequences.image.shape) < 0.05
    sequences.image[bad], sequences.variance[bad] = np.nan, np.nan
    sequences.mask[bad] = MaskBit.NO_DATA
    sequences.variance[0, 3, 4, 5] = 0.0
    sequences.mask[3] = MaskBit.SATURATED
    before = _features(sequences)
    sequences.mask[:3, :, 7, 7] |= np.uint8(MaskBit.BAD)
    reference = _features(sequences)
    sequences.image[:3, :, 7, 7] = 1e6
    found = _features(sequences)
    for name in FEATURES:
        np.testing.assert_array_equal(found[name][:3], reference[name][:3])
        assert np.all(found[name][3] == 0)
    assert np.any(before["snr"][:3] != reference["snr"][:3])


def _logits(sequences: ImageSequences, **config: Any) -> np.ndarray:
    architecture = architectures["trajectories"](TrajectoryConfig(**config))
    torch.manual_seed(1)
    network = architecture.build(sequences.image.shape[1:])
    inputs = {
        name: torch.from_numpy(array) for name, array in architecture.encode(_columns(sequences)).items()
    }
    with torch.no_grad():
        return network(inputs).numpy()


def test_new_network_is_the_mean_likelihood_ratio() -> None:
    sequences = white_sequences(np.random.default_rng(4), 3)
    found = _features(sequences)
    snr = found["snr"].reshape(3, -1, 1).astype(float)
    seen = found["coverage"].reshape(3, -1) > 0
    expected = np.linspace(4.0, 9.0, 16)
    ratio = logsumexp(expected * snr - expected**2 / 2, axis=2) - np.log(16)
    logit = logsumexp(np.where(seen, ratio, -np.inf), axis=1) - np.log(seen.sum(axis=1))
    config: dict[str, Any] = {"snr_min": 4.0, "snr_max": 9.0, "colours": dict.fromkeys("ugrizy", 0.0)}
    logits = _logits(sequences, n_trajectories=seen.shape[1] + 10, **config)
    np.testing.assert_allclose(logits, logit, rtol=1e-4, atol=1e-4)
    # The trajectories with a small S/N add little.
    fewer = _logits(sequences, **config)
    assert np.all((logits - 0.5 < fewer) & (fewer <= logits))


def test_nothing_to_see_is_no_nan() -> None:
    sequences = white_sequences(np.random.default_rng(5), 2)
    sequences.mask[1] = MaskBit.BAD
    logits = _logits(sequences)
    assert np.isfinite(logits[0])
    assert logits[1] == NOTHING


def test_new_network_finds_objects() -> None:
    sequences = moving_sequences(1, 60, snr=10.0, n_times=12, size=15)
    assert sequences.injection is not None
    assert roc_area(_logits(sequences), sequences.injection.injected) > 0.97


def test_table_keeps_the_classifier() -> None:
    sequences = white_sequences(np.random.default_rng(6), 3)
    architecture = architectures["trajectories"](TrajectoryConfig(hidden_units=[5]))
    network = architecture.build((50, 15, 15)).eval()
    torch.nn.init.normal_(network.correction.weight)
    description = describe_classifier(
        "trajectories", architecture, (50, 15, 15), 0.2, training={}, metrics={}
    )
    classifier = Classifier(architecture, network, description)
    columns: Mapping[str, np.ndarray] = _columns(sequences)
    read = classifier_from_table(classifier_to_table(classifier))
    np.testing.assert_array_equal(read.compute_logits(columns), classifier.compute_logits(columns))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_units": [4, 0]}, "hidden_units must be positive"),
        ({"snr_min": 5.0, "snr_max": 4.0}, "snr_min=5.0 is above"),
        ({"colours": {"r": 0.0}}, "no value for the bands"),
    ],
)
def test_configurations_that_are_impossible(fields: dict[str, Any], message: str) -> None:
    config = TrajectoryConfig()
    for name, value in fields.items():
        setattr(config, name, value)
    with pytest.raises(FieldValidationError, match=message):
        config.validate()
