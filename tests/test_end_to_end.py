# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole run as users do it: a repository, `pipetask run`, `butler.get`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from batch_builders import execute

from lsst.daf.butler import Butler, DatasetRef, DatasetType, Quantum
from lsst.meas.tno import SCHEMAS, ImageSequences, validate_table
from lsst.meas.tno.nn.classifier import classifier_from_table
from lsst.meas.tno.simulation import SimulateSurveyConfig, simulate_survey
from lsst.meas.tno.tasks import ExtractCutoutsConfig, ExtractCutoutsTask
from lsst.pipe.base.quantum_graph import PredictedQuantumGraph
from lsst.pipe.base.testUtils import assertValidOutput, runTestQuantum

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PIPELINES, CONFIG = ROOT / "pipelines", ROOT / "config"
INPUT = "TnoSim/defaults"
ORBITS = "tno/orbits"
N_VISITS = 12
ONCE = ("tno_training_history", "tno_ephemerides", "tno_detection_efficiency")
"""Tables that there is one of, not one a patch."""
PATCH = {"skymap": "tno_sim", "tract": 0, "patch": 0}
OPTIONS = {
    "parameters": {"nTimes": N_VISITS, "cutoutSize": 28},
    # So little sky has all three splits only in small trixels.
    "extractCutouts": {"n_positions": 60, "htm_level": 15},
    "trainClassifier": {
        "training.max_epochs": 2,
        "architecture.active.filters": [4],
        "architecture.active.hidden_units": [8],
    },
}


def _graph_options(labels):
    return [
        word
        for label in labels
        for key, value in OPTIONS[label].items()
        for word in ("-c", f"{label}:{key}={value}")
    ]


def _pipetask(repo, output, *arguments, pipeline="Tno.yaml", labels=tuple(OPTIONS), check=True):
    command = [str(Path(sys.executable).parent / "pipetask"), "--long-log", "run", "-b", str(repo)]
    command += [
        "-i",
        f"{INPUT},{ORBITS}",
        "-o",
        output,
        "-p",
        str(PIPELINES / pipeline),
        "--register-dataset-types",
    ]
    command += _graph_options(labels)
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert not check or result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    config = SimulateSurveyConfig()
    config.n_visits, config.visit_interval, config.bands = N_VISITS, 160.0, ["r"]
    config.n_detectors_y = config.n_patches_y = 1
    config.n_patches_x = 2
    config.detector_width, config.detector_height = 400, 260
    config.dither_radius, config.tract_margin, config.n_objects = 2.0, 1.0, 1
    config.make_difference_images = False
    root = tmp_path_factory.mktemp("survey") / "repo"
    simulate_survey(str(root), config)
    command = [
        str(Path(sys.executable).parent / "butler"),
        "ingest-tno-orbits",
        str(root),
        "--synthetic",
        "200",
    ]
    subprocess.run(command, capture_output=True, text=True, check=True)
    return root


@pytest.fixture(scope="module")
def repo(survey):
    """Run with one process, and with two."""
    _pipetask(survey, "u/test/one", "-j", "1")
    _pipetask(survey, "u/test/two", "-j", "2")
    return survey


@pytest.fixture(scope="module")
def submitted(repo, tmp_path_factory):
    """Submit the same to Parsl."""
    pytest.importorskip("lsst.ctrl.bps.parsl", reason="needs lsst-ctrl-bps-parsl")
    folder = tmp_path_factory.mktemp("submit")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PWD", str(folder))
        config, pipeline = CONFIG / "bps" / "parsl.yaml", PIPELINES / "Tno.yaml"
        arguments = ["submit", str(config), "-b", str(repo), "-i", f"{INPUT},{ORBITS}", "-o", "u/test/parsl"]
        arguments += ["-p", str(pipeline), "--extra-qgraph-options"]
        execute("bps", *arguments, " ".join(_graph_options(OPTIONS)))
    return repo


def _get(repo, name, collection="u/test/one"):
    return _get_all(repo, name, collection)[0]


def _get_all(repo, name, collection="u/test/one"):
    """Return the datasets of all patches, in their order."""
    with Butler.from_config(str(repo), collections=collection) as butler:
        return [butler.get(ref) for ref in sorted(butler.query_datasets(name))]


@pytest.mark.parametrize("name", sorted(set(SCHEMAS) - {"tno_simulated_objects", "tno_orbits"}))
def test_written_tables_have_their_schema(repo, name):
    tables = _get_all(repo, name)
    assert len(tables) == (1 if name in ONCE else 2)
    for table in tables:
        validate_table(table, SCHEMAS[name])
        if name.startswith(("tno_cutouts", "tno_sequences")):
            ImageSequences.from_table(table).validate()


