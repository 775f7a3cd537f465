# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of the report of a search."""

from __future__ import annotations

import base64
import html.parser
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table, vstack
from click.testing import CliRunner, Result
from export_builders import COLLECTION, make_repository
from nn_builders import untrained_classifier

from lsst.daf.butler import Butler, DatasetType
from lsst.meas.tno._columns import make_table
from lsst.meas.tno._schema import (
    DETECTION_EFFICIENCY_COLUMNS,
    SCORE_COLUMNS,
    TRAINING_HISTORY_COLUMNS,
)
from lsst.meas.tno.cli import get_cli_subcommands
from lsst.meas.tno.nn.classifier import classifier_to_table
from lsst.meas.tno.report._values import format_with_error
from lsst.meas.tno.tasks import FindCandidatesConfig
from lsst.pipe.base import TaskMetadata

PATCH = {"skymap": "map", "tract": 3, "patch": 0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_repository(tmp_path_factory.mktemp("data") / "repo")


@pytest.fixture
def repo(made: str, tmp_path: Path) -> str:
    """Return a copy, to be changed."""
    shutil.copytree(made, tmp_path / "repo")
    return str(tmp_path / "repo")


def report(repo: str, path: Path, *args: object, collection: str = COLLECTION) -> Result:
    (command,) = (c for c in get_cli_subcommands() if c.name == "report-tno-search")
    words = [repo, collection, "-o", path, "--no-match", *args]
    return CliRunner().invoke(command, [str(word) for word in words])


class Page(html.parser.HTMLParser):
    """What a test asks of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.pictures: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)
        if "id" in values:
            assert values["id"] not in self.ids
            self.ids.add(values["id"])
        if "href" in values:
            self.links.append(values["href"])
        if "src" in values:
            self.pictures.append(values["src"])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    @property
    def body(self) -> str:
        """What there is to read."""
        return " ".join(" ".join(self.words).split())


def read(path: Path) -> Page:
    """Return a page that is whole, and needs nothing else."""
    page = Page(path.read_text(encoding="utf-8"))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert all(picture.startswith("data:image/") for picture in page.pictures)
    assert not re.search(r"@import|url\(|<link|<iframe", page.text)
    return page


def put(repo: str, run: str, name: str, storage_class: str, content: object, **data_id: object) -> None:
    """Write to a run, which is made the first of the collection."""
    with Butler.from_config(repo, run=run, writeable=True) as butler:
        butler.registry.registerDatasetType(
            DatasetType(name, tuple(data_id), storage_class, universe=butler.dimensions)
        )
        butler.put(content, name, dict(data_id))
        children = butler.collections.get_info(COLLECTION).children
        butler.collections.redefine_chain(COLLECTION, list(dict.fromkeys([run, *children])))


def put_candidates(repo: str, n: int) -> None:
    """Let patch 0 have n candidates, and patch 1 have none."""
    with Butler.from_config(repo, collections=COLLECTION) as butler:
        table = butler.get("tno_candidates", PATCH)
    many = vstack([table[:1]] * max(n, 1), metadata_conflicts="silent")[:n]
    many["sequence_id"] = np.arange(n)
    many["ra"] = many["ra"] + 0.01 * np.arange(n)
    many["logit"] = np.linspace(20, 2, n).astype(np.float32)
    put(repo, "u/test/many", "tno_candidates", "ArrowAstropy", many, **PATCH)
    put(repo, "u/test/many", "tno_candidates", "ArrowAstropy", table[:0], **(PATCH | {"patch": 1}))


def test_candidates_with_pictures_and_errors(made: str, tmp_path: Path) -> None:
    result = report(made, tmp_path / "r.html", "--limit", 2)
    assert result.exit_code == 0, result.output
    assert "Wrote" in result.output
    page = read(tmp_path / "r.html")
    # An animation, mean images and a light curve of each, and a map.
    assert [picture.split(";")[0] for picture in page.pictures].count("data:image/gif") == 2
    assert len(page.pictures) == 2 * 3 + 1
    assert {"candidate-1", "candidate-2", "patch-3-0", "patch-3-1"} <= page.ids
    assert "candidate-3" not in page.ids
    assert page.text.count('<th scope="row">') == 6
    assert "skymap='map' AND tract=3 AND patch=1" in page.body
    assert "There is no classifier" in page.body
    assert "No detection efficiency" in page.body
    gif = next(picture for picture in page.pictures if "gif" in picture)
    assert base64.b64decode(gif.split(",")[1]).startswith(b"GIF89a")
    with Butler.from_config(made, collections=COLLECTION) as butler:
        best = butler.get("tno_candidates", PATCH)[0]
    assert format_with_error(float(best["flux"]), float(best["flux_err"])) + " nJy" in page.body


def test_no_candidate(repo: str, tmp_path: Path) -> None:
    put_candidates(repo, 0)
    assert report(repo, tmp_path / "r.html").exit_code == 0
    page = read(tmp_path / "r.html")
    assert "No candidate was found" in page.body
    assert "best" not in page.ids


def test_one_candidate(repo: str, tmp_path: Path) -> None:
    put_candidates(repo, 1)
    assert report(repo, tmp_path / "r.html").exit_code == 0
    page = read(tmp_path / "r.html")
    assert "The candidate" in page.body
    assert page.text.count('<th scope="row">') == 1


def test_a_thousand_candidates(repo: str, tmp_path: Path) -> None:
    put_candidates(repo, 1000)
    assert report(repo, tmp_path / "r.html", "--limit", 1).exit_code == 0
    page = read(tmp_path / "r.html")
    assert page.text.count('<th scope="row">') == 1000
    assert (tmp_path / "r.html").stat().st_size < 4e6
    assert report(repo, tmp_path / "r.html", "--limit", 0, "--max-rows", 5, "--overwrite").exit_code == 0
    page = read(tmp_path / "r.html")
    assert page.text.count('<th scope="row">') == 5
    assert "The 5 of the highest logit, of 1,000" in page.body


def test_data_query(made: str, tmp_path: Path) -> None:
    assert report(made, tmp_path / "r.html", "-d", "skymap='map' AND tract=3 AND patch=1").exit_code == 0
    page = read(tmp_path / "r.html")
    assert page.text.count('<th scope="row">') == 3
    assert "patch-3-0" not in page.ids


def test_provenance_classifier_and_efficiency(repo: str, tmp_path: Path) -> None:
    run = "u/test/run"
    config = FindCandidatesConfig()
    config.threshold = 3.25
    put(repo, run, "findCandidates_config", "Config", config)
    metadata = TaskMetadata.from_dict({"findCandidates": {"threshold": 3.25, "n_merged": 2.0}})
    for patch in (0, 1):
        data_id = PATCH | {"patch": patch}
        put(repo, run, "findCandidates_metadata", "TaskMetadata", metadata, **data_id)
    put(repo, run, "tno_classifier", "ArrowTable", classifier_to_table(untrained_classifier()))
    put(repo, run, "tno_training_history", "ArrowAstropy", rows(TRAINING_HISTORY_COLUMNS, 3))
    put(repo, run, "tno_scores", "ArrowAstropy", rows(SCORE_COLUMNS, 40), **PATCH)
    efficiency = rows(DETECTION_EFFICIENCY_COLUMNS, 1)
    efficiency["kind"], efficiency["quantity"] = ["fit"], ["m50"]
    efficiency["value"], efficiency["value_low"], efficiency["value_high"] = 24.61, 24.5, 24.7
    put(repo, run, "tno_detection_efficiency", "ArrowAstropy", efficiency, skymap="map")
    result = report(repo, tmp_path / "r.html", "--limit", 0)
    assert result.exit_code == 0, result.output
    page = read(tmp_path / "r.html")
    assert "threshold 3.25 0.0" in page.body
    assert "merged: 4" in page.body
    assert "Architecture conv3d" in page.body
    assert "24.61 (24.5 to 24.7)" in page.body
    # Map, scores, two of the training, four of the efficiency.
    assert len(page.pictures) == 8


def rows(columns: tuple, n: int) -> Table:
    """Return a table of small numbers."""
    values = {column: column.full(n, {}) for column in columns}
    for column, array in values.items():
        if array.dtype.kind in "fi":
            array[:] = 0.1 * np.arange(n) + 0.5
    return make_table(values.items())


def test_names_from_elsewhere_are_text(repo: str, tmp_path: Path) -> None:
    result = report(repo, tmp_path / "r.html", "--limit", 0, "-d", "skymap='map' AND tract<4")
    assert result.exit_code == 0, result.output
    assert "tract&lt;4" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["-d", "skymap='none'"], "nothing to report in u/test/search for skymap='none'"),
        (["-d", "sky = = 1"], "parse expression"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(made: str, tmp_path: Path, args: list[str], part: str) -> None:
    assert_fails(report(made, tmp_path / "r.html", *args), part)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_read_or_written(made: str, tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    assert_fails(report("/none", path), "/none is no butler repository")
    assert_fails(report(made, path, collection="u/none"), "no collection u/none")
    assert_fails(report(made, tmp_path), "is a folder")
    assert_fails(report(made, tmp_path / "none" / "r.html"), "No such file")
    assert list(tmp_path.iterdir()) == []
    path.write_text("mine")
    assert_fails(report(made, path), "exists; --overwrite")
    assert path.read_text() == "mine"


def test_page_that_cannot_be_written_in_full(made: str, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    words = ["report-tno-search", made, COLLECTION, "-o", str(page), "--limit", "1"]
    result = subprocess.run(
        [str(Path(sys.executable).with_name("butler")), *words],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"Error: {page}: ")
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def assert_fails(result: Result, part: str) -> None:
    assert result.exit_code == 1, result.output
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    assert part in result.output


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.23456, 0.0123, "1.235 ± 0.012"),
        (-250.0, 31.0, "\N{MINUS SIGN}250 ± 31"),
        (1.5, np.nan, "1.5"),
        (np.nan, 1.0, "–"),
        (12345.6, 1234.0, "12,346 ± 1,234"),
    ],
)
def test_numbers_with_errors(value: float, error: float, text: str) -> None:
    assert format_with_error(value, error) == text
