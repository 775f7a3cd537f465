# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
r"""What classifiers lose on skies and objects other than they were trained on.

On white noise with other seeing, depth, number of images, gaps and times than
the sky of the training, with classifiers that are trained on that first and
left in a directory, or with those of collections::

    python benchmarks/generalisation.py --train conv3d trajectories --keep DIR
    python benchmarks/generalisation.py --repo REPO \
        --classifier u/me/conv3d --classifier u/me/trajectories

``--cadence FILE`` adds a real night: a table of visits with the columns
mjd_start_tai, exposure_time_s, band, seeing_fwhm_geom_arcsec and
five_sigma_depth_mag.

On the objects that a simulation has put into the images of a survey itself,
beside objects that were injected into the same images::

    butler simulate-tno-survey REPO -c n_objects=600 \
        -c object_mag_min=24.6 -c object_mag_max=27.2
    butler ingest-tno-orbits REPO --synthetic 1000 --run tno/orbits
    pipetask run -b REPO -i TnoSim/defaults,tno/orbits -o u/me/objects \
        ... -p pipelines/Tno.yaml#training-set
    python benchmarks/generalisation.py --repo REPO --objects-in u/me/objects \
        --image difference_image --classifier u/me/trajectories

For each rate of false positives that ten clean sequences or more exceed, a
table has two rows for each detector and sky: with the threshold of the sky of
the training, and the rate it really has on this one, and with the threshold
for the rate measured anew. The last column compares the S/N at which half of
the objects are found to the matched filter's with a threshold measured anew.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table
from detectors import SNR_BINS, Detector, Logits, half_found, matched_filter, read_classifier, threshold_at
from simulated_objects import SimulatedObjects, injected_snr, simulated_sequences
from white_classifiers import TRAINING, classifier_for_white_noise
from white_noise import PIXEL_SCALE, SNR_LIMITS, Sky, even_times

from lsst.daf.butler import Butler
from lsst.meas.tno import ImageSequences
from lsst.meas.tno._sequences import BANDS
from lsst.meas.tno.photometry import ab_mag_to_njy
from lsst.meas.tno.positions import SPLITS
from lsst.utils.threads import disable_implicit_threading

RATES = (1e-2, 1e-3)
"""Rates of false positives per sequence."""

MATCHED_FILTER = "matched filter"

AS_TRAINED = "as trained on"
"""Name of the sky of the training."""

CLEAR = 5.0
"""Distance from simulated objects from which on sequences count as clean,
arcsec.
"""

N_IMAGES = 50
"""Images of a full sequence."""


@dataclasses.dataclass
class Sample:
    """What the detectors say of sequences of one sky."""

    clean: dict[str, np.ndarray]
    """Statistic of each detector on clean sequences."""

    found: dict[str, np.ndarray]
    """The same on sequences with an object."""

    snr: np.ndarray
    """S/N of the objects."""


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clean", type=int, default=2_000, help="Clean sequences of each white noise.")
    parser.add_argument("--objects", type=int, default=1_000, help="Objects in each white noise.")
    parser.add_argument("--seed", type=int, default=1, help="Seed of the white noise.")
    parser.add_argument("--cadence", type=Path, help="Table of real visits, for a night of theirs.")
    parser.add_argument("--train", nargs="*", default=[], choices=sorted(TRAINING), help="Architectures.")
    parser.add_argument("--training-sequences", type=int, default=40_000, help="Sequences to train on.")
    parser.add_argument("--keep", type=Path, default=Path("classifiers"), help="Where trained ones are left.")
    parser.add_argument("--repo", help="Repository with classifiers.")
    parser.add_argument(
        "--classifier", action="append", default=[], help="Collection of a tno_classifier; may be repeated."
    )
    parser.add_argument("--objects-in", help="Collection of tno_sequences_injected of a simulated survey.")
    parser.add_argument("--input", default="TnoSim/defaults", help="Collection of the survey.")
    parser.add_argument("--image", default="difference_image", help="Dataset type of its images.")
    parser.add_argument(
        "--splits",
        nargs="+",
        default=["test"],
        choices=SPLITS,
        help="Splits of tno_sequences_injected; all three if no classifier was trained in its survey.",
    )
    parser.add_argument(
        "--windows", type=int, default=1, help="Windows on a simulated object's path; they share their noise."
    )
    parser.add_argument("--threads", type=int, default=1, help="Threads.")
    args = parser.parse_args()
    disable_implicit_threading()
    torch.set_num_threads(args.threads)
    detectors = make_detectors(args)
    print_tables(simulated_survey(args, detectors) if args.objects_in else white_skies(args, detectors))


def make_detectors(args: argparse.Namespace) -> dict[str, Detector]:
    """Return the detectors by name, the matched filter first."""
    detectors: dict[str, Detector] = {
        MATCHED_FILTER: lambda sequences: matched_filter(sequences, args.threads)
    }
    for name in args.train:
        classifier = classifier_for_white_noise(name, args.training_sequences, args.threads, args.keep)
        detectors[name] = Logits(classifier)
    for collection in args.classifier:
        detectors[collection] = read_classifier(args.repo, collection)
    return detectors


def white_skies(args: argparse.Namespace, detectors: Mapping[str, Detector]) -> Iterator[tuple[str, Sample]]:
    """Yield what the detectors say of each white noise, that of the training
    first.
    """
    for name, sky in skies(args).items():
        clean = [apply(detectors, sequences) for sequences in sky.clean(args.seed, args.clean)]
        found, true_snr = [], []
        for sequences in sky.injected(args.seed, args.objects, SNR_LIMITS):
            assert sequences.injection is not None
            found.append(apply(detectors, sequences))
            true_snr.append(sequences.injection.snr)
        yield name, Sample(join(clean), join(found), np.concatenate(true_snr))


def skies(args: argparse.Namespace) -> dict[str, Sky]:
    """Return skies by name, that of the training first."""
    rng = np.random.default_rng(args.seed)
    even = even_times(N_IMAGES)
    span = even[-1] - even[0]
    gap = np.where(np.arange(N_IMAGES) < N_IMAGES // 2, even, even + 3 * span)
    clumps = np.sort(even[0] + span * rng.beta(0.4, 0.4, N_IMAGES))
    named = {
        AS_TRAINED: Sky(),
        "seeing 0.6 arcsec": Sky(psf_sigma=1.3),
        "seeing 1.2 arcsec": Sky(psf_sigma=2.55),
        "seeing varies 0.6-1.2": Sky(psf_sigma=rng.uniform(1.3, 2.55, N_IMAGES)),
        "noise half": Sky(noise=10.0),
        "noise double": Sky(noise=40.0),
        "noise varies 1:4": Sky(noise=10.0 * 4.0 ** rng.random(N_IMAGES)),
        "35 images": Sky(mjd=even[:35]),
        "20 images": Sky(mjd=even[:20]),
        "two blocks": Sky(mjd=gap),
        "irregular times": Sky(mjd=clumps),
    }
    if args.cadence is not None:
        named["a real night"] = real_night(Table.read(args.cadence))
    return named


def real_night(visits: Table) -> Sky:
    """Return the sky of images spread over the night with the most bands of
    those that have enough images.
    """
    night = np.floor(visits["mjd_start_tai"] - 0.5)
    nights = [visits[night == value] for value in np.unique(night)]
    full = [rows for rows in nights if len(rows) >= N_IMAGES]
    if not full:
        raise ValueError(f"No night of the cadence has {N_IMAGES} visits.")
    best = max(full, key=lambda rows: len(np.unique(rows["band"])))
    chosen = best[
        np.argsort(best["mjd_start_tai"])[np.sort(np.linspace(0, len(best) - 1, N_IMAGES, dtype=int))]
    ]
    sigma = np.asarray(chosen["seeing_fwhm_geom_arcsec"]) / np.sqrt(8 * np.log(2)) / PIXEL_SCALE
    # Of a Gaussian, S/N 5 is what 4 pi sigma^2 pixels have.
    noise = ab_mag_to_njy(chosen["five_sigma_depth_mag"]) / 5 / np.sqrt(4 * np.pi * sigma**2)
    return Sky(
        mjd=np.asarray(chosen["mjd_start_tai"] + chosen["exposure_time_s"] / 2 / 86400),
        psf_sigma=sigma,
        noise=noise,
        band=np.array([BANDS.index(band) for band in chosen["band"]]),
    )


def simulated_survey(
    args: argparse.Namespace, detectors: Mapping[str, Detector]
) -> Iterator[tuple[str, Sample]]:
    """Yield what the detectors say of injected objects, and of those that the
    simulation has put into the same images.
    """
    with Butler.from_config(args.repo, collections=[args.input]) as butler:
        objects = SimulatedObjects.from_table(butler.get("tno_simulated_objects"))
        clean, found, snr = [], [], []
        splits = [SPLITS.index(split) for split in args.splits]
        for ref in sorted(butler.query_datasets("tno_sequences_injected", collections=args.objects_in)):
            sequences = ImageSequences.from_table(butler.get(ref))
            sequences = sequences[np.isin(sequences.split, splits)]
            sequences = sequences[objects.distance(sequences.ra, sequences.dec) > CLEAR]
            assert sequences.injection is not None
            injected = sequences.injection.injected
            clean.append(apply(detectors, sequences[~injected]))
            found.append(apply(detectors, sequences[injected]))
            snr.append(injected_snr(sequences[injected]))
        yield AS_TRAINED, Sample(join(clean), join(found), np.concatenate(snr))
        parts = list(simulated_sequences(butler, args.image, objects, args.windows, args.seed))
        found = [apply(detectors, sequences) for sequences, _ in parts]
        yield "simulated objects", Sample(join(clean), join(found), np.concatenate([snr for _, snr in parts]))


def apply(detectors: Mapping[str, Detector], sequences: ImageSequences) -> dict[str, np.ndarray]:
    """Return what each detector says of sequences."""
    return {name: detector(sequences) for name, detector in detectors.items()}


def join(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the statistics of all parts together."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def print_tables(samples: Iterable[tuple[str, Sample]]) -> None:
    """Print a table for each rate of false positives."""
    by_name = dict(samples)
    for name, sample in by_name.items():
        n_clean = len(sample.clean[MATCHED_FILTER])
        print(f"{name}: {n_clean} clean sequences, {len(sample.snr)} with an object")
    for rate in RATES:
        if rate * min(len(sample.clean[MATCHED_FILTER]) for sample in by_name.values()) < 10:
            print(f"\n{rate:g} false positives per sequence: {10 / rate:.0f} clean sequences are needed.")
        else:
            print_table(by_name, rate)


def print_table(samples: Mapping[str, Sample], rate: float) -> None:
    """Print what is found at a rate of false positives."""
    print(f"\n{rate:g} false positives per sequence; efficiency by S/N")
    bins = "".join(f"{low:g}-{high:g}".rjust(7) for low, high in SNR_BINS)
    print(f"{'':24}{'':28}{'threshold':>10}{'rate':>9}{bins}    S/N50          ratio")
    trained = {name: threshold_at(rate, clean) for name, clean in samples[AS_TRAINED].clean.items()}
    for title, sample in samples.items():
        anew = {name: threshold_at(rate, clean) for name, clean in sample.clean.items()}
        reference = fit_half(sample, MATCHED_FILTER, anew[MATCHED_FILTER])[0]
        for name in sample.clean:
            print_row(f"{title:24}{name[-19:]:20}", "trained", sample, name, trained[name], reference)
            if anew[name] != trained[name]:
                print_row(f"{'':44}", "anew", sample, name, anew[name], reference)


def print_row(title: str, origin: str, sample: Sample, name: str, threshold: float, reference: float) -> None:
    """Print what a detector finds above a threshold."""
    found = sample.found[name] > threshold
    half, error = fit_half(sample, name, threshold)
    rate = float(np.mean(sample.clean[name] > threshold))
    chosen = [(sample.snr >= low) & (sample.snr < high) for low, high in SNR_BINS]
    cells = "".join(f"{np.mean(found[rows]) if np.any(rows) else np.nan:7.3f}" for rows in chosen)
    fit = f"{half:6.2f} +- {error:.2f}{half / reference:8.3f}"
    print(f"{title}{origin:8}{threshold:10.3f}{rate:9.4f}{cells}  {fit}")


def fit_half(sample: Sample, name: str, threshold: float) -> tuple[float, float]:
    """Return the S/N at which half of the objects are found, and its error."""
    rate = min(float(np.mean(sample.clean[name] > threshold)), 0.5)
    return half_found(sample.snr, sample.found[name] > threshold, rate)[:2]


if __name__ == "__main__":
    main()