def test_patches_have_positions_of_their_own(repo):
    one, two = _get_all(repo, "tno_cutouts")
    assert len(np.intersect1d(one["ra"], two["ra"])) == 0
    one, two = _get_all(repo, "tno_cutouts_injected")
    assert len(np.intersect1d(one["rate"], two["rate"])) == 0


@pytest.mark.parametrize(("name", "collection"), [("tno_simulated_objects", INPUT), ("tno_orbits", ORBITS)])
def test_what_the_commands_write_has_its_schema(survey, name, collection):
    validate_table(_get(survey, name, collection), SCHEMAS[name])


def test_the_number_of_processes_does_not_matter(repo):
    _assert_equal_results(repo, "u/test/one", "u/test/two")


def test_a_submission_gives_the_same(submitted):
    _assert_equal_results(submitted, "u/test/one", "u/test/parsl")


def _assert_equal_results(repo, *collections):
    for name in SCHEMAS:
        if name in ("tno_simulated_objects", "tno_orbits"):
            continue
        runs = (_get_all(repo, name, collection) for collection in collections)
        for one, two in zip(*runs, strict=True):
            # Times that it took are no results.
            for column in set(one.colnames) - {"seconds"}:
                assert np.asarray(one[column]).tobytes() == np.asarray(two[column]).tobytes(), (name, column)
    one, two = (_get(repo, "tno_classifier", collection) for collection in collections)
    assert one.equals(two, check_metadata=True)
    shape = classifier_from_table(one).description["input_shape"]
    assert shape == {"n_times": N_VISITS, "height": 15, "width": 15}


def test_scores_are_those_of_the_sequences(repo):
    scores, sequences = _get(repo, "tno_scores_injected"), _get(repo, "tno_sequences_injected")
    for column in ("sequence_id", "split", "ra", "dec", "htm", "injected", "snr", "object_id"):
        np.testing.assert_array_equal(scores[column], sequences[column])
    assert np.all(np.isfinite(scores["score"]))
    assert 0.3 < np.mean(scores["injected"]) <= 0.5


def test_candidates_are_those_above_the_threshold(repo):
    scores, candidates = _get(repo, "tno_scores_injected"), _get(repo, "tno_candidates_injected")
    above = scores["sequence_id"][scores["logit"] >= 0]
    metadata = _get(repo, "findInjectedCandidates_metadata")["findInjectedCandidates"]
    assert metadata["n_above_threshold"] == len(above)
    # Of random positions on so little sky, some windows overlap.
    assert metadata["n_merged"] + metadata["n_not_measurable"] + len(candidates) == len(above)
    assert 0 < len(candidates)
    assert set(candidates["sequence_id"]) <= set(above)


def test_efficiency_is_of_all_patches(repo):
    table = _get(repo, "tno_detection_efficiency")
    test = [scores[scores["split"] == 2] for scores in _get_all(repo, "tno_scores_injected")]
    (row,) = table[(table["kind"] == "efficiency") & (table["quantity"] == "all")]
    assert row["n_injected"] == sum(np.sum(scores["injected"]) for scores in test)
    assert row["n_found"] + np.sum(table["kind"] == "missed") == row["n_injected"]
    assert "per_square_degree" in table["quantity"]


def test_a_rerun_does_no_work_again(repo):
    before = {path: path.stat().st_mtime_ns for path in repo.rglob("*.parq")}
    result = _pipetask(repo, "u/test/one", "--extend-run", "--skip-existing", check=False)
    assert result.returncode == 1
    assert "empty" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in repo.rglob("*.parq")} == before


