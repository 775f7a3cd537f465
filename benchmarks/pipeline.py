# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
r"""What the pipeline costs: CPU time, time and memory of each task, what a
second process gains, and from these what a tract and a data release cost.

::

    python benchmarks/pipeline.py --folder DIR                    # 2 GB
    python benchmarks/pipeline.py --folder DIR --runs --tracts 18000

In the folder a small survey is simulated, unless there is one, and all of
`Tno.yaml` is run on it in one process and in two. Costs are those in the
tasks' metadata. Memory is that of a process, from the last run with the most
processes: with two each quantum has its own, imports included.

The second command takes the costs of runs that are there. The model takes
costs to be proportional to sequences, but for reading images of 4k x 4k, which
is proportional to images; `extract.py` measures how long it takes.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from timing import format_table

from lsst.daf.butler import Butler, CollectionInfo
from lsst.meas.tno.simulation import SimulateSurveyConfig, simulate_survey
from lsst.pipe.base import TaskMetadata

SURVEY, ORBITS, OUTPUT = "TnoSim/defaults", "tno/orbits", "benchmark/pipeline"
"""Collections."""

RUN_TYPES = ("_metadata", "_log", "_config")
"""Ends of names of what a run has besides results."""

SEARCH = ("extractCutouts", "warpCutouts", "scoreSequences", "findCandidates")
"""Tasks of a search, each with one quantum a patch."""

MEGABYTE, GIGABYTE, HOUR = 1e6, 1e9, 3600.0


@dataclasses.dataclass
class Cost:
    """What the quanta of a task take."""

    cpu: list[float] = dataclasses.field(default_factory=list)
    """CPU time of each quantum, s."""

    wall: list[float] = dataclasses.field(default_factory=list)
    """Time of each quantum, s."""

    memory: float = 0.0
    """Largest peak of a process, bytes."""

    disk: float = 0.0
    """Size of all that is written, bytes."""

    startup: float = 0.0
    """CPU time before a quantum begins, s."""


def main() -> None:
    """Measure, and print."""
    args = parse_arguments()
    repository = make_survey(args.folder, args.visits)
    if args.runs:
        totals = {n: run_pipeline(repository, args, n) for n in args.runs}
        print_scaling(totals)
    costs = read_costs(repository)
    print_costs(costs)
    print_model(costs, args)


def parse_arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="Folder of the survey.")
    parser.add_argument("--visits", type=int, default=50, help="Visits of a survey that is simulated.")
    parser.add_argument("--positions", type=int, default=500, help="Sequences a patch.")
    parser.add_argument("--epochs", type=int, default=1, help="Epochs of the training.")
    parser.add_argument("--runs", type=int, nargs="*", default=[1, 2], help="Processes of each run.")
    parser.add_argument("--patches", type=int, default=100, help="Of a tract.")
    parser.add_argument("--tracts", type=int, default=1000, help="Of a data release.")
    parser.add_argument(
        "--images", type=int, default=150, help="Detectors' images of a patch, as of 50 visits, 3 of each."
    )
    parser.add_argument("--sequences", type=int, default=500, help="Of a patch, 50 images each.")
    parser.add_argument("--read-seconds", type=float, default=2.0, help="CPU time to read an image, s.")
    return parser.parse_args()


def make_survey(folder: Path, n_visits: int) -> Path:
    """Simulate a survey of two patches, and draw orbits."""
    repository = folder / "repo"
    if not repository.exists():
        config = SimulateSurveyConfig()
        config.detector_width, config.detector_height = 1024, 512
        config.n_detectors_y = config.n_patches_y = 1
        config.n_patches_x = 2
        config.n_visits, config.bands = n_visits, ["r"]
        config.make_difference_images = False
        simulate_survey(repository, config)
        run([executable("butler"), "ingest-tno-orbits", str(repository), "--synthetic", "1000"])
    return repository


def executable(name: str) -> str:
    """Return the path of a command of this Python."""
    return str(Path(sys.executable).parent / name)


def run(command: Sequence[str], log: Path | None = None) -> tuple[float, float]:
    """Run a command, and return the time and the CPU time that it takes, s."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with (log or Path(os.devnull)).open("w") as file:
        subprocess.run(command, check=True, stdout=file, stderr=subprocess.STDOUT)
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))


def run_pipeline(repository: Path, args: argparse.Namespace, n_processes: int) -> tuple[float, float]:
    """Run all of the pipeline, and return the time and CPU time, s."""
    command = [executable("pipetask"), "run", "-b", str(repository), "-i", f"{SURVEY},{ORBITS}"]
    command += ["-o", f"{OUTPUT}{n_processes}", "-j", str(n_processes), "--register-dataset-types"]
    command += ["-p", "resource://lsst.meas.tno/resources/pipelines/Tno.yaml", "-d", "skymap='tno_sim'"]
    for setting in (
        f"parameters:nTimes={min(args.visits, 50)}",
        f"extractCutouts:n_positions={args.positions}",
        # So little sky has all three splits only in small trixels.
        "extractCutouts:htm_level=14",
        f"trainClassifier:training.max_epochs={args.epochs}",
    ):
        command += ["-c", setting]
    return run(command, args.folder / f"processes{n_processes}.log")


