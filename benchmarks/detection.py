# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
r"""How faint an object the detectors find, on the same held-out sequences.

In white noise with a known PSF, with classifiers that are trained on it first
and left in a directory::

    python benchmarks/detection.py --clean 200000 --objects 5000 \
        --train conv3d trajectories --keep DIR

and in the visit images or difference images of a survey in which nothing
moves, all of whose sky is looked at, with the injected objects of a collection
and the classifiers of others, which were trained on another survey::

    python benchmarks/detection.py --repo REPO --image visit_image \
        --objects-in u/me/objects --classifiers OTHER_REPO u/me/conv3d

For each rate of false positives that ten clean sequences or more exceed, a
table has the efficiency by S/N, the S/N at which half of the objects are
found, and its ratio to the matched filter's. A detector that looked at too few
(``--every``) is shown at the lowest rate that it can be, which flatters it.
The likelihood ratio is the architecture ``trajectories`` as it is before any
training. ``--statistics FILE`` keeps what each detector said of each sequence;
detectors that are in such a file already are not asked again.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from blocks import Block, WhiteNoise, injected_blocks, patch_blocks, white_blocks
from detectors import (
    SNR_BINS,
    Detector,
    Logits,
    half_found,
    matched_filter,
    read_classifier,
    threshold_at,
    untrained,
)
from tqdm import tqdm
from white_classifiers import TRAINING, classifier_for_white_noise
from white_noise import MAX_MOTION, SNR_LIMITS

from lsst.meas.tno import ImageSequences
from lsst.meas.tno.matched_filter._shift_and_stack import information_maps
from lsst.meas.tno.nn.trajectory_features import FEATURES, displacements, trajectory_features
from lsst.meas.tno.photometry import TNO_COLOURS

RATES = (1e-2, 1e-3, 1e-4)
"""Rates of false positives per sequence."""

SINGLE_IMAGE_SNR = 5.0
"""S/N in one image from which on a search of single images finds a source."""


SCREEN = 3.6
"""S/N on a coarse grid up to which the matched filter does not look at white
noise: that is far below the threshold of any rate here.
"""


BLOCKS_PER_PROCESS = 20
"""Blocks after which a process is replaced by a new one."""


@dataclasses.dataclass
class Sample:
    """What the detectors say of the same sequences."""

    snr: np.ndarray
    """S/N of the objects; NaN for clean sequences."""

    position: np.ndarray
    """Position and time of each sequence, ``(n, 3)``."""

    statistics: dict[str, np.ndarray]
    """Statistic of each detector; NaN where it did not look."""

    seconds: dict[str, float]
    """CPU time that each detector took."""


def main() -> None:
    """Measure, and print."""
    args = parse_arguments()
    torch.set_num_threads(1)
    sample = None
    if args.statistics is not None and args.statistics.exists():
        sample = read_sample(args.statistics)
    # Trained before the processes begin, which then find the classifiers.
    args.detectors = [
        name for name in make_detectors(args) if sample is None or name not in sample.statistics
    ]
    if args.detectors:
        more = without_repetitions(measure(make_blocks(args), args))
        sample = more if sample is None else merge(sample, more)
        if args.statistics is not None:
            write_sample(sample, args.statistics)
    assert sample is not None
    print_speed(sample)
    for rate in RATES:
        print_table(sample, rate)
    print_single_images(sample)


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clean", type=int, default=10_000, help="Clean sequences of white noise.")
    parser.add_argument("--objects", type=int, default=2_000, help="Sequences of white noise with an object.")
    parser.add_argument("--seed", type=int, default=1, help="Seed of the white noise.")
    parser.add_argument(
        "--train",
        nargs="*",
        default=[],
        choices=sorted(TRAINING),
        help="Architectures to train on white noise.",
    )
    parser.add_argument("--training-sequences", type=int, default=40_000, help="Sequences to train on.")
    parser.add_argument("--keep", type=Path, default=Path("classifiers"), help="Where trained ones are left.")
    parser.add_argument("--repo", help="Repository of a survey without moving objects.")
    parser.add_argument("--image", default="visit_image", help="Dataset type of its images.")
    parser.add_argument("--input", default="TnoSim/defaults", help="Collection of its images.")
    parser.add_argument("--objects-in", help="Collection of its tno_sequences_injected.")
    parser.add_argument("--patches", type=int, help="Number of patches to look at; by default all.")
    parser.add_argument(
        "--classifiers", nargs="+", default=[], metavar="NAME", help="A repository, and collections in it."
    )
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        help="Let the search of single images, and of a survey the matched filter, too, look at one of so "
        "many blocks of clean sequences only: they take most of the time.",
    )
    parser.add_argument("--statistics", type=Path, help="File for the statistics of all sequences (.npz).")
    parser.add_argument("--processes", type=int, default=2, help="Processes.")
    return parser.parse_args()


def make_blocks(args: argparse.Namespace) -> list[Block]:
    """Return the blocks of clean sequences and of those with objects."""
    if args.repo is None:
        return white_blocks(args.seed, args.clean, args.objects, SNR_LIMITS)
    clean = patch_blocks(args.repo, args.input, args.image)
    return [*clean[: args.patches], *injected_blocks(args.repo, args.objects_in)]


def make_detectors(args: argparse.Namespace) -> dict[str, Detector]:
    """Return the detectors by name; the first is what the others are compared
    to.
    """
    detectors: dict[str, Detector] = {
        "matched filter": matched_filter,
        "single image": single_image,
    }
    if "trajectories" not in args.train and not args.classifiers:
        detectors["likelihood ratio"] = untrained()
    for name in args.train:
        classifier = classifier_for_white_noise(name, args.training_sequences, args.processes, args.keep)
        detectors[name] = Logits(classifier)
    for collection in args.classifiers[1:]:
        detector = read_classifier(args.classifiers[0], collection)
        detectors[f"{detector.architecture} ({collection})"] = detector
    return detectors


def coarse_snr(sequences: ImageSequences) -> np.ndarray:
    """Return the largest S/N on a grid of few trajectories, which loses up to
    4 % and takes a third of the matched filter's time.
    """
    columns = {column.name: array for column, array in sequences.items()}
    ratio = {band: float(10.0 ** (-0.4 * colour)) for band, colour in TNO_COLOURS.items()}
    features = trajectory_features(columns, displacements(MAX_MOTION, 2.5), ratio)
    return features[:, FEATURES.index("snr")].reshape(len(sequences), -1).max(axis=1)


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


def measure(blocks: list[Block], args: argparse.Namespace) -> Sample:
    """Let all detectors look at all sequences."""
    context = multiprocessing.get_context("spawn")
    # Memory that is freed in pieces is given back at the end of a process.
    chosen = [(block, number % args.every == 0) for number, block in enumerate(blocks)]
    with context.Pool(args.processes, prepare, (args,), maxtasksperchild=BLOCKS_PER_PROCESS) as pool:
        parts = pool.imap(look_at_block, chosen)
        return join(tqdm(parts, desc="blocks", total=len(blocks), disable=None))


DETECTORS: dict[str, Detector] = {}
"""Detectors of this process."""

SLOW = ("matched filter", "single image")
"""Detectors that need not look at all clean sequences."""


def prepare(args: argparse.Namespace) -> None:
    """Make this process ready for `look_at_block`."""
    torch.set_num_threads(1)
    detectors = make_detectors(args)
    DETECTORS.update({name: detectors[name] for name in args.detectors})


def look_at_block(block_and_chosen: tuple[Block, bool]) -> Sample:
    """Let this process's detectors look at a block."""
    return look_at(*block_and_chosen, DETECTORS)


