# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
r"""What extracting image sequences costs: CPU time, memory, and what a second
process gains.

::

    python benchmarks/extract.py --folder DIR            # 3 GB
    python benchmarks/extract.py --folder DIR --parts reading memory

In the folder a survey of 4k x 4k images with lossy compression is simulated,
unless there is one. `reading` holds the cutouts of one image against reading
each by itself, and against reading the image once for all or once for each,
with images that are compressed in squares and in rows. The floor is
decompressing the rows that are needed, with astropy. `memory` has the peak of
a quantum. `processes` runs `pipetask` on four patches, extraction and warp,
with `run`, where a process that stores a table lets all others wait for the
database, with `run-qbb` and what belongs to it, both also with processes that
have imported the tasks when they begin, and, for what the machine can do,
twice at the same time on two repositories; nothing else should run then.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from astropy.io import fits
from timing import cpu_times, format_table

from lsst.daf.butler import Butler, DatasetRef, DatasetType, DeferredDatasetHandle, FileDataset
from lsst.images import Box, VisitImage
from lsst.images.fits import FitsCompressionOptions, FitsOpaqueMetadata
from lsst.images.fits import write as write_fits
from lsst.images.serialization import open_archive
from lsst.meas.tno.cutouts import cutout_origins, read_cutouts
from lsst.meas.tno.extraction import bytes_per_sequence
from lsst.meas.tno.simulation import SimulateSurveyConfig, simulate_survey
from lsst.meas.tno.tasks import PRELOAD, ExtractCutoutsConfig, ExtractCutoutsTask
from lsst.meas.tno.visits import OpenVisits

SIZE, PSF_SIZE, DETECTOR = 50, 25, 4096
"""Pixels of a cutout, of a PSF image and of a detector."""

N_TIMES = 50
"""Images of a sequence."""

COUNTS = (1, 10, 100, 500)
"""Numbers of positions on an image."""

SQUARES, ROWS = "TnoSim/defaults", "benchmark/rows"
"""Collections of images that are compressed in squares and in rows."""

OURS = "extraction, metadata included"
PARTIAL, FULL = "partial reads, lsst.images", "one full read"
OPEN = "partial reads, one open archive"
WHOLE = "butler.get of the whole for each"
"""Ways of reading that are held against each other."""

MEGABYTE = 1e6


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="Folder of the survey.")
    parser.add_argument("--visits", type=int, default=100, help="Visits of a survey that is simulated.")
    parser.add_argument("--repeats", type=int, default=3, help="Repeats; the fastest counts.")
    parts = ("reading", "memory", "processes")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="What to measure.")
    args = parser.parse_args()
    repository = str(make_survey(args.folder, args.visits))
    if "reading" in args.parts:
        for tiles, collection in (("256x256", SQUARES), ("rows", ROWS)):
            with Butler.from_config(repository, collections=collection) as butler:
                print_reading(tiles, measure_reading(butler, args.repeats))
    if "memory" in args.parts:
        print_memory(repository)
    if "processes" in args.parts:
        print_processes(repository, args.folder)


def make_survey(folder: Path, n_visits: int) -> Path:
    """Simulate a survey, and compress one of its images in rows."""
    repository = folder / "repo"
    if not repository.exists():
        config = SimulateSurveyConfig()
        config.detector_width = config.detector_height = DETECTOR
        config.n_detectors_y, config.n_visits, config.bands = 1, n_visits, ["r"]
        config.make_difference_images = False
        simulate_survey(repository, config)
    with Butler.from_config(repository, collections=SQUARES, writeable=True) as butler:
        if ROWS not in butler.collections.query("*"):
            write_rows(butler, butler.query_datasets("visit_image", limit=1)[0], folder)
    return repository


def write_rows(butler: Butler, ref: DatasetRef, folder: Path) -> None:
    """Write an image once more, as lsst.images compresses by default."""
    image = butler.get(ref)
    image._opaque_metadata = FitsOpaqueMetadata()
    options = dict.fromkeys(("image", "variance"), FitsCompressionOptions.LOSSY)
    path = folder / "rows.fits"
    write_fits(image, path, compression_options=options, compression_seed=1)
    butler.collections.register(ROWS)
    rows = DatasetRef(
        DatasetType.from_simple(ref.datasetType.to_simple(), butler.dimensions), ref.dataId, ROWS
    )
    butler.ingest(FileDataset(path=str(path), refs=[rows]), transfer="move")


def measure_reading(butler: Butler, repeats: int) -> dict[int, dict[str, float]]:
    """Return the CPU time of each cutout, s, by the number of positions and
    the way of reading.
    """
    ref = butler.query_datasets("visit_image", limit=1)[0]
    handle, path = butler.getDeferred(ref), butler.getURI(ref).ospath
    rng = np.random.default_rng(1)
    times = {}
    for n in COUNTS:
        x, y = rng.uniform(SIZE, DETECTOR - SIZE, (2, n))
        boxes = [
            Box.factory[y0 : y0 + SIZE, x0 : x0 + SIZE]
            for x0, y0 in zip(*(cutout_origins(axis, SIZE).tolist() for axis in (x, y)), strict=True)
        ]
        few = boxes[:10]
        calls: dict[str, tuple[Callable[[], object], int]] = {
            OURS: (functools.partial(read_as_we_do, handle, x, y), n),
            "floor: rows that are needed, astropy": (functools.partial(decompress_rows, path, boxes), n),
            PARTIAL: (functools.partial(read_boxes, path, few), len(few)),
            OPEN: (functools.partial(read_boxes_at_once, path, few), len(few)),
            "butler.get(bbox)": (functools.partial(get_boxes, handle, few), len(few)),
        }
        if n == COUNTS[-1]:
            calls |= {FULL: (functools.partial(read_whole, path), 1), WHOLE: (handle.get, 1)}
        measured = cpu_times(
            {name: call for name, (call, _) in calls.items()}, repeats * (5 if n < 50 else 1)
        )
        times[n] = {name: measured[name] / count for name, (_, count) in calls.items()}
    for n in COUNTS:
        times[n] |= {FULL: measured[FULL] / n, WHOLE: measured[WHOLE]}
    return times


def read_as_we_do(handle: DeferredDatasetHandle, x: np.ndarray, y: np.ndarray) -> None:
    """Read metadata, then cutouts about positions, with PSFs, as the task."""
    with OpenVisits() as visits:
        metadata = visits.read_metadata(handle)
        with visits.read(handle) as visit:
            read_cutouts(
                visit, metadata, x, y, size=SIZE, psf_size=PSF_SIZE, bad_planes=["BAD", "COSMIC_RAY"]
            )


def read_boxes(path: str, boxes: list[Box]) -> None:
    """Read boxes of an image that is opened for each."""
    for box in boxes:
        read_boxes_at_once(path, [box])


def read_boxes_at_once(path: str, boxes: list[Box]) -> None:
    """Read boxes of an image that is opened once."""
    with open_archive(path, cls=VisitImage, partial=True) as reader:
        for box in boxes:
            reader.get_component("masked_image", bbox=box)


def read_whole(path: str) -> None:
    """Read an image."""
    with open_archive(path, cls=VisitImage) as reader:
        reader.read()


def get_boxes(handle: DeferredDatasetHandle, boxes: list[Box]) -> None:
    """Ask a butler for boxes of an image."""
    for box in boxes:
        handle.get(parameters={"bbox": box})


def decompress_rows(path: str, boxes: list[Box]) -> None:
    """Decompress the rows that boxes lie in, each once."""
    needed = np.zeros(DETECTOR + 2, dtype=bool)
    for box in boxes:
        needed[box.y.start + 1 : box.y.stop + 1] = True
    edges = np.flatnonzero(np.diff(needed)).reshape(-1, 2)
    with fits.open(path) as hdus:
        for name in ("IMAGE", "MASK", "VARIANCE"):
            for start, stop in edges.tolist():
                hdus[name].section[start:stop]


def print_reading(tiles: str, times: dict[int, dict[str, float]]) -> None:
    """Print what a cutout costs, and the ratios."""
    print(f"Reading a {DETECTOR} x {DETECTOR} image, tiles: {tiles}. CPU time of each cutout, ms")
    rows = [[name, *(f"{1e3 * times[n][name]:.2f}" for n in COUNTS)] for name in times[1]]
    print(format_table(["positions", *map(str, COUNTS)], rows))
    one, many = times[COUNTS[0]], times[COUNTS[-1]]
    print(f"1 position: {one[OURS] / one[PARTIAL]:.2f} partial reads")
    full, allowed = many[FULL], 1.3 * many[FULL] + 0.3e-3
    print(
        f"{COUNTS[-1]} positions: {many[OURS] / full:.2f} full reads, or {many[OURS] / allowed:.2f} of "
        "(1.3 full reads + 0.3 ms each)"
    )
    print(f"{many[WHOLE] / many[OURS]:.0f} times below one whole image for each\n")


def print_memory(repository: str) -> None:
    """Print the peaks of quanta that choose from few and many visits."""
    rows = []
    for n_visits, n_positions in ((50, 500), (500, 50)):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            peaks = pool.submit(measure_memory, repository, n_visits, n_positions).result()
        rows.append([f"{n_positions} positions, {n_visits} visits", *(f"{peak:.0f}" for peak in peaks)])
    print(f"Peak memory of a quantum, {N_TIMES} images a sequence, above what it begins with, MB")
    print(format_table(["", "sequences", "table", "extracting", "and writing"], rows))
    visit = DETECTOR**2 * (4 + 4 + 2) / MEGABYTE
    print(f"An image in memory, with variance and mask: {visit:.0f} MB\n")


def measure_memory(repository: str, n_visits: int, n_positions: int) -> tuple[float, ...]:
    """Return the number of sequences, the size of their table, and the peaks
    before and after it is written, MB.
    """
    butler = Butler.from_config(repository, collections=SQUARES)
    refs = butler.query_datasets("visit_image", order_by="visit")
    with butler.query() as query:
        patch = next(iter(query.dimension_records("patch")))
    where = {"region": patch.region, "tract": patch.tract, "patch": patch.id}
    make_task(1, 1).run([butler.getDeferred(refs[0])], **where)
    begin = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    # What the task takes as many visits may be the same few, time and again,
    # each with a handle of its own.
    chosen = [butler.getDeferred(refs[i % N_TIMES]) for i in range(n_visits)]
    cutouts = make_task(n_positions, N_TIMES).run(chosen, **where).cutouts
    peaks = [peak_memory() - begin]
    with tempfile.TemporaryDirectory() as folder:
        output = Butler.from_config(Butler.makeRepo(folder), writeable=True, run="run")
        output.registry.registerDatasetType(
            DatasetType("cutouts", (), "ArrowAstropy", universe=output.dimensions)
        )
        output.put(cutouts.to_arrow(), "cutouts")
    peaks.append(peak_memory() - begin)
    table = len(cutouts) * bytes_per_sequence(N_TIMES, SIZE, PSF_SIZE)
    return len(cutouts), *(size / MEGABYTE for size in (table, *peaks))


def make_task(n_positions: int, min_times: int) -> ExtractCutoutsTask:
    """Return a task that uses all visits of all nights alike."""
    config = ExtractCutoutsConfig()
    config.n_positions, config.n_times, config.min_times = n_positions, N_TIMES, min_times
    config.cutout_size, config.psf_size, config.windowing = SIZE, PSF_SIZE, "all"
    return ExtractCutoutsTask(config=config)


def peak_memory() -> int:
    """Return the largest memory of this process so far, bytes.

    `resource` would have that of the process that began this one, too.
    """
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def print_processes(repository: str, folder: Path) -> None:
    """Print how long four patches take in one process and in two, as soon as
    there is a graph, and what two processes can gain that share nothing.
    """
    preload = {PRELOAD: "1"}
    one, one_qbb = time_run(repository, folder, 1), time_run_qbb(repository, folder, 1)
    times = {
        "pipetask run": (one, time_run(repository, folder, 2)),
        f"pipetask run, {PRELOAD}=1": (one, time_run(repository, folder, 2, **preload)),
        "pipetask run-qbb": (one_qbb, time_run_qbb(repository, folder, 2)),
        f"pipetask run-qbb, {PRELOAD}=1": (one_qbb, time_run_qbb(repository, folder, 2, **preload)),
        "two pipetask run, a repository each": (one, time_two_runs(repository, folder)),
    }
    rows = [[way, f"{slow:.0f}", f"{fast:.0f}", f"{slow / fast:.2f}"] for way, (slow, fast) in times.items()]
    print("Four patches of 500 positions, extraction and warp")
    print(format_table(["", "one process, s", "two, s", "times faster"], rows))


def time_run(repository: str, folder: Path, n_processes: int, **variables: str) -> float:
    """Return how long ``pipetask run`` takes, with variables of the
    environment.
    """
    output, graph, log = make_graph(repository, folder, f"run{n_processes}")
    command = ["pipetask", "run", "-b", repository, "-g", graph, "--output-run", output]
    options = ["--register-dataset-types", *process_options(n_processes)]
    seconds = run([*command, *options], log, **variables)
    remove_run(repository, output)
    return seconds


def time_run_qbb(repository: str, folder: Path, n_processes: int, **variables: str) -> float:
    """Return how long ``pipetask run-qbb`` takes, with variables of the
    environment, and what must be done before and after it.
    """
    output, graph, log = make_graph(repository, folder, f"run-qbb{n_processes}")
    commands = [
        ["pipetask", "pre-exec-init-qbb", repository, graph],
        ["pipetask", "run-qbb", repository, graph, *process_options(n_processes)],
        ["butler", "transfer-from-graph", graph, repository, "--register-dataset-types"],
    ]
    seconds = sum(run(command, log, **variables) for command in commands)
    remove_run(repository, output)
    return seconds


def time_two_runs(repository: str, folder: Path) -> float:
    """Return how long ``pipetask run`` takes twice at the same time, each with
    half of the patches and a repository of its own.
    """
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(repository, copy)
    commands, logs = [], []
    for number, where in enumerate((repository, str(copy))):
        patches = f" AND patch IN ({2 * number}, {2 * number + 1})"
        output, graph, log = make_graph(where, folder, f"half{number}", patches)
        command = ["pipetask", "run", "-b", where, "-g", graph, "--output-run", output]
        commands.append([*command, "--register-dataset-types"])
        logs.append(log)
    begin = time.perf_counter()
    with ThreadPoolExecutor(2) as executor:
        list(executor.map(run, commands, logs))
    seconds = time.perf_counter() - begin
    remove_run(repository, "benchmark/half0")
    shutil.rmtree(copy)
    return seconds


def make_graph(repository: str, folder: Path, name: str, patches: str = "") -> tuple[str, str, Path]:
    """Return the name of a run, the file of its graph and that of its log."""
    output, graph, log = f"benchmark/{name}", str(folder / f"{name}.qg"), folder / f"{name}.log"
    log.unlink(missing_ok=True)
    remove_run(repository, output)
    options = ["-b", repository, "-i", SQUARES, "--output-run", output]
    options += ["-d", f"skymap='tno_sim'{patches}"]
    options += ["-p", "$MEAS_TNO_DIR/pipelines/Search.yaml#extractCutouts,warpCutouts"]
    for field, value in {"n_positions": 500, "windowing": "all", "max_table_size": 4.0}.items():
        options += ["-c", f"extractCutouts:{field}={value}"]
    run(["pipetask", "qgraph", *options, "--qgraph-datastore-records", "--save-qgraph", graph], log)
    return output, graph, log


def process_options(n_processes: int) -> list[str]:
    """Return the options for a number of processes."""
    return ["-j", str(n_processes), "--start-method", "forkserver"]


def remove_run(repository: str, name: str) -> None:
    """Remove a run with its files, if it is there."""
    with Butler.from_config(repository, writeable=True) as butler:
        # A pattern, since the name of a run that is not there is an error.
        butler.removeRuns(butler.collections.query(f"{name}*"))


def run(command: list[str], log: Path, **variables: str) -> float:
    """Run a command with variables of the environment, and return the time it
    takes, s.
    """
    begin = time.perf_counter()
    program = str(Path(sys.executable).with_name(command[0]))
    with log.open("a") as stream:
        subprocess.run(
            [program, *command[1:]],
            check=True,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
        )
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
