# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of the subcommands of ``butler`` that take something out of a
repository.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner, Result
from export_builders import COLLECTION, make_repository
from nn_builders import untrained_classifier
from orbit_builders import orbit_table
from PIL import Image

from lsst.daf.butler import Butler, DatasetType
from lsst.meas.tno.cli import get_cli_subcommands
from lsst.meas.tno.nn.classifier import classifier_to_table

SEQUENCES, CANDIDATES, CLASSIFIERS = (
    "export-tno-sequences",
    "export-tno-candidates",
    "list-tno-classifiers",
)
BUTLER = Path(sys.executable).with_name("butler")
PATCH_0 = "skymap='map' AND tract=3 AND patch=0"


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_repository(tmp_path_factory.mktemp("data") / "repo")


def invoke(command: str, *args: object) -> Result:
    commands = {c.name: c for c in get_cli_subcommands()}
    return CliRunner().invoke(commands[command], [str(arg) for arg in args])


def export(*args: object, collection: str = COLLECTION) -> Result:
    return invoke(SEQUENCES, *args, "-i", collection)


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_fails(result: Result, *parts: str) -> None:
    assert result.exit_code == 1, result.output
    assert result.output.startswith("Error: "), result.output
    assert result.output.count("\n") == 1
    assert all(part in result.output for part in parts), result.output


@pytest.mark.parametrize("command", [c.name for c in get_cli_subcommands()])
def test_help_shows_an_example_and_the_status(command: str) -> None:
    output = invoke(command, "--help").output
    assert f"butler {command} REPO" in output
    assert "--debug" in output
    assert "Status: 0" in output


