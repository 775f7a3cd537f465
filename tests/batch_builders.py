# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""A survey of two patches, and runs of a pipeline on it by commands."""

from __future__ import annotations

__all__ = (
    "GRAPH_OPTIONS",
    "INPUTS",
    "N_POSITIONS",
    "PATCHES",
    "PIPELINE",
    "Contents",
    "assert_consistent",
    "assert_equal_contents",
    "bps",
    "execute",
    "make_survey",
    "pipetask_command",
    "read_contents",
)

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from lsst.daf.butler import Butler
from lsst.meas.tno.simulation import SimulateSurveyConfig, simulate_survey

ROOT = Path(__file__).parents[1]
PIPELINE = str(ROOT / "pipelines" / "BuildTrainingSet.yaml")
INPUTS = "TnoSim/defaults,tno/orbits"
N_VISITS, N_POSITIONS = 4, 10
OPTIONS = (
    f"parameters:nTimes={N_VISITS}",
    "parameters:cutoutSize=28",
    f"extractCutouts:n_positions={N_POSITIONS}",
    "extractCutouts:htm_level=15",
)
GRAPH_OPTIONS = tuple(word for option in OPTIONS for word in ("-c", option))
"""Settings of the tasks, for `pipetask` and for `bps`."""

PATCHES = "skymap='tno_sim'"
"""Data query of all there is."""

type Contents = dict[tuple[str, tuple[object, ...]], pa.Table | None]
"""What a run has by dataset type and data ID: its tables, and None for
other datasets.
"""


def make_survey(root: Path) -> Path:
    """Simulate a survey as small as can be, and draw orbits."""
    config = SimulateSurveyConfig()
    config.n_visits, config.visit_interval, config.bands = N_VISITS, 480.0, ["r"]
    config.n_detectors_y = config.n_patches_y = 1
    config.n_patches_x = 2
    config.detector_width, config.detector_height = 400, 260
    config.dither_radius, config.tract_margin, config.n_objects = 2.0, 1.0, 1
    config.make_difference_images = False
    simulate_survey(str(root), config)
    execute("butler", "ingest-tno-orbits", str(root), "--synthetic", "100")
    return root


def execute(name: str, *arguments: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run a command, and see that it ends with a status."""
    folder = Path(sys.executable).parent
    # bps finds pipetask there.
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(
        [str(folder / name), *arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert status in (None, result.returncode), result.stderr
    return result


def pipetask_command(repo: Path, run: str, *arguments: str, query: str = PATCHES) -> list[str]:
    """Return the arguments of `pipetask` that run the pipeline."""
    command = ["--long-log", "run", "-b", str(repo), "-i", INPUTS, "--output-run", run]
    command += ["-p", PIPELINE, "-d", query, "--register-dataset-types"]
    return [*command, *GRAPH_OPTIONS, *arguments]


def bps(
    what: str, repo: Path, config: Path, run: str, *, query: str, graph_options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Prepare or submit the pipeline."""
    options = " ".join((*GRAPH_OPTIONS, *graph_options))
    command = [what, str(config), "-b", str(repo), "-i", INPUTS, "-o", "u/test/batch", "--output-run", run]
    return execute("bps", *command, "-p", PIPELINE, "-d", query, "--extra-qgraph-options", options)


def read_contents(repo: Path, run: str, *, skip_unreadable: bool = False) -> Contents:
    """Return all that can be read of a run."""
    contents: Contents = {}
    with Butler.from_config(str(repo)) as butler:
        if run not in butler.collections.query("*"):
            return contents
        (info,) = butler.collections.query_info(run, include_summary=True)
        for name in sorted(info.dataset_types or ()):
            is_table = name.startswith("tno_")
            for ref in butler.query_datasets(name, collections=run, explain=False):
                try:
                    value = butler.get(ref, storageClass="ArrowTable") if is_table else butler.get(ref)
                except FileNotFoundError:
                    if not skip_unreadable:
                        raise
                    continue
                contents[name, ref.dataId.required_values] = value if is_table else None
    return contents


def assert_equal_contents(contents: Contents, expected: Contents) -> None:
    """Assert that runs have the same datasets, and the same tables."""
    assert contents.keys() == expected.keys()
    assert_consistent(contents, expected)


def assert_consistent(contents: Contents, expected: Contents) -> None:
    """Assert that all that there is of a run is as in another."""
    assert contents.keys() <= expected.keys()
    for key, table in contents.items():
        assert table is None or serialized(table) == serialized(expected[key]), key


def serialized(table: pa.Table | None) -> bytes:
    """Return a table's bytes. NaN is equal to NaN."""
    assert table is not None
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()
