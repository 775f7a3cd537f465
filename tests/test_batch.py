# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Batch submission with `config/bps/`, and runs again of what is missing."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from batch_builders import (
    GRAPH_OPTIONS,
    INPUTS,
    PATCHES,
    PIPELINE,
    assert_equal_contents,
    bps,
    execute,
    make_survey,
    pipetask_command,
    read_contents,
)

import lsst.meas.tno.tasks
from lsst.daf.butler import Butler
from lsst.meas.tno import SCHEMAS
from lsst.meas.tno.tasks import PRELOAD
from lsst.pipe.base import Pipeline

CONFIG = Path(__file__).parents[1] / "config" / "bps"
TASKS = Path(lsst.meas.tno.tasks.__file__).parent
LABELS = set(Pipeline.from_uri("resource://lsst.meas.tno/resources/pipelines/Tno.yaml").task_labels)
ONE_PATCH = f"{PATCHES} AND patch=0"
REQUESTS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())["pipetask"]
REFERENCE = "u/test/reference"
AGAIN = ("--extend-run", "--skip-existing", "--clobber-outputs")


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """Return a survey on which `REFERENCE` has been run."""
    survey = make_survey(tmp_path_factory.mktemp("survey") / "repo")
    execute("pipetask", *pipetask_command(survey, REFERENCE))
    return survey


def test_every_task_has_a_request_of_memory():
    assert set(REQUESTS) == LABELS
    for request in REQUESTS.values():
        assert 512 <= request["requestMemory"] <= 16384


@pytest.mark.slow
def test_htcondor_submission_is_prepared(survey, tmp_path, monkeypatch):
    pytest.importorskip("lsst.ctrl.bps.htcondor", reason="needs lsst-ctrl-bps-htcondor")
    _work_in(tmp_path, monkeypatch)
    bps("prepare", survey, CONFIG / "htcondor.yaml", "u/test/htcondor", query=ONE_PATCH)
    (submit,) = (tmp_path / "submit").rglob("*extractCutouts_0_0*.sub")
    assert f"min({{max({{{REQUESTS['extractCutouts']['requestMemory']}, " in submit.read_text()


PREPARE_WITHOUT_SERVER = """
import json, sys
from lsst.ctrl.bps.drivers import prepare_driver
config, workflow = prepare_driver(sys.argv[1], runWmsSubmissionChecks=False, **json.loads(sys.argv[2]))
works = workflow.idds_client_workflow.get_all_works()
requests = {work.task_name.split("_")[-2]: (work.task_rss, work.maxWalltime) for work in works}
print("REQUESTS", json.dumps(requests))
"""
"""`bps prepare`, but for asking the server whether it is there."""


@pytest.mark.slow
def test_panda_submission_is_prepared(survey, tmp_path, monkeypatch):
    if not all(_is_installed(name) for name in ("lsst.ctrl.bps.panda", "pandaclient", "idds.doma")):
        pytest.skip("needs lsst-ctrl-bps-panda")
    _work_in(tmp_path, monkeypatch)
    (tmp_path / "shared").mkdir()
    for name in ("SITE", "SHARED", "SETUP"):
        monkeypatch.setenv(f"TNO_{name}", str(tmp_path / name.lower()))
    # The client looks up its server's address when it is imported.
    for name in ("PANDA_URL", "PANDA_URL_SSL", "PANDACACHE_URL"):
        monkeypatch.setenv(name, "https://localhost:25443/server/panda")
    options = {
        "butler_config": str(survey),
        "input": INPUTS,
        "output": "u/test/batch",
        "output_run": "u/test/panda",
        "pipeline": PIPELINE,
        "data_query": ONE_PATCH,
        "extra_qgraph_options": " ".join(GRAPH_OPTIONS),
    }
    python = Path(sys.executable).name
    result = execute(python, "-c", PREPARE_WITHOUT_SERVER, str(CONFIG / "panda.yaml"), json.dumps(options))
    memory, seconds = json.loads(result.stdout.split("REQUESTS")[-1])["extractCutouts"]
    assert memory == REQUESTS["extractCutouts"]["requestMemory"]
    assert seconds >= 3600


def _work_in(folder, monkeypatch):
    """Change the folder, and what the shell has as its name, which bps uses
    to place its own.
    """
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PWD", str(folder))