def look_at(block: Block, is_chosen: bool, detectors: Mapping[str, Detector]) -> Sample:
    """Let detectors look at a block, the slow ones only if it is chosen or has
    objects.
    """
    parts = []
    for sequences in block.sequences():
        is_clean = sequences.injection is None
        snr = np.full(len(sequences), np.nan) if is_clean else sequences.injection.snr  # type: ignore[union-attr]
        rows = np.arange(len(sequences))
        statistics, seconds = {}, {}
        for name, detector in detectors.items():
            begin = time.process_time()
            is_screened = name == "matched filter" and isinstance(block, WhiteNoise)
            if name in SLOW and is_clean and not (is_chosen or is_screened):
                statistics[name], seconds[name] = np.full(len(sequences), np.nan), 0.0
                continue
            if is_screened:
                rows = np.flatnonzero(coarse_snr(sequences) > SCREEN)
            # Where there is nothing to look at, nothing is found.
            statistics[name] = np.full(len(sequences), -np.inf)
            statistics[name][rows] = np.nan_to_num(detector(sequences[rows]), nan=-np.inf)
            seconds[name] = time.process_time() - begin
            rows = np.arange(len(sequences))
        position = np.column_stack([sequences.ra, sequences.dec, sequences.mean_mjd])
        parts.append(Sample(snr, position, statistics, seconds))
    return join(parts)


def join(parts: Iterable[Sample]) -> Sample:
    """Return samples as one."""
    parts = list(parts)
    names = parts[0].statistics
    return Sample(
        snr=np.concatenate([part.snr for part in parts]),
        position=np.concatenate([part.position for part in parts]),
        statistics={name: np.concatenate([part.statistics[name] for part in parts]) for name in names},
        seconds={name: sum(part.seconds[name] for part in parts) for name in names},
    )


