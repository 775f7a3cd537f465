# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
r"""What classifiers say of real alerts in one image of a sequence.

Each difference cutout of a file of Rubin alerts, with its variance and PSF,
takes the place of one image of a sequence that is quiet otherwise: white noise
of the same variance, with the same PSF. An asteroid, a variable star or a
flash is a source there that is seen once, and no object that moves slowly::

    python benchmarks/alerts.py ALERTS.parquet
    python benchmarks/alerts.py ALERTS.parquet --repo REPO \
        --classifier u/me/training --classifier u/me/other

The threshold is that for one false positive in a thousand sequences, of the
classifier's calibration or, where it has none, counted in quiet sequences. For
comparison there is a source that moves, at the same S/N.
"""

from __future__ import annotations

__all__ = ("Alert", "alert_sequences", "moving_sequences", "quiet_logits", "quiet_sequences", "read_alerts")

import argparse
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from astropy.io import fits
from detectors import SHAPE, Logits, read_classifier, threshold_at, untrained
from white_noise import PIXEL_SCALE, even_times, inject_linear

from lsst.meas.tno import ImageSequences, MaskBit
from lsst.meas.tno._sequences import BANDS
from lsst.meas.tno.geometry import north_up_affine
from lsst.meas.tno.nn.calibration import CalibrationError, calibration_from_description

RATE = 1e-3
"""Rate of false positives per sequence."""

PSF_SIZE = 25
"""Width and height that PSFs are cut to, pixels."""

BLOCK = 500
"""Sequences in memory at a time."""


@dataclasses.dataclass(frozen=True)
class Alert:
    """A difference cutout of an alert, as large as an image of a sequence."""

    name: str
    """Designation of the asteroid, or number of the source."""

    snr: float
    """S/N of the source that the alert states."""

    image: np.ndarray
    """Pixels, nJy."""

    variance: np.ndarray
    """Variance of the pixels, nJy^2."""

    psf: np.ndarray
    """PSF, sum 1, centred."""

    band: int
    """Index of the band in "ugrizy"."""


def read_alerts(path: Path) -> list[Alert]:
    """Read the difference cutouts of a file of alerts.

    Parameters
    ----------
    path
        Parquet file, one row an alert. A cutout is a FITS file with the image
        and the planes UNCERT, which holds the variance, and PSFIMAGE.
    """
    table = pq.read_table(path, columns=["cutoutDifference", "diaSource", "ssSource"])
    return [_read_alert(row) for row in table.to_pylist()]


def _read_alert(row: dict) -> Alert:
    source = row["diaSource"]
    with fits.open(io.BytesIO(row["cutoutDifference"])) as planes:
        image, variance, psf = (
            planes[index].data.astype(np.float32) for index in ("PRIMARY", "UNCERT", "PSFIMAGE")
        )
    psf = _middle(psf, PSF_SIZE)
    return Alert(
        name=(row["ssSource"] or {}).get("designation") or str(source["diaSourceId"]),
        # In the alerts the S/N has no sign.
        snr=float(np.copysign(source["snr"], source["psfFlux"])),
        image=_middle(image, SHAPE[1]),
        variance=_middle(variance, SHAPE[1]),
        psf=psf / psf.sum(),
        band=BANDS.index(source["band"]),
    )


