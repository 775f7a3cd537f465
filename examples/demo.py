# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Search a small simulated survey, from visit images to a report.

Runs the commands that a user would, prints each of them, and sums up what is
in the repository afterwards. It takes about ten minutes on two cores::

    python examples/demo.py [DIRECTORY]
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.table import Table, vstack

from lsst.daf.butler import Butler
from lsst.meas.tno import ImageSequences
from lsst.meas.tno.geometry import gnomonic
from lsst.meas.tno.nn.metrics import SNR_BINS, roc_area, select_snr
from lsst.meas.tno.plotting import plot_sequence
from lsst.meas.tno.positions import SPLITS
from lsst.meas.tno.tasks import PRELOAD

ROOT = Path(__file__).parents[1]
MARKER = ".made-by-meas_tno-demo"
"""File that tells a directory of an earlier demo from one of the user."""

SKYMAP = "tno_sim"
SURVEY = "TnoSim/defaults"
ORBITS = "tno/orbits"
TRAINING = "u/demo/training"
SEARCH = "u/demo/search"
TEST = SPLITS.index("test")
BRIGHT = "snr >= 8"
EXPECTED_ROC_AREA = 0.97
FALSE_POSITIVES = 0.005
"""Candidates without an object, per sequence without an object."""

N_BEST = 5
FAINT = 12.0
"""S/N of a sequence below which no single image shows an object."""

ALONE = 5.0
"""Distance from objects of the simulation, arcsec."""


def main(arguments: Sequence[str]) -> None:
    """Run the demo in a directory, and remove what an earlier one left."""
    directory = Path(arguments[0] if arguments else "demo")
    make_directory(directory)
    repo, report = directory / "repo", directory / "report.html"
    print(f"The commands below run with\n\n    export PATH={shlex.quote(executables())}:$PATH")
    print(f"    export {PRELOAD}=1\n", flush=True)
    seconds = {title: run(title, command) for title, command in commands(repo, report).items()}
    # That pandas is not installed is nothing that a user must know.
    logging.getLogger("lsst.daf.butler._storage_class").setLevel(logging.ERROR)
    with Butler.from_config(str(repo), collections=SEARCH) as butler:
        injected = read_all(butler, "tno_scores_injected")
        truth = butler.get("tno_simulated_objects")
        print_summary(injected)
        print_efficiency(butler.get("tno_detection_efficiency", skymap=SKYMAP))
        print_candidates(read_all(butler, "tno_candidates"), len(read_all(butler, "tno_scores")), truth)
        picture = directory / "found.png"
        plot_found(butler, injected, truth, picture)
    print_times(seconds)
    print_where(repo, picture, report)


def make_directory(directory: Path) -> None:
    """Make an empty directory, in place of that of an earlier demo only."""
    if directory.exists() and not (directory / MARKER).exists():
        sys.exit(f"demo: {directory} was not made by this demo. Remove it, or name another directory.")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / MARKER).touch()


def executables() -> str:
    """Return the folder of this Python's commands."""
    return os.path.relpath(Path(sys.executable).parent)


def commands(repo: Path, report: Path) -> dict[str, list[str]]:
    """Return the commands of the demo, by what they do."""
    pipeline = os.path.relpath(ROOT / "pipelines" / "Tno.yaml")
    pipetask = ["pipetask", "run", "-b", str(repo), "--register-dataset-types"]
    pipetask += ["-j", "2", "--start-method", "forkserver"]
    pipetask += ["-c", "parameters:inputImage=difference_image"]
    pipetask += ["-c", "parameters:inputStorageClass=DifferenceImage"]
    # Small cutouts are enough, and save time.
    pipetask += ["-c", "parameters:cutoutSize=28"]
    # Training and test are told apart by trixels, of which so little sky has
    # only a few unless they are small.
    pipetask += ["-c", "extractCutouts:htm_level=13"]
    training = ["-i", f"{SURVEY},{ORBITS}", "-o", TRAINING, "-p", f"{pipeline}#training-set,train"]
    search = ["-i", TRAINING, "-o", SEARCH, "-p", f"{pipeline}#search,efficiency"]
    return {
        "Simulate a survey": ["butler", "simulate-tno-survey", str(repo)],
        "Draw orbits of trans-Neptunian objects": [
            *("butler", "ingest-tno-orbits", str(repo)),
            *("--synthetic", "1000", "--run", ORBITS),
        ],
        "Inject objects and train a classifier": [
            *(*pipetask, *training),
            *("-c", "extractCutouts:n_positions=400"),
        ],
        "Score the sky, and the injected objects": [
            *(*pipetask, *search),
            # Other positions than those of the training.
            *("-c", "extractCutouts:n_positions=200", "-c", "extractCutouts:seed=1"),
            *("-c", "parameters:thresholdMode=per_sequence"),
            *("-c", f"parameters:threshold={FALSE_POSITIVES}"),
        ],
        "Write the report": ["butler", "report-tno-search", str(repo), SEARCH, "-o", str(report)],
    }


def run(title: str, command: Sequence[str]) -> float:
    """Run a command, after printing it, and return how many seconds it took.

    If it fails, the demo ends with its status.
    """
    print(f"=== {title}\n\n    {shlex.join(command)}\n", flush=True)
    begin = time.monotonic()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, PRELOAD: "1"}
    status = subprocess.run(command, env=environment, check=False).returncode
    seconds = time.monotonic() - begin
    if status != 0:
        print(f"demo: {command[0]} {command[1]} failed with status {status}, see above.", file=sys.stderr)
        sys.exit(status if status > 0 else 1)
    print(f"\n=== took {seconds:.0f} s\n", flush=True)
    return seconds


