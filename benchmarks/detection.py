# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
r"""How faint an object the detectors find, on the same held-out sequences.

In white noise with a known PSF::

    python benchmarks/detection.py --clean 20000 --objects 2000

and in the test split of injected sequences of a repository, with the
classifiers of other collections::

    python benchmarks/detection.py --repo REPO --sequences u/me/training \
        --classifier u/me/training --classifier u/me/other

For each rate of false positives that ten clean sequences or more exceed, a
table has the efficiency by S/N, the S/N at which half of the objects are
found, and its ratio to the matched filter's. The likelihood ratio is the
architecture ``trajectories`` as it is before any training.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from lsst.daf.butler import Butler
from lsst.meas.tno import ImageSequences
from lsst.meas.tno._efficiency_fit import fit_efficiency
from lsst.meas.tno.geometry import north_up_affine
from lsst.meas.tno.matched_filter import band_flux_ratio, search_sequences
from lsst.meas.tno.matched_filter._shift_and_stack import information_maps
from lsst.meas.tno.nn import TrajectoryConfig, architectures
from lsst.meas.tno.nn.classifier import Classifier, classifier_from_table, describe_classifier
from lsst.meas.tno.positions import SPLITS
from lsst.meas.tno.tasks import InjectTnosConfig, InjectTnosTask

RATES = (1e-2, 1e-3, 1e-4)
"""Rates of false positives per sequence."""

SNR_BINS = ((2.0, 3.0), (3.0, 4.0), (4.0, 5.0), (5.0, 6.0), (6.0, 8.0), (8.0, 12.0))

N_TIMES, SIZE, PSF_SIGMA = 50, 15, 1.8
"""Images, pixels and width of the PSF, pixels, in white noise."""

MAX_MOTION = 7.0
"""Longest motion over a sequence of white noise, pixels."""

INTERVAL = 41.0
"""Time from one image to the next, s."""

BLOCK = 500
"""Sequences in memory at a time."""

type Detector = Callable[[ImageSequences], np.ndarray]


@dataclasses.dataclass
class Sample:
    """What the detectors say of the same sequences."""

    snr: np.ndarray
    """S/N of the objects; NaN for clean sequences."""

    statistics: dict[str, np.ndarray]
    """Statistic of each detector."""

    seconds: dict[str, float]
    """Time that each detector took."""


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clean", type=int, default=10_000, help="Clean sequences of white noise.")
    parser.add_argument("--objects", type=int, default=2_000, help="Sequences of white noise with an object.")
    parser.add_argument("--seed", type=int, default=1, help="Seed of the white noise.")
    parser.add_argument("--repo", help="Repository with sequences, or with classifiers.")
    parser.add_argument("--sequences", help="Collection of tno_sequences_injected to test on.")
    parser.add_argument(
        "--classifier", action="append", default=[], help="Collection of a tno_classifier; may be repeated."
    )
    parser.add_argument("--threads", type=int, default=1, help="Threads.")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    blocks = test_sequences(args) if args.sequences else white_sequences(args)
    sample = measure(blocks, make_detectors(args))
    print_speed(sample)
    for rate in RATES:
        print_table(sample, rate)


def make_detectors(args: argparse.Namespace) -> dict[str, Detector]:
    """Return the detectors by name; the first is what the others are compared
    to.
    """
    detectors: dict[str, Detector] = {
        "matched filter": lambda sequences: matched_filter(sequences, args.threads),
        "single image": single_image,
        "likelihood ratio": untrained().compute_logits_of,
    }
    for collection in args.classifier:
        with Butler.from_config(args.repo, collections=collection) as butler:
            classifier = classifier_from_table(butler.get("tno_classifier"))
        name = f"{classifier.description['architecture']['name']} ({collection})"
        detectors[name] = Logits(classifier).compute_logits_of
    return detectors


@dataclasses.dataclass
class Logits:
    """The logits of a classifier."""

    classifier: Classifier

    def compute_logits_of(self, sequences: ImageSequences) -> np.ndarray:
        """Return the logits."""
        columns: Mapping[str, np.ndarray] = {column.name: array for column, array in sequences.items()}
        return self.classifier.compute_logits(columns)


def untrained() -> Logits:
    """Return the mean likelihood ratio over trajectories and S/N."""
    architecture = architectures["trajectories"](TrajectoryConfig())
    shape = (N_TIMES, SIZE, SIZE)
    description = describe_classifier("trajectories", architecture, shape, 0.2, training={}, metrics={})
    return Logits(Classifier(architecture, architecture.build(shape).eval(), description))


def matched_filter(sequences: ImageSequences, n_threads: int) -> np.ndarray:
    """Return the largest S/N of a trajectory of up to `MAX_MOTION` pixels."""
    hours = np.nanmax(sequences.mjd - sequences.mjd[:, :1], axis=1).max() * 24.0
    found = search_sequences(
        sequences,
        relative_flux=band_flux_ratio(sequences.band),
        rate_max=MAX_MOTION * 0.2 / hours,
        n_threads=n_threads,
    )
    return found.snr


def single_image(sequences: ImageSequences) -> np.ndarray:
    """Return the largest S/N of a source in any single image."""
    usable = sequences.usable
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = 1.0 / (sequences.variance * sequences.noise_scale[:, :, None, None])
    usable &= np.isfinite(weight)
    weight = np.where(usable, weight, 0.0).astype(np.float32)
    weighted = np.where(usable, sequences.image, 0.0).astype(np.float32) * weight
    psf = np.nan_to_num(sequences.psf)
    images = [
        torch.from_numpy(array.reshape(-1, *array.shape[2:]).copy()) for array in (weighted, weight, psf)
    ]
    psi, phi = information_maps(images[0], images[1], images[2], 1).unbind(dim=1)
    enough = phi > 0.5 * phi.amax(dim=(1, 2), keepdim=True)
    snr = torch.where(enough, psi / phi.clamp(min=1e-30).sqrt(), -torch.inf)
    return snr.reshape(len(sequences), -1).amax(dim=1).numpy()


def white_sequences(args: argparse.Namespace) -> Iterator[ImageSequences]:
    """Yield blocks of white noise, first the clean ones."""
    hours = (N_TIMES - 1) * INTERVAL / 3600
    config = InjectTnosConfig(fraction=1.0, seed=args.seed)
    config.zero_points = dict.fromkeys("ugrizy", 40.0)
    population = config.population["linear"]
    population.rate_min, population.rate_max = 0.0, MAX_MOTION * 0.2 / hours
    population.window_size, population.edge_margin, population.min_times_inside = SIZE * 0.2, 0.3, N_TIMES
    population.snr_min, population.snr_max = SNR_BINS[0][0], SNR_BINS[-1][1]
    task = InjectTnosTask(config=config)
    for first in range(0, args.clean + args.objects, BLOCK):
        # A whole number of blocks of each kind.
        sequences = blank_sequences(np.random.default_rng([args.seed, first]), first)
        yield sequences if first < args.clean else task.run(sequences).injected


def blank_sequences(rng: np.random.Generator, first: int) -> ImageSequences:
    """Return a block of white noise with a Gaussian PSF."""
    sequences = ImageSequences.full(BLOCK, T=N_TIMES, H=SIZE, W=SIZE, K=15)
    profile = np.exp(-0.5 * (np.arange(-7, 8) / PSF_SIGMA) ** 2)
    sequences.sequence_id[:] = first + np.arange(BLOCK)
    sequences.ra[:], sequences.dec[:] = sequences.centre_ra[:], sequences.centre_dec[:] = 150.1, 2.2
    sequences.valid[:], sequences.visit[:], sequences.band[:] = True, np.arange(N_TIMES), 2
    sequences.mjd[:] = 61000.0 + np.arange(N_TIMES) * INTERVAL / 86400
    sequences.exposure_time[:], sequences.noise_scale[:], sequences.mask[:] = 30.0, 1.0, 0
    sequences.image[:] = 20.0 * rng.standard_normal(sequences.image.shape, dtype=np.float32)
    sequences.variance[:] = 400.0
    sequences.psf[:] = np.outer(profile, profile) / profile.sum() ** 2
    sequences.pixel_to_sky[:] = north_up_affine(SIZE, 0.2)
    return sequences


def test_sequences(args: argparse.Namespace) -> Iterator[ImageSequences]:
    """Yield the injected sequences of the test split."""
    with Butler.from_config(args.repo, collections=args.sequences) as butler:
        for ref in sorted(butler.query_datasets("tno_sequences_injected")):
            sequences = ImageSequences.from_table(butler.get(ref))
            yield sequences[sequences.split == SPLITS.index("test")]


def measure(blocks: Iterator[ImageSequences], detectors: Mapping[str, Detector]) -> Sample:
    """Let all detectors look at all sequences."""
    snr: list[np.ndarray] = []
    statistics: dict[str, list[np.ndarray]] = {name: [] for name in detectors}
    seconds = dict.fromkeys(detectors, 0.0)
    for sequences in blocks:
        is_clean = sequences.injection is None
        snr.append(np.full(len(sequences), np.nan) if is_clean else sequences.injection.snr)  # type: ignore[union-attr]
        for name, detector in detectors.items():
            begin = time.perf_counter()
            statistics[name].append(detector(sequences))
            seconds[name] += time.perf_counter() - begin
    return Sample(
        snr=np.concatenate(snr),
        statistics={name: np.concatenate(values) for name, values in statistics.items()},
        seconds=seconds,
    )


def print_speed(sample: Sample) -> None:
    """Print how many sequences a second each detector looks at."""
    is_clean = np.isnan(sample.snr)
    print(f"{np.sum(is_clean)} clean sequences, {np.sum(~is_clean)} with an object")
    for name, seconds in sample.seconds.items():
        print(f"  {name:40} {len(sample.snr) / seconds:8.0f} sequences/s")


def print_table(sample: Sample, rate: float) -> None:
    """Print what is found at a rate of false positives."""
    is_clean = np.isnan(sample.snr)
    if rate * np.sum(is_clean) < 10:
        print(f"\n{rate:g} false positives per sequence: {10 / rate:.0f} clean sequences are needed.")
        return
    print(f"\n{rate:g} false positives per sequence; efficiency by S/N")
    bins = "".join(f"{low:g}-{high:g}".rjust(8) for low, high in SNR_BINS)
    print(f"  {'':40} threshold{bins}    S/N50         ratio")
    reference = np.nan
    for name, statistic in sample.statistics.items():
        threshold = np.quantile(statistic[is_clean], 1.0 - rate)
        snr, found = sample.snr[~is_clean], statistic[~is_clean] > threshold
        fit = fit_efficiency(snr, found, rising=True, by_chance=rate)
        reference = fit.centre if np.isnan(reference) else reference
        cells = "".join(f"{mean(found[(snr >= low) & (snr < high)]):8.3f}" for low, high in SNR_BINS)
        half = f"{fit.centre:6.2f} +- {fit.errors[0]:.2f}{fit.centre / reference:8.3f}"
        print(f"  {name:40} {threshold:9.3f}{cells}  {half}")


def mean(found: np.ndarray) -> float:
    """Return the fraction that was found; NaN of nothing."""
    return float(np.mean(found)) if len(found) else float("nan")


if __name__ == "__main__":
    main()