def _middle(image: np.ndarray, size: int) -> np.ndarray:
    """Return the middle of an image; of an even one the pixel before it."""
    y, x = ((length - size) // 2 for length in image.shape)
    return image[y : y + size, x : x + size]


def quiet_sequences(alerts: Sequence[Alert], rng: np.random.Generator) -> ImageSequences:
    """Return sequences of white noise like that of alerts, one for each."""
    n_times, height, width = SHAPE
    sequences = ImageSequences.full(len(alerts), T=n_times, H=height, W=width, K=PSF_SIZE)
    sequences.sequence_id[:] = np.arange(len(alerts))
    sequences.ra[:], sequences.dec[:] = sequences.centre_ra[:], sequences.centre_dec[:] = 150.1, 2.2
    sequences.valid[:], sequences.visit[:], sequences.detector[:] = True, np.arange(n_times), 0
    sequences.mjd[:] = even_times(n_times)
    sequences.exposure_time[:], sequences.noise_scale[:], sequences.mask[:] = 30.0, 1.0, 0
    sequences.pixel_to_sky[:] = north_up_affine(width, PIXEL_SCALE)
    for row, alert in enumerate(alerts):
        variance = np.nanmedian(alert.variance)
        sequences.variance[row], sequences.psf[row], sequences.band[row] = variance, alert.psf, alert.band
        sequences.image[row] = np.sqrt(variance) * rng.standard_normal(SHAPE, dtype=np.float32)
    return sequences


def alert_sequences(alerts: Sequence[Alert], rng: np.random.Generator) -> ImageSequences:
    """Return quiet sequences with an alert each, in an image at random."""
    sequences = quiet_sequences(alerts, rng)
    for row, (alert, time) in enumerate(zip(alerts, rng.integers(SHAPE[0], size=len(alerts)), strict=True)):
        known = np.isfinite(alert.image) & np.isfinite(alert.variance)
        sequences.image[row, time] = np.where(known, alert.image, np.nan)
        sequences.variance[row, time] = np.where(known, alert.variance, np.nan)
        sequences.mask[row, time, ~known] = MaskBit.NO_DATA
    return sequences


def moving_sequences(alerts: Sequence[Alert], rng: np.random.Generator) -> ImageSequences:
    """Return quiet sequences with a source each that moves, and has in all
    images together the S/N that the alert's has in one.
    """
    parts = [
        inject_linear(quiet_sequences([alert], rng), seed, (abs(alert.snr), abs(alert.snr)))
        for seed, alert in enumerate(alerts)
    ]
    return ImageSequences.concatenate(parts)


def quiet_logits(detector: Logits, alerts: Sequence[Alert], rng: np.random.Generator, n: int) -> np.ndarray:
    """Return the logits of quiet sequences, each like a random alert's."""
    logits = []
    for first in range(0, n, BLOCK):
        chosen = rng.integers(len(alerts), size=min(BLOCK, n - first))
        logits.append(detector(quiet_sequences([alerts[index] for index in chosen], rng)))
    return np.concatenate(logits)


def find_threshold(
    detector: Logits, alerts: Sequence[Alert], rng: np.random.Generator, n_quiet: int
) -> tuple[float, str]:
    """Return the logit for `RATE` false positives, and where it is from."""
    try:
        threshold = calibration_from_description(detector.classifier.description).threshold_for_rate(RATE)
    except CalibrationError:
        return threshold_at(RATE, quiet_logits(detector, alerts, rng, n_quiet)), f"{n_quiet} quiet sequences"
    return threshold.logit, "extrapolated calibration" if threshold.extrapolated else "calibration"


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("alerts", type=Path, help="Parquet file of alerts.")
    parser.add_argument("--repo", help="Repository with classifiers.")
    parser.add_argument(
        "--classifier", action="append", default=[], help="Collection of a tno_classifier; may be repeated."
    )
    parser.add_argument("--quiet", type=int, default=10_000, help="Quiet sequences for the threshold.")
    parser.add_argument("--seed", type=int, default=1, help="Seed of the noise.")
    parser.add_argument("--threads", type=int, default=1, help="Threads.")
    args = parser.parse_args()
    if args.quiet * RATE < 10:
        parser.error(f"--quiet must be at least {10 / RATE:.0f}.")
    torch.set_num_threads(args.threads)
    alerts = read_alerts(args.alerts)
    detectors = {"trajectories, untrained": untrained()}
    if args.classifier:
        detectors = {name: read_classifier(args.repo, name) for name in args.classifier}
    for name, detector in detectors.items():
        print_scores(name, detector, alerts, args)


def print_scores(name: str, detector: Logits, alerts: Sequence[Alert], args: argparse.Namespace) -> None:
    """Print what a classifier says of alerts and of sources that move."""
    rng = np.random.default_rng(args.seed)
    threshold, origin = find_threshold(detector, alerts, rng, args.quiet)
    still = detector(alert_sequences(alerts, rng))
    moving = detector(moving_sequences(alerts, rng))
    print(f"\n{name} ({detector.architecture}): threshold {threshold:.3f} for {RATE:g}, of {origin}")
    print(f"  {'alert':20} {'S/N':>8} {'logit':>9}        moving, same S/N")
    for alert, logit, control in zip(alerts, still, moving, strict=True):
        marks = ["above" if value > threshold else "" for value in (logit, control)]
        print(f"  {alert.name:20} {alert.snr:8.1f} {logit:9.3f} {marks[0]:6} {control:9.3f} {marks[1]}")
    n_still, n_moving = (int(np.sum(logits > threshold)) for logits in (still, moving))
    print(f"  {n_still} of {len(alerts)} alerts are above, and {n_moving} of those that move")


if __name__ == "__main__":
    main()