def read_all(butler: Butler, dataset_type: str) -> Table:
    """Return the tables of all patches as one."""
    refs = sorted(butler.query_datasets(dataset_type))
    return vstack([butler.get(ref) for ref in refs], metadata_conflicts="silent")


def print_summary(injected: Table) -> None:
    """Print numbers of sequences and the ROC area."""
    print(f"Sequences with and without injected objects: {len(injected)}")
    for index, split in enumerate(SPLITS):
        is_object = injected["injected"][injected["split"] == index]
        print(f"  {split:10} {len(is_object):6}, {is_object.sum()} of them with an object")
    print_roc_areas(injected[injected["split"] == TEST])


def print_efficiency(efficiency: Table) -> None:
    """Print for how faint an object the efficiency is half of its highest."""
    fits = {row["quantity"]: row for row in efficiency[efficiency["kind"] == "fit"]}
    print(f"The efficiency, at {FALSE_POSITIVES} false positives per sequence, is half of its highest")
    for quantity, name in (("snr50", "S/N"), ("m50", "r magnitude")):
        row, plateau = fits[quantity], fits[f"{quantity}_plateau"]["value"]
        value = f"{row['value']:.2f} ({row['value_low']:.2f} to {row['value_high']:.2f}), of {plateau:.2f}"
        print(f"  at {name} {value if np.isfinite(row['value']) else row['reason']}")


def print_candidates(candidates: Table, n_sequences: int, truth: Table) -> None:
    """Print the best of what was found in the sky as it is."""
    print(f"Best of {len(candidates)} candidates in {n_sequences} sequences of the sky as it is:")
    best = candidates[np.argsort(candidates["logit"])[::-1][:N_BEST]]
    for row, distance in zip(best, distances(best, truth), strict=True):
        print(
            f"  logit {row['logit']:4.1f}, S/N {row['snr']:4.1f} at RA {row['ra']:.5f}, Dec {row['dec']:.5f} "
            f"deg, {row['rate']:.2f} arcsec/hour; the simulation moved an object past it, at {distance:.2f} "
            "arcsec"
        )


def print_roc_areas(test: Table) -> None:
    """Print the area under the ROC curve of the test sequences."""
    is_object, logit = np.asarray(test["injected"]), np.asarray(test["logit"])
    n_clean = np.count_nonzero(~is_object)
    for name in ("all", BRIGHT):
        selected = select_snr(is_object, np.asarray(test["snr"]), SNR_BINS[name])
        area = roc_area(logit[selected], is_object[selected])
        n_objects = np.count_nonzero(is_object[selected])
        print(f"Test ROC area, {name}: {area:.4f} ({n_objects} with and {n_clean} without an object)")
        if name == BRIGHT and not area >= EXPECTED_ROC_AREA:
            sys.exit(f"demo: that is below the {EXPECTED_ROC_AREA} that it should be: something is wrong.")


def distances(table: Table, truth: Table) -> np.ndarray:
    """Return how near each position the simulation put an object at any time,
    arcsec.
    """
    pairs = (np.asarray(table[name])[:, None] for name in ("ra", "dec"))
    xi, eta = gnomonic(np.asarray(truth["ra"]), np.asarray(truth["dec"]), *pairs)
    return np.min(np.hypot(xi, eta), axis=1, initial=np.inf)


def plot_found(butler: Butler, injected: Table, truth: Table, path: Path) -> None:
    """Draw one of the test objects that score above every test sequence
    without an object: one that no single image shows, if there is such, and
    that moves far.
    """
    test = injected[injected["split"] == TEST]
    # Objects of the simulation score high too, and would steal the show.
    test = test[distances(test, truth) > ALONE]
    objects = test[test["injected"]]
    found = objects[objects["logit"] > np.max(test["logit"][~test["injected"]], initial=-np.inf)]
    if len(found) == 0:
        found = objects[[int(np.argmax(objects["logit"]))]]
    if np.any(found["snr"] < FAINT):
        found = found[found["snr"] < FAINT]
    shown = found[int(np.argmax(found["snr"] * found["rate"]))]
    data_id = {"skymap": SKYMAP, "tract": int(shown["tract"]), "patch": int(shown["patch"])}
    table = butler.get("tno_sequences_injected", data_id)
    sequences = ImageSequences.from_table(table[table["sequence_id"] == shown["sequence_id"]])
    truth = sequences.injection
    assert truth is not None, "the dataset has injection columns"
    title = (
        f"Injected object at {shown['distance']:.0f} au: r = {shown['mag']:.1f} mag, "
        f"{shown['rate']:.1f} arcsec/hour, S/N {shown['snr']:.1f}; score {shown['score']:.4f}"
    )
    plot_sequence(sequences, 0, truth.inj_x[0], truth.inj_y[0], title=title).savefig(path, dpi=110)


def print_times(seconds: dict[str, float]) -> None:
    """Print how long each command took."""
    print("Time:")
    for title, value in seconds.items():
        print(f"  {value:5.0f} s  {title}")
    print(f"  {sum(seconds.values()):5.0f} s  in all")


def print_where(repo: Path, picture: Path, report: Path) -> None:
    """Print where everything is, and how to read it."""
    print(f"Picture of a found object: {picture}")
    print(f"Report, to open in a browser: {report}")
    print(f"Repository: {repo}. Try:\n")
    print("    from lsst.daf.butler import Butler")
    print(f'    butler = Butler("{repo}", collections="{SEARCH}")')
    print(f'    butler.get("tno_sequences_injected", skymap="{SKYMAP}", tract=0, patch=0)')


if __name__ == "__main__":
    main(sys.argv[1:])