def test_cubes_of_all_sequences(repo: str, tmp_path: Path) -> None:
    result = export(repo, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Wrote 6 files" in result.output
    assert files_of(tmp_path / "out") == [
        f"3_{patch}_00000{row}.fits" for patch in (0, 1) for row in range(3)
    ]
    with fits.open(tmp_path / "out" / "3_0_000001.fits") as hdus:
        assert hdus[0].shape == (10, 15, 15)
        # Its candidate is there, but no truth.
        assert "candidate_x" in hdus["IMAGES"].columns.names
        assert "injected_x" not in hdus["IMAGES"].columns.names


def test_files_that_exist_are_kept_unless_told(repo: str, tmp_path: Path) -> None:
    assert export(repo, tmp_path, "--format", "png", "--limit", 2).exit_code == 0
    (tmp_path / "3_0_000000.png").write_text("mine")
    result = export(repo, tmp_path, "--format", "png", "--limit", 4)
    assert "Wrote 2 files" in result.output
    assert "kept 2 that exist" in result.output
    assert (tmp_path / "3_0_000000.png").read_text() == "mine"
    assert "Wrote 4" in export(repo, tmp_path, "--format", "png", "--limit", 4, "--overwrite").output
    with Image.open(tmp_path / "3_0_000000.png") as image:
        image.load()
    assert len(files_of(tmp_path)) == 4


def test_best_candidates_first(repo: str, tmp_path: Path) -> None:
    # Of both patches, the first sequence has the highest logit.
    assert export(repo, tmp_path, "--select", "candidates", "--limit", 2, "--format", "gif").exit_code == 0
    assert files_of(tmp_path) == ["3_0_000000.gif", "3_1_000000.gif"]
    with Image.open(tmp_path / "3_1_000000.gif") as image:
        assert image.n_frames == 12


def test_choice_of_sequences(repo: str, tmp_path: Path) -> None:
    injected = ("--dataset-type", "tno_sequences_injected", "--select", "injected")
    assert export(repo, tmp_path, *injected, "-d", PATCH_0, "--sequence-id", 2).exit_code == 0
    assert files_of(tmp_path) == ["3_0_000002.fits"]
    with fits.open(tmp_path / "3_0_000002.fits") as hdus:
        assert {"injected_x", "candidate_x"} <= set(hdus["IMAGES"].columns.names)


def test_one_file_per_image(repo: str, tmp_path: Path) -> None:
    result = export(repo, tmp_path, "--one-file-per-image", "--sequence-id", 1, "-d", PATCH_0)
    assert result.exit_code == 0, result.output
    assert files_of(tmp_path)[0] == "3_0_000001/000_0_0.fits"
    assert len(files_of(tmp_path)) == 10


def test_images_on_other_pixels_make_no_cube(copied: str, tmp_path: Path) -> None:
    tables = read_patch(copied)
    tables["tno_sequences"]["centre_ra"][:, 1] += 0.001
    for table in tables.values():
        table["patch"] = 2
    add_patch(copied, "map", 2, tables)
    query = ("-d", "skymap='map' AND patch=2")
    assert_fails(export(copied, tmp_path / "x", *query), "make no cube", "by --one-file-per-image")
    assert not (tmp_path / "x").exists()
    assert export(copied, tmp_path / "x", *query, "--one-file-per-image").exit_code == 0


def test_arrays_of_each_patch(repo: str, tmp_path: Path) -> None:
    options = ("--format", "npz", "--dataset-type", "tno_sequences_injected")
    assert "Wrote 2 files" in export(repo, tmp_path, *options).output
    assert "Wrote 0 files" in export(repo, tmp_path, *options).output
    with np.load(tmp_path / "tno_sequences_injected_3_1.npz") as arrays:
        assert arrays["image"].shape == (3, 12, 15, 15)
        assert arrays["injected"].all()


def test_table_of_candidates(repo: str, tmp_path: Path) -> None:
    formats = {"ecsv": "ascii.ecsv", "vot": "votable", "parquet": None}
    tables = {}
    for suffix, table_format in formats.items():
        path = tmp_path / f"candidates.{suffix}"
        result = invoke(CANDIDATES, repo, path, "-i", COLLECTION)
        assert result.exit_code == 0, result.output
        assert "Wrote 6 candidates" in result.output
        if table_format is not None:
            tables[suffix] = Table.read(path, format=table_format)
            assert tables[suffix]["ra"].unit == "deg"
    assert list(tables["ecsv"]["logit"]) == sorted(tables["ecsv"]["logit"], reverse=True)
    assert tables["vot"]["covariance"].shape == (6, 4, 4)
    arrow = pyarrow.parquet.read_table(tmp_path / "candidates.parquet")
    for table in tables.values():
        np.testing.assert_array_equal(table["ra"], arrow["ra"].to_numpy())
    assert "exists; --overwrite" in invoke(CANDIDATES, repo, path, "-i", COLLECTION).output
    limited = invoke(CANDIDATES, repo, path, "-i", COLLECTION, "--limit", 1, "--overwrite", "--min-logit", 3)
    assert "Wrote 1 candidates" in limited.output
    for suffix in formats:
        args = (CANDIDATES, repo, tmp_path / f"none.{suffix}", "-i", COLLECTION, "--min-logit", 99)
        assert "Wrote 0 candidates" in invoke(*args).output


def test_known_objects_among_candidates(repo: str, tmp_path: Path) -> None:
    with Butler.from_config(repo, run="orbits", writeable=True) as butler:
        butler.registry.registerDatasetType(
            DatasetType("tno_orbits", (), "ArrowAstropy", universe=butler.dimensions)
        )
        butler.put(orbit_table(name=["far away"]), "tno_orbits")
    args = (CANDIDATES, repo, tmp_path / "c.ecsv", "-i", COLLECTION, "--orbits", "orbits")
    result = invoke(*args)
    assert result.exit_code == 0, result.output
    assert "0 are known objects" in result.output
    table = Table.read(tmp_path / "c.ecsv")
    assert np.all(np.isnan(table["known_separation"]))
    assert not any(table["known_name"])
    assert_fails(invoke(*args[:-1], COLLECTION, "--overwrite"), "no tno_orbits in u/test/search")


def test_astrometry_for_the_minor_planet_center(repo: str, tmp_path: Path) -> None:
    path = tmp_path / "candidates.psv"
    args = (CANDIDATES, repo, path, "-i", COLLECTION, "--submitter", "A. Tester")
    # 12, 10 and 12 images in each patch.
    assert "Wrote 68 positions of 6 candidates" in invoke(*args).output
    # In groups of up to 5.
    assert "Wrote 16 positions" in invoke(*args, "--stack", 5, "--overwrite", "--observer", "B").output
    assert path.read_text().count("\n! name B\n") == 1
    assert_fails(invoke(*args[:5], "--overwrite"), "give --submitter")
    assert_fails(invoke(*args, "--overwrite", "--min-logit", 99), "no candidates to measure")
    assert_fails(
        invoke(*args, "--overwrite", "--dataset-type", "tno_candidates_injected"), "injected objects"
    )
    assert_fails(invoke(*args[:2], tmp_path / "b.psv", *args[3:], "--station", "?"), "'?' is no code")
    assert files_of(tmp_path) == ["candidates.psv"]


def test_classifiers_are_listed(tmp_path: Path) -> None:
    root = str(tmp_path / "repo")
    Butler.makeRepo(root)
    assert_fails(invoke(CLASSIFIERS, root), "There is no tno_classifier")
    with Butler.from_config(root, run="u/test/net", writeable=True) as butler:
        definition = DatasetType("tno_classifier", (), "ArrowTable", universe=butler.dimensions)
        butler.registry.registerDatasetType(definition)
        butler.put(classifier_to_table(untrained_classifier()), "tno_classifier")
        butler.collections.register("u/test/odd")
        butler.put(pyarrow.table({"name": ["no classifier"]}), "tno_classifier", run="u/test/odd")
    lines = invoke(CLASSIFIERS, root).output.splitlines()
    assert lines[0].split()[:3] == ["run", "architecture", "images"]
    assert lines[1].split()[:6] == ["u/test/net", "conv3d", "8", "9", "x", "9"]
    assert "cannot be read" in lines[2]
    (described,) = json.loads(invoke(CLASSIFIERS, root, "-i", "u/test/net", "--json").output)
    assert described["run"] == "u/test/net"
    assert described["architecture"]["name"] == "conv3d"


Arguments = Callable[[str, Path], list[object]]


@pytest.mark.parametrize(
    ("command", "arguments", "parts"),
    [
        (SEQUENCES, lambda repo, out: ["/none", out / "x"], ["/none is no butler repository"]),
        (CANDIDATES, lambda repo, out: ["/none", out / "x.ecsv"], ["/none is no butler repository"]),
        (SEQUENCES, lambda repo, out: [repo, out / "x", "-d", "skymap='none'"], ["for skymap='none'"]),
        (SEQUENCES, lambda repo, out: [repo, out / "x", "-d", "sky = = 1"], ["parse expression"]),
        (CANDIDATES, lambda repo, out: [repo, out / "x.ecsv", "-d", "sky=1"], ["identifier 'sky'"]),
        (
            SEQUENCES,
            lambda repo, out: [repo, out / "x", "--dataset-type", "tno_nothing"],
            ["no tno_nothing in u/test/search"],
        ),
        (
            CANDIDATES,
            lambda repo, out: [repo, out / "x.ecsv", "--dataset-type", "tno_sequences"],
            ["tno_sequences has no candidates", "Columns"],
        ),
        (
            SEQUENCES,
            lambda repo, out: [repo, out / "x", "--select", "injected"],
            ["try --dataset-type tno_sequences_injected"],
        ),
        (SEQUENCES, lambda repo, out: [repo, out / "x", "--sequence-id", 9], ["no such sequences in 2"]),
        (
            SEQUENCES,
            lambda repo, out: [repo, out / "x", "--format", "png", "--one-file-per-image"],
            ["for --format fits, not png"],
        ),
        (SEQUENCES, lambda repo, out: [repo, out / "x", "--range", "2", "1"], ["--range"]),
        (CANDIDATES, lambda repo, out: [repo, out / "x.txt"], ["x.txt", "--format"]),
        (CANDIDATES, lambda repo, out: [repo, out], ["is a folder"]),
        (CANDIDATES, lambda repo, out: [repo, out / "none" / "x.ecsv"], ["none/x.ecsv: No such file"]),
        (SEQUENCES, lambda repo, out: [repo, "/proc/none"], ["/proc/none"]),
        (CANDIDATES, lambda repo, out: [repo, "/proc/none.ecsv"], ["/proc/none.ecsv"]),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    repo: str, tmp_path: Path, command: str, arguments: Arguments, parts: list[str]
) -> None:
    assert_fails(invoke(command, *arguments(repo, tmp_path), "-i", COLLECTION), *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [SEQUENCES, CANDIDATES, CLASSIFIERS])
def test_unknown_collections(repo: str, tmp_path: Path, command: str) -> None:
    out = [] if command == CLASSIFIERS else [tmp_path / "x.ecsv"]
    assert_fails(invoke(command, repo, *out, "-i", "u/none"), "no collection u/none; it has u/test/search")
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_has_another_status(repo: str, tmp_path: Path) -> None:
    for args in ((repo, tmp_path, "-i", "a", "--format", "jpg"), (repo, tmp_path), (repo,)):
        assert invoke(SEQUENCES, *args).exit_code == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folders_without_permission(repo: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert_fails(export(repo, tmp_path / "x"), "Permission denied")
    assert_fails(invoke(CANDIDATES, repo, tmp_path / "x.ecsv", "-i", COLLECTION), "x.ecsv: Permission denied")


@pytest.fixture
def copied(repo: str, tmp_path: Path) -> str:
    return shutil.copytree(repo, tmp_path / "copy")


def add_patch(repo: str, skymap: str, patch: int, tables: dict[str, Table]) -> None:
    with Butler.from_config(repo, run="u/test/run", writeable=True) as butler:
        size = {"tract_max": 10, "patch_nx_max": 10, "patch_ny_max": 10}
        records = {
            "skymap": {"name": skymap, "hash": skymap.encode(), **size},
            "tract": {"skymap": skymap, "id": 3},
            "patch": {"skymap": skymap, "tract": 3, "id": patch},
        }
        if skymap == "map":
            records = {"patch": records["patch"]}
        for element, record in records.items():
            butler.registry.insertDimensionData(element, record)
        for name, table in tables.items():
            butler.put(table, name, {"skymap": skymap, "tract": 3, "patch": patch})


def read_patch(repo: str) -> dict[str, Table]:
    with Butler.from_config(repo, collections=COLLECTION) as butler:
        data_id = {"skymap": "map", "tract": 3, "patch": 0}
        return {name: butler.get(name, data_id) for name in ("tno_sequences", "tno_candidates")}


def test_best_candidates_are_objects_of_their_own(copied: str, tmp_path: Path) -> None:
    tables = read_patch(copied)
    for table in tables.values():
        table["patch"] = 2
    add_patch(copied, "map", 2, tables)
    options = ("--select", "candidates", "--format", "png")
    assert "Wrote 6 files" in export(copied, tmp_path / "all", *options).output
    export(copied, tmp_path / "best", *options, "--limit", 2)
    assert files_of(tmp_path / "best") == ["3_0_000000.png", "3_1_000000.png"]


def test_patches_of_several_skymaps(copied: str, tmp_path: Path) -> None:
    add_patch(copied, "other", 0, read_patch(copied))
    out = tmp_path / "c.psv"
    candidates = (CANDIDATES, copied, out, "-i", COLLECTION, "--submitter", "A. Tester", "--stack", 5)
    assert_fails(export(copied, tmp_path / "x"), "several skymaps, map, other; choose one")
    assert_fails(invoke(*candidates), "several skymaps, map, other; choose one")
    assert "Wrote 16 positions" in invoke(*candidates, "-d", "skymap='map'").output
    assert "Wrote 3 files" in export(copied, tmp_path / "x", "-d", "skymap='other'").output


def test_repositories_that_cannot_be_opened(copied: str, tmp_path: Path) -> None:
    Path(copied, "gen3.sqlite3").write_text("damaged")
    file = tmp_path / "file"
    file.touch()
    for place in (copied, file):
        result = run_butler(CLASSIFIERS, place)
        assert result.returncode == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"Error: {place} cannot be opened as a butler repository: ")


def test_a_repository_whose_writer_was_killed(copied: str) -> None:
    before = run_butler(CLASSIFIERS, copied)
    expected = before.returncode, before.stdout, before.stderr
    leave_transaction(copied)
    result = run_butler(CLASSIFIERS, copied)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    begin, found, command = line.partition("python -c ")
    assert begin.startswith(f"Error: {copied} cannot be opened as a butler repository: a process was killed")
    assert found
    subprocess.run([sys.executable, "-c", *shlex.split(command)], check=True)
    result = run_butler(CLASSIFIERS, copied)
    assert (result.returncode, result.stdout, result.stderr) == expected


def leave_transaction(repo: str) -> None:
    """Kill a process that has written half a transaction to the database."""
    code = f"""
import os, signal, sqlite3
connection = sqlite3.connect({str(Path(repo, "gen3.sqlite3"))!r}, isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("CREATE TABLE half AS SELECT zeroblob(1000) FROM sqlite_master")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE half SET rowid = rowid + 1000000")
os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert Path(repo, "gen3.sqlite3-journal").stat().st_size > 0


def run_butler(*args: object, max_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``butler`` in a process that cannot write files larger than that."""

    def limit() -> None:
        if max_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))

    command = [str(BUTLER), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit)