def test_tables_are_read_without_our_package(repo):
    """What a user sees who has lsst-daf-butler only."""
    code = """
import json, sys
sys.modules["lsst.meas.tno"] = None
from lsst.daf.butler import Butler, DatasetRef, DatasetType, Quantum
butler = Butler.from_config(sys.argv[1], collections="u/test/one")
table = butler.get("tno_sequences_injected", skymap="tno_sim", tract=0, patch=0)
print(json.dumps({name: [table[name].dtype.str, table[name].shape[1:], str(table[name].unit)]
    for name in table.colnames}))
"""
    output = subprocess.run(
        [sys.executable, "-c", code, str(repo)], capture_output=True, text=True, check=True
    ).stdout
    columns = json.loads(output)
    image, track = [N_VISITS, 15, 15], [N_VISITS]
    expected = {
        "tract": ["<i4", [], "None"],
        "sequence_id": ["<i8", [], "None"],
        "split": ["|u1", [], "None"],
        "ra": ["<f8", [], "deg"],
        "centre_dec": ["<f8", track, "deg"],
        "valid": ["|b1", track, "None"],
        "visit": ["<i8", track, "None"],
        "detector": ["<i4", track, "None"],
        "band": ["|u1", track, "None"],
        "mjd": ["<f8", track, "d"],
        "exposure_time": ["<f4", track, "s"],
        "image": ["<f4", image, "nJy"],
        "variance": ["<f4", image, "nJy2"],
        "mask": ["|u1", image, "None"],
        "psf": ["<f4", [N_VISITS, 25, 25], "None"],
        "pixel_to_sky": ["<f8", [N_VISITS, 2, 3], "arcsec"],
        "injected": ["|b1", [], "None"],
        "distance": ["<f8", [], "AU"],
        "mag": ["<f8", [], "mag"],
        "rate": ["<f8", [], "arcsec / h"],
        "position_angle": ["<f8", [], "deg"],
        "inj_x": ["<f8", track, "pix"],
        "inj_flux": ["<f8", track, "nJy"],
    }
    assert {name: columns[name] for name in expected} == expected
    assert len(columns) == 33


def test_bad_files_are_left_out_and_counted(survey, tmp_path):
    repo, graph_file = tmp_path / "repo", tmp_path / "run.qg"
    shutil.copytree(survey, repo)
    files = sorted((repo / "TnoSim").rglob("visit_image/**/*.fits"))
    assert len(files) == N_VISITS
    files[3].unlink()
    with files[7].open("r+b") as file:
        file.truncate(files[7].stat().st_size // 2)
    result = _pipetask(
        repo,
        "u/test/bad",
        *("-c", "extractCutouts:min_times=4", "-d", "skymap='tno_sim' AND patch=0"),
        *("--save-qgraph", str(graph_file)),
        pipeline="BuildTrainingSet.yaml",
        labels=("parameters", "extractCutouts"),
    )
    sequences = ImageSequences.from_table(_get(repo, "tno_sequences_injected", "u/test/bad"))
    sequences.validate()
    assert np.all(sequences.valid.sum(axis=1) <= N_VISITS - 2)
    metadata = _get(repo, "extractCutouts_metadata", "u/test/bad")["extractCutouts"]
    # The executor leaves out what is missing before the task can see it.
    assert (metadata["n_visits_given"], metadata["n_visits_used"]) == (N_VISITS - 1, N_VISITS - 2)
    assert metadata["n_visits_unreadable"] == 1
    assert _visits_in_graph(graph_file) == [(PATCH, N_VISITS)]
    with Butler.from_config(str(repo), collections="u/test/bad") as butler:
        assert len(butler.query_datasets("visit_image", data_id=PATCH, limit=None)) == N_VISITS
    assert "No dataset artifact found" in result.stderr
    assert "Left out a visit image" in result.stderr


def _visits_in_graph(graph_file):
    """Return data IDs and numbers of visits as in `pipelines/README.md`."""
    graph = PredictedQuantumGraph.read_execution_quanta(graph_file)
    quanta = graph.build_execution_quanta(task_label="extractCutouts").values()
    return [(dict(quantum.dataId.mapping), len(quantum.inputs["visit_image"])) for quantum in quanta]


def test_extract_cutouts_quantum(survey):
    config = ExtractCutoutsConfig()
    config.n_positions, config.cutout_size, config.n_times, config.min_times = 3, 20, N_VISITS, 2
    task = ExtractCutoutsTask(config=config)
    with Butler.from_config(str(survey), collections=INPUT, run="u/test/quantum") as butler:
        patch = butler.registry.expandDataId(PATCH)
        dataset_type = DatasetType("tno_cutouts", patch.dimensions, "ArrowAstropy")
        butler.registry.registerDatasetType(dataset_type)
        refs = [
            ref.expanded(butler.registry.expandDataId(ref.dataId))
            for ref in butler.query_datasets("visit_image")
        ]
        output = DatasetRef(dataset_type, patch, run="u/test/quantum")
        quantum = Quantum(
            taskClass=ExtractCutoutsTask,
            dataId=patch,
            inputs={refs[0].datasetType: refs},
            outputs={dataset_type: [output]},
        )
        runTestQuantum(task, butler, quantum, mockRun=False)
        sequences = ImageSequences.from_table(butler.get(output))
        handles = [butler.getDeferred(ref) for ref in refs]
        result = task.run(handles, region=patch.region, tract=0, patch=0)
    assertValidOutput(task, result)
    np.testing.assert_array_equal(result.cutouts.image, sequences.image)
