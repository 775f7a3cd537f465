# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of the subcommands of ``butler``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lsst.daf.butler import Butler
from lsst.meas.tno.cli import get_cli_subcommands

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
