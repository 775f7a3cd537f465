# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources of real Rubin alerts that are seen in one image only are no objects;
sources of the same S/N that move are.
"""

from __future__ import annotations

import numpy as np
import pytest
from alerts import Alert, alert_sequences, moving_sequences, quiet_logits, read_alerts
from builders import real_file
from detectors import Logits, untrained
from nn_builders import as_handle, scattered_sequences
from white_noise import inject_linear

from lsst.meas.tno import ImageSequences
from lsst.meas.tno.injection import shift_psf
from lsst.meas.tno.nn.calibration import fit_calibration
from lsst.meas.tno.nn.classifier import classifier_from_table
from lsst.meas.tno.tasks import TrainClassifierConfig, TrainClassifierTask

RATE = 1e-3
BRIGHT = 20.0
"""S/N in one image that gives S/N 3 on a trajectory through 50."""


@pytest.fixture(scope="module")
def alerts() -> list[Alert]:
    return read_alerts(real_file("rubin_alerts_2025_12.parquet"))


def _with_flashes(sequences: ImageSequences, rng: np.random.Generator) -> ImageSequences:
    """Return sequences in half of which one image has a source."""
    y, x = np.mgrid[: sequences.height, : sequences.width]
    for row in rng.permutation(len(sequences))[: len(sequences) // 2]:
        x0, y0 = rng.uniform(2, sequences.width - 3, 2)
        profile = np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / 1.8**2)
        flux = 20.0 * 10 ** rng.uniform(0.7, 2.5) / np.sqrt(np.sum(profile**2))
        sequences.image[row, rng.integers(sequences.n_times)] += flux * profile
    return sequences


@pytest.fixture(scope="module")
def trained() -> Logits:
    """Trained for a few seconds, on simulated flashes of Gaussian PSFs."""
    rng = np.random.default_rng(1)
    sequences = inject_linear(scattered_sequences(rng, 300, 0, 50, 15), 1, (4.0, 30.0), fraction=0.5)
    config = TrainClassifierConfig()
    config.architecture.name = "trajectories"
    training = config.training
    training.max_epochs, training.schedule, training.learning_rate = 8, "one_cycle", 1e-2
    training.batch_size, training.augmentation, training.device = 16, False, "cpu"
    task = TrainClassifierTask(config=config)
    result = task.run([as_handle(_with_flashes(sequences, rng))])
    return Logits(classifier_from_table(result.classifier))


def _threshold(detector: Logits, alerts: list[Alert], moving: np.ndarray) -> float:
    quiet = quiet_logits(detector, alerts, np.random.default_rng(2), 300)
    logits = np.concatenate([quiet, moving])
    return fit_calibration(logits, np.arange(len(logits)) >= len(quiet)).threshold_for_rate(RATE).logit


def _best_snr(alert: Alert) -> float:
    """Return the S/N of the best source near the middle, to 0.25 pixel."""
    x, y = (axis.ravel() for axis in np.meshgrid(*2 * [np.arange(5.0, 9.0, 0.25)]))
    profile = shift_psf(np.broadcast_to(alert.psf, (len(x), *alert.psf.shape)), x, y, *alert.image.shape)
    psi = np.sum(profile * alert.image / alert.variance, axis=(1, 2))
    snr = psi / np.sqrt(np.sum(profile**2 / alert.variance, axis=(1, 2)))
    return float(snr.max())


def test_reading(alerts: list[Alert]) -> None:
    assert len(alerts) > 20
    for alert in alerts:
        assert np.all(np.isfinite(alert.image))
        assert alert.image.shape == alert.variance.shape == (15, 15)
        assert alert.psf.sum() == pytest.approx(1.0, abs=1e-5)
        # The variance is one, and not its root: the noise of an image has it.
        assert 0.5 < np.std(alert.image) ** 2 / np.median(alert.variance) < 5.0 or alert.snr > BRIGHT
    bright = [alert for alert in alerts if alert.snr > BRIGHT]
    assert len(bright) >= 3
    for alert in bright:
        # The noise of the source itself makes the weights differ.
        assert _best_snr(alert) == pytest.approx(alert.snr, rel=0.1), alert.name


@pytest.mark.slow
def test_alerts_are_no_objects(alerts: list[Alert], trained: Logits) -> None:
    rng = np.random.default_rng(3)
    still, moving = trained(alert_sequences(alerts, rng)), trained(moving_sequences(alerts, rng))
    threshold = _threshold(trained, alerts, moving)
    assert np.sum(still > threshold) <= 1
    snr = np.abs([alert.snr for alert in alerts])
    assert np.all(moving[snr > 7.0] > threshold)
    assert np.mean(moving > threshold) > 0.6


@pytest.mark.slow
def test_faint_alerts_before_training(alerts: list[Alert]) -> None:
    rng, detector = np.random.default_rng(3), untrained()
    still, moving = detector(alert_sequences(alerts, rng)), detector(moving_sequences(alerts, rng))
    threshold = _threshold(detector, alerts, moving)
    snr = np.abs([alert.snr for alert in alerts])
    # The S/N on a trajectory adds up, whatever single images say.
    assert np.sum(still[snr < BRIGHT] > threshold) <= 1
    assert np.all(moving[snr > 7.0] > threshold)
    assert np.mean(moving > threshold) > 0.6
