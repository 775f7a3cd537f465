# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of the subcommands of ``butler``."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lsst.daf.butler import Butler
from lsst.meas.tno.cli import get_cli_subcommands
from lsst.meas.tno.cli.simulate import _complete

SMALL = (
    *("-c", "n_visits=2", "-c", "n_detectors_y=1", "-c", "detector_width=128", "-c", "detector_height=128"),
    *("-c", "dither_radius=1", "-c", "tract_margin=1", "-c", "bands=[r]", "-j", "1"),
)


def invoke(*args: str) -> Result:
    (command,) = (c for c in get_cli_subcommands() if c.name == "simulate-tno-survey")
    return CliRunner().invoke(command, list(args))


def test_help_shows_an_example() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    assert "butler simulate-tno-survey REPO -c n_visits=24" in result.output


def test_subcommands_import_nothing_heavy() -> None:
    code = (
        "import sys; from lsst.meas.tno.cli import get_cli_subcommands; get_cli_subcommands(); "
        "print([m for m in ('galsim', 'piff', 'torch', 'lsst.images') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "[]"


def test_simulates_a_survey(tmp_path: Path) -> None:
    repo = str(tmp_path / "repo")
    (tmp_path / "config.py").write_text("config.n_objects = 1\nconfig.n_visits = 5\n")
    result = invoke(repo, *SMALL, "-C", str(tmp_path / "config.py"))
    assert result.exit_code == 0, result.output
    assert "Wrote 4 images of 2 visits" in result.output
    with Butler.from_config(repo, collections="TnoSim/defaults") as butler:
        assert len(butler.query_datasets("visit_image")) == 2
    again = invoke(repo, *SMALL)
    assert again.exit_code == 1
    assert again.output.startswith("Error: ")
    assert again.output.count("\n") == 1


def run_butler(*args: str, max_bytes: int) -> subprocess.CompletedProcess[str]:
    """Run ``butler`` in a process that cannot write files larger than that."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("butler")), *args],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes)),
    )


# Not enough for the images, and enough for them, but not for the registry.
@pytest.mark.parametrize("max_bytes", [20_000, 700_000])
def test_survey_that_cannot_be_written_in_full(tmp_path: Path, max_bytes: int) -> None:
    result = run_butler(
        "simulate-tno-survey", str(tmp_path / "a" / "repo"), *SMALL, "-c", "n_objects=1", max_bytes=max_bytes
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_repository_stays_as_it_was_if_a_survey_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = str(tmp_path / "repo")
    Butler.makeRepo(repo)
    args = (repo, *SMALL, "-c", "n_objects=1")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    # The last that is written, when all images are in the repository.
    with monkeypatch.context() as patch:
        patch.setattr("lsst.meas.tno.simulation._survey.make_truth_table", fail)
        result = invoke(*args)
    assert result.exit_code == 1
    assert result.output == "Error: No space left on device.\n"
    with Butler.from_config(repo) as butler:
        assert not list(butler.registry.queryDatasetTypes("*"))
        assert not list(butler.registry.queryDimensionRecords("instrument"))
        assert not butler.collections.query("*")
    assert list((tmp_path / "repo").rglob("*.fits")) == []
    # And it can be tried again.
    assert invoke(*args).exit_code == 0


@pytest.mark.parametrize("place", ["/proc/none", "{}/file/repo"])
def test_places_that_nothing_can_be_written_to(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    result = invoke(place.format(tmp_path), *SMALL)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system lets root write anywhere, so this asks another."""
    monkeypatch.setattr("lsst.meas.tno._output.os.access", lambda *args: False)
    monkeypatch.setattr("lsst.meas.tno.simulation.simulate_survey", pytest.fail)
    result = invoke(str(tmp_path), *SMALL)
    assert result.exit_code == 1
    assert result.output == f"Error: {tmp_path}: Permission denied.\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "field"),
    [
        ("n_visits=-1", "n_visits"),
        ("no_such_field=1", "no_such_field"),
        ("visit_interval=1", "exposure_time"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, option: str, field: str) -> None:
    result = invoke(str(tmp_path / "repo"), "-c", option)
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert field in result.output
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_there_is_filled_or_stays_empty(tmp_path: Path) -> None:
    # It may be where a disk is mounted, and cannot be replaced.
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    inode = folder.stat().st_ino

    def interrupt() -> None:
        with _complete(str(link)) as root:
            Path(root, "data").mkdir()
            Path(root, "data", "a").touch()
            Path(root, "b").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert list(folder.iterdir()) == []
    with _complete(str(link)) as root:
        Path(root, "a").touch()
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert folder.stat().st_ino == inode
    assert link.is_symlink()


_TERMINATED = """
import os, pathlib, signal, sys, time
from lsst.meas.tno._output import replacing
from lsst.meas.tno.cli.cmd._options import subcommand

@subcommand("end", short_help="End.", example="")
def end():
    with replacing(pathlib.Path(sys.argv[1])) as temporary:
        temporary.touch()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

end([])
"""


def test_what_is_terminated_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _TERMINATED, str(tmp_path / "file")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.strip() == "Aborted!"
    assert list(tmp_path.iterdir()) == []