def read_costs(repository: Path) -> dict[str, Cost]:
    """Return what each task of the last run took, in as many processes as
    there were at most, by label, the longest first.
    """
    costs: defaultdict[str, Cost] = defaultdict(Cost)
    with Butler.from_config(str(repository)) as butler:
        runs = butler.collections.query_info(f"{OUTPUT}*/*", include_summary=True)
        if not runs:
            raise SystemExit(f"There is no run in {repository}: leave --runs out.")
        run_collection = max(runs, key=order_of_run)
        for name in sorted(run_collection.dataset_types or ()):
            for ref in butler.query_datasets(name, collections=run_collection.name):
                if name.endswith("_metadata"):
                    add_quantum(costs[name.removesuffix("_metadata")], butler.get(ref)["quantum"])
                elif not name.endswith(RUN_TYPES) and name != "packages":
                    costs[WRITTEN_BY[name]].disk += butler.getURI(ref).size()
    return dict(sorted(costs.items(), key=lambda item: -sum(item[1].cpu)))


def order_of_run(info: CollectionInfo) -> tuple[int, str]:
    """Return the number of processes of a run, and when it was made."""
    n_processes, time = info.name.removeprefix(OUTPUT).split("/")
    return int(n_processes), time


def add_quantum(cost: Cost, metadata: TaskMetadata) -> None:
    """Add what a quantum took, of which metadata are given."""
    begin, end = (float(metadata.getScalar(f"{key}CpuTime")) for key in ("prep", "end"))
    first, last = (datetime.fromisoformat(str(metadata.getScalar(f"{key}Utc"))) for key in ("prep", "end"))
    cost.cpu.append(end - begin)
    cost.wall.append((last - first).total_seconds())
    cost.memory = max(cost.memory, float(metadata.getScalar("endMaxResidentSetSize")))
    cost.startup = max(cost.startup, begin)


WRITTEN_BY = {
    "tno_cutouts": "extractCutouts",
    "tno_cutouts_injected": "injectTnos",
    "tno_sequences": "warpCutouts",
    "tno_sequences_injected": "warpInjectedCutouts",
    "tno_ephemerides": "computeEphemerides",
    "tno_scores": "scoreSequences",
    "tno_scores_injected": "scoreInjectedSequences",
    "tno_candidates": "findCandidates",
    "tno_candidates_injected": "findInjectedCandidates",
    "tno_classifier": "trainClassifier",
    "tno_training_history": "trainClassifier",
    "tno_training_plot": "trainClassifier",
    "tno_detection_efficiency": "measureEfficiency",
    "tno_detection_efficiency_plot": "measureEfficiency",
}
"""Tasks by what they write."""


def print_scaling(totals: dict[int, tuple[float, float]]) -> None:
    """Print how long runs in several processes took."""
    first = next(iter(totals.values()))[0]
    rows = [[str(n), f"{wall:.0f}", f"{cpu:.0f}", f"{first / wall:.2f}"] for n, (wall, cpu) in totals.items()]
    print(format_table(["processes", "time, s", "CPU time, s", "times faster"], rows), end="\n\n")


def print_costs(costs: dict[str, Cost]) -> None:
    """Print what each task takes."""
    rows = [
        [
            label,
            str(len(cost.cpu)),
            *(f"{sum(values) / len(values):.1f}" for values in (cost.cpu, cost.wall)),
            f"{cost.startup:.1f}",
            f"{cost.memory / MEGABYTE:.0f}",
            f"{cost.disk / len(cost.cpu) / MEGABYTE:.2f}",
        ]
        for label, cost in costs.items()
    ]
    header = ["of each quantum", "quanta", "CPU, s", "time, s", "startup CPU, s", "peak, MB", "written, MB"]
    print(format_table(header, rows), end="\n\n")


def print_model(costs: dict[str, Cost], args: argparse.Namespace) -> None:
    """Print what a search of a tract and of a data release takes."""
    share = args.sequences / args.positions
    cpu = {label: sum(costs[label].cpu) / len(costs[label].cpu) * share for label in SEARCH}
    cpu["reading"] = args.images * args.read_seconds
    cpu["startup"] = sum(costs[label].startup for label in SEARCH)
    disk = {label: costs[label].disk / len(costs[label].cpu) * share for label in SEARCH}
    kept = sum(disk.values()) - disk["extractCutouts"]
    counts = {"patch": 1, "tract": args.patches, "data release": args.patches * args.tracts}
    rows = [
        [
            name,
            f"{n * len(SEARCH):,}",
            f"{n * sum(cpu.values()) / HOUR:,.2f}",
            *(f"{n * size / GIGABYTE:,.2f}" for size in (sum(disk.values()), kept)),
        ]
        for name, n in counts.items()
    ]
    print(f"A search of {args.sequences} sequences and {args.images} images a patch")
    header = ["", "quanta", "CPU, hours", "disk, GB", "without cutouts, GB"]
    print(format_table(header, rows))
    parts = ", ".join(f"{name} {100 * value / sum(cpu.values()):.0f} %" for name, value in cpu.items())
    print(f"CPU time: {parts}")


if __name__ == "__main__":
    main()