def _is_installed(name):
    """Tell without importing it, which may need a network."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("asked", ["", "1"])
def test_processes_are_forked_with_the_tasks_imported_if_asked_for(asked, monkeypatch):
    monkeypatch.setenv(PRELOAD, asked)
    code = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
import lsst.meas.tno.tasks
with ProcessPoolExecutor(1, get_context("forkserver")) as executor:
    print(*executor.submit(eval, "[*__import__('sys').modules]").result())
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    expected = {"lsst.ctrl.mpexec.cli.pipetask", "lsst.daf.butler.direct_butler"}
    expected |= {f"lsst.meas.tno.tasks.{path.stem}" for path in TASKS.glob("[!_]*.py")}
    assert expected & set(result.stdout.split()) == (expected if asked else set())


@pytest.mark.slow
def test_preloaded_processes_give_the_same(survey, monkeypatch):
    monkeypatch.setenv(PRELOAD, "1")
    options = ("-j", "2", "--start-method", "forkserver")
    execute("pipetask", *pipetask_command(survey, "u/test/preloaded", *options))
    assert_equal_contents(_tables(survey, "u/test/preloaded"), _tables(survey, REFERENCE))


@pytest.mark.slow
def test_parsl_gives_what_pipetask_gives(survey, tmp_path, monkeypatch):
    pytest.importorskip("lsst.ctrl.bps.parsl", reason="needs lsst-ctrl-bps-parsl")
    _work_in(tmp_path, monkeypatch)
    bps("submit", survey, CONFIG / "parsl.yaml", "u/test/parsl", query=PATCHES)
    tables = _tables(survey, "u/test/parsl")
    assert len(tables) == 7
    assert_equal_contents(tables, _tables(survey, REFERENCE))


@pytest.mark.slow
def test_a_failed_quantum_is_named_and_only_what_is_missing_is_done_again(survey, tmp_path):
    graph, run = tmp_path / "run.qg", "u/test/failed"
    # Nothing can be written where a file is in place of the folder.
    block = survey / run / "tno_cutouts" / "0" / "1"
    block.parent.mkdir(parents=True)
    block.touch()
    execute("pipetask", *pipetask_command(survey, run, "--save-qgraph", str(graph)), status=1)
    report = execute("pipetask", "report", str(survey), str(graph))
    assert "extractCutouts" in report.stdout
    assert "'patch': 1" in report.stdout or "patch: 1" in report.stdout
    block.unlink()
    before = _uuids(survey, run)
    execute("pipetask", *pipetask_command(survey, run, *AGAIN))
    after = _uuids(survey, run)
    assert before.items() <= after.items()
    assert_equal_contents(read_contents(survey, run), read_contents(survey, REFERENCE))


@pytest.mark.slow
def test_a_failed_submission_is_submitted_again_for_what_is_missing(survey, tmp_path, monkeypatch):
    pytest.importorskip("lsst.ctrl.bps.parsl", reason="needs lsst-ctrl-bps-parsl")
    _work_in(tmp_path, monkeypatch)
    run, config = "u/test/submitted", CONFIG / "parsl.yaml"
    block = survey / run / "tno_cutouts" / "0" / "1"
    block.parent.mkdir(parents=True)
    block.touch()
    bps("submit", survey, config, run, query=PATCHES)
    (graph,) = (tmp_path / "submit").rglob("*.qg")
    report = execute("pipetask", "report", str(survey), str(graph))
    assert "extractCutouts" in report.stdout
    assert "'patch': 1" in report.stdout or "patch: 1" in report.stdout
    block.unlink()
    before = _uuids(survey, run)
    bps("submit", survey, config, run, query=PATCHES, graph_options=AGAIN)
    after = _uuids(survey, run)
    assert before.items() <= after.items()
    assert_equal_contents(_tables(survey, run), _tables(survey, REFERENCE))


def _tables(repo, run):
    """Return the tables of a run: bps has other datasets, too."""
    contents = read_contents(repo, run)
    return {key: table for key, table in contents.items() if key[0] in SCHEMAS}


def _uuids(repo, run):
    """Return the datasets of patch 0, and those of no patch."""
    with Butler.from_config(str(repo), collections=run) as butler:
        refs = [
            ref
            for name in ("tno_ephemerides", "tno_cutouts", "tno_sequences_injected")
            for ref in butler.query_datasets(name, explain=False)
            if ref.dataId.get("patch", 0) == 0
        ]
        files = {ref.id: Path(butler.getURI(ref).ospath).stat().st_mtime_ns for ref in refs}
    assert len(files) == 3
    return files