@pytest.mark.parametrize("file_format", ["fits", "gif", "npz", "tar"])
def test_files_that_cannot_be_written_in_full(repo: str, tmp_path: Path, file_format: str) -> None:
    out = tmp_path / "out"
    result = run_butler(SEQUENCES, repo, out, "-i", COLLECTION, "--format", file_format, max_bytes=20_000)
    assert result.returncode == 1
    assert f"Error: {out}/" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(repo: str, tmp_path: Path) -> None:
    args = (SEQUENCES, repo, tmp_path / "out", "-i", "u/none")
    quiet, loud = run_butler(*args), run_butler(*args, "--debug")
    assert quiet.returncode == loud.returncode == 1
    assert len(quiet.stderr.splitlines()) == 1
    assert "Traceback" in loud.stderr
    assert loud.stderr.splitlines()[-1] == quiet.stderr.splitlines()[-1]


def complete(*words: str) -> list[str]:
    """Return what the shell would offer for the last word."""
    environment = {
        **os.environ,
        "_BUTLER_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("butler", *words)),
        "COMP_CWORD": str(len(words)),
    }
    result = subprocess.run([str(BUTLER)], env=environment, capture_output=True, text=True, check=False)
    return [line.split(",", 1)[1] for line in result.stdout.splitlines() if line]


def test_collections_are_completed(repo: str) -> None:
    assert complete(SEQUENCES, repo, "out", "-i", "u/test/s") == [COLLECTION]
    assert complete(CLASSIFIERS, repo, "-i", f"{COLLECTION},u/test/r") == [f"{COLLECTION},u/test/run"]
    assert complete(CLASSIFIERS, "/none", "-i", "u") == []