def merge(sample: Sample, more: Sample) -> Sample:
    """Return what more detectors say of the same sequences, too."""
    if not np.array_equal(sample.position, more.position) or not np.array_equal(
        sample.snr, more.snr, equal_nan=True
    ):
        raise ValueError("The file of statistics is of other sequences; name another one.")
    return dataclasses.replace(
        sample,
        statistics={**sample.statistics, **more.statistics},
        seconds={**sample.seconds, **more.seconds},
    )


def without_repetitions(sample: Sample) -> Sample:
    """Return each window of the sky once; white noise is not of the sky."""
    if len(np.unique(sample.position[:, 0])) == 1:
        return sample
    _, first = np.unique(np.round(sample.position, 7), axis=0, return_index=True)
    first = np.sort(first)
    return Sample(
        snr=sample.snr[first],
        position=sample.position[first],
        statistics={name: statistic[first] for name, statistic in sample.statistics.items()},
        seconds=sample.seconds,
    )


def write_sample(sample: Sample, path: Path) -> None:
    """Keep what was measured."""
    names = list(sample.statistics)
    statistics = np.column_stack([sample.statistics[name] for name in names])
    seconds = np.array([sample.seconds[name] for name in names])
    arrays = {"snr": sample.snr, "position": sample.position, "names": np.array(names)}
    # A name without a suffix would get one.
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays, statistics=statistics, seconds=seconds)


def read_sample(path: Path) -> Sample:
    """Return what was measured before."""
    with np.load(path) as arrays:
        names = arrays["names"].tolist()
        return Sample(
            snr=arrays["snr"],
            position=arrays["position"],
            statistics=dict(zip(names, arrays["statistics"].T, strict=True)),
            seconds=dict(zip(names, arrays["seconds"].tolist(), strict=True)),
        )


def print_speed(sample: Sample) -> None:
    """Print how many sequences a second of CPU each detector looks at."""
    is_clean = np.isnan(sample.snr)
    print(f"{np.sum(is_clean)} clean sequences, {np.sum(~is_clean)} with an object")
    for name, seconds in sample.seconds.items():
        n_seen = np.sum(~np.isnan(sample.statistics[name]))
        note = " (most white noise on a coarse grid only)" if name == "matched filter" else ""
        print(f"  {name:40} {n_seen / seconds:8.0f} sequences per second of CPU{note}")


def print_table(sample: Sample, rate: float) -> None:
    """Print what is found at a rate of false positives."""
    is_clean = np.isnan(sample.snr)
    if rate * np.sum(is_clean) < 10:
        print(f"\n{rate:g} false positives per sequence: {10 / rate:.0f} clean sequences are needed.")
        return
    print(f"\n{rate:g} false positives per sequence; efficiency by S/N")
    bins = "".join(f"{low:g}-{high:g}".rjust(8) for low, high in SNR_BINS)
    print(f"  {'':40} threshold{bins}     all       S/N50   ratio")
    snr = sample.snr[~is_clean]
    reference, largest = np.nan, snr.max()
    for name, statistic in sample.statistics.items():
        clean = statistic[is_clean & ~np.isnan(statistic)]
        counted = max(rate, 10.0 / len(clean))
        threshold = threshold_at(counted, clean)
        is_reference = name == "matched filter"
        assert not is_reference or threshold > 1.08 * SCREEN
        found = statistic[~is_clean] > threshold
        half, error, problem = half_found(snr, found, counted)
        reference = half if is_reference else reference
        cells = "".join(f"{mean(found[(snr >= low) & (snr < high)]):8.3f}" for low, high in SNR_BINS)
        if problem:
            end = problem
        elif np.isfinite(reference):
            end = f"{half:6.2f} +- {error:.2f}{half / reference:8.3f}"
        else:
            # The matched filter does not find half of the brightest.
            end = f"{half:6.2f} +- {error:.2f}  < {half / largest:.3f}"
        title = name if counted == rate else f"{name}, at {counted:.1e}"
        print(f"  {title:40} {threshold:9.3f}{cells}{mean(found):8.3f} {end}")


def print_single_images(sample: Sample) -> None:
    """Print what a search of single images finds at its usual threshold."""
    statistic = sample.statistics["single image"]
    found = statistic > SINGLE_IMAGE_SNR
    false = mean(found[np.isnan(sample.snr) & ~np.isnan(statistic)])
    print(
        f"\nSearch of single images at {SINGLE_IMAGE_SNR:g} sigma: {false:.2g} false positives per sequence"
    )
    for low, high in SNR_BINS:
        chosen = found[(sample.snr >= low) & (sample.snr < high)]
        print(f"  S/N {low:g}-{high:g}: {mean(chosen):.3f}")


def mean(found: np.ndarray) -> float:
    """Return the fraction that was found; NaN of nothing."""
    return float(np.mean(found)) if len(found) else float("nan")


if __name__ == "__main__":
    main()
