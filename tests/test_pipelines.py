# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest

from lsst.meas.tno import SCHEMAS
from lsst.pipe.base import Pipeline
from lsst.resources import ResourcePath

PIPELINES = Path(__file__).parents[1] / "pipelines"
NAMES = sorted(path.stem for path in PIPELINES.glob("*.yaml"))
ALL = {
    "computeEphemerides",
    "extractCutouts",
    "injectTnos",
    "warpCutouts",
    "warpInjectedCutouts",
    "trainClassifier",
    "scoreSequences",
    "scoreInjectedSequences",
    "findCandidates",
    "findInjectedCandidates",
    "measureEfficiency",
}
TASKS = {
    "BuildTrainingSet": {"computeEphemerides", "extractCutouts", "injectTnos", "warpInjectedCutouts"},
    "TrainClassifier": {"trainClassifier"},
    "Search": {"extractCutouts", "warpCutouts", "scoreSequences", "findCandidates"},
    "MeasureEfficiency": {
        "computeEphemerides",
        "extractCutouts",
        "injectTnos",
        "warpInjectedCutouts",
        "scoreInjectedSequences",
        "findInjectedCandidates",
        "measureEfficiency",
    },
    "Notebook": ALL - {"computeEphemerides"},
    "Tno": ALL,
}
DIMENSIONS = {
    "tno_ephemerides": set(),
    "tno_classifier": set(),
    "tno_training_history": set(),
    "tno_training_plot": set(),
    "tno_detection_efficiency": {"skymap"},
    "tno_detection_efficiency_plot": {"skymap"},
}
PATCH = {"skymap", "tract", "patch"}


def _load(name):
    return Pipeline.from_uri(PIPELINES / f"{name}.yaml")


def test_no_pipeline_is_forgotten():
    assert set(NAMES) == set(TASKS)


@pytest.mark.parametrize("name", NAMES)
def test_graph_has_the_tasks_and_the_datasets(name):
    graph = _load(name).to_graph()
    assert set(graph.tasks) == TASKS[name]
    outputs = {
        edge.parent_dataset_type_name: node for node in graph.tasks.values() for edge in node.outputs.values()
    }
    for dataset_type in outputs:
        edges = [edge for node in graph.tasks.values() for edge in node.outputs.values()]
        edge = next(edge for edge in edges if edge.parent_dataset_type_name == dataset_type)
        assert set(edge.raw_dimensions) == DIMENSIONS.get(dataset_type, PATCH), dataset_type
        expected = "ArrowAstropy" if dataset_type in SCHEMAS else None
        assert edge.storage_class_name == (expected or edge.storage_class_name)


@pytest.mark.parametrize("name", NAMES)
def test_subsets_cover_the_pipeline_and_say_what_they_are(name):
    pipeline = _load(name)
    assert set().union(*pipeline.subsets.values()) == TASKS[name]
    for subset in pipeline._pipelineIR.labeled_subsets.values():
        assert subset.description
    if name in ("Tno", "Notebook"):
        assert set(pipeline.subsets) == {"training-set", "train", "search", "efficiency"}


@pytest.mark.parametrize("subset", ["training-set", "train", "search", "efficiency"])
def test_each_subset_is_a_pipeline(subset):
    graph = Pipeline.from_uri(f"{PIPELINES / 'Tno.yaml'}#{subset}").to_graph()
    assert set(graph.tasks) == Pipeline.from_uri(PIPELINES / "Tno.yaml").subsets[subset]


def test_parameters_reach_the_tasks():
    pipeline = _load("Tno")
    for key, value in {
        "inputImage": "difference_image",
        "inputStorageClass": "DifferenceImage",
        # The command line gives numbers as text.
        "nTimes": "20",
        "cutoutSize": "60",
        "warpSize": "21",
        "pixelScale": "0.25",
        "thresholdMode": "per_sequence",
        "threshold": "0.001",
    }.items():
        pipeline.addConfigOverride("parameters", key, value)
    tasks = pipeline.to_graph().tasks
    extract = tasks["extractCutouts"]
    assert extract.inputs["visit_images"].parent_dataset_type_name == "difference_image"
    assert extract.inputs["visit_images"].storage_class_name == "DifferenceImage"
    assert (extract.config.n_times, extract.config.cutout_size) == (20, 60)
    population = tasks["injectTnos"].config.population.active
    assert type(population).__name__ == "OrbitPopulationConfig"
    assert population.window_size == pytest.approx(21 * 0.25)
    assert population.min_times_inside == 20
    for label in ("findCandidates", "findInjectedCandidates", "measureEfficiency"):
        config = tasks[label].config
        assert (config.threshold_mode, config.threshold) == ("per_sequence", 0.001)
        assert "classifier" in tasks[label].inputs
    for label in ("warpCutouts", "warpInjectedCutouts"):
        assert (tasks[label].config.warp_size, tasks[label].config.pixel_scale) == (21, 0.25)


@pytest.mark.parametrize(
    ("label", "key", "value", "message"),
    [
        ("parameters", "cutoutSize", 20, "cutoutSize"),
        ("parameters", "warpSize", 41, "cutoutSize"),
        ("warpCutouts", "kernel", "bilinear", "kernel"),
        ("warpInjectedCutouts", "warp_size", 21, "warp_size"),
        ("warpInjectedCutouts", "pixel_scale", 0.3, "pixel_scale"),
        ("warpCutouts", "subtract_median", True, "subtract_median"),
        ("findCandidates", "threshold", 3.0, "threshold of the search"),
        ("measureEfficiency", "threshold", 3.0, "threshold of the candidates"),
    ],
)
def test_contracts_say_what_is_broken(label, key, value, message):
    pipeline = _load("Tno")
    pipeline.addConfigOverride(label, key, value)
    with pytest.raises(Exception, match=message):
        pipeline.to_graph()


def test_notebook_has_the_notebook_s_settings():
    tasks = _load("Notebook").to_graph().tasks
    extract = tasks["extractCutouts"]
    assert extract.inputs["visit_images"].parent_dataset_type_name == "calexp"
    assert extract.inputs["visit_images"].storage_class_name == "ExposureF"
    config = extract.config
    assert list(config.box) == [50, 74, -44, -27]
    begin, end = config.time_window
    # 2025-09-05T08:16:03.6432 is MJD 60923.344486...
    centre = 60923 + (8 * 3600 + 16 * 60 + 3.6432) / 86400
    assert (begin, end) == pytest.approx((centre - 1_051_200 / 1440, centre + 1_051_200 / 1440), abs=1e-8)
    assert (config.htm_level, config.cutout_size, config.n_times, config.windowing) == (12, 50, 50, "all")
    warp = tasks["warpInjectedCutouts"].config
    assert (warp.warp_size, warp.kernel) == (15, "bicubic")
    assert tasks["injectTnos"].config.population.active.rate_max <= 8e-5
    assert "ephemerides" not in tasks["injectTnos"].inputs


@pytest.mark.parametrize("population", ["linear", "orbits", "survey"])
def test_populations_that_need_orbits_have_them(population):
    pipeline = _load("BuildTrainingSet")
    pipeline.addConfigOverride("injectTnos", "population", population)
    tasks = pipeline.to_graph().tasks
    assert ("ephemerides" in tasks["injectTnos"].inputs) == (population != "linear")
    assert tasks["injectTnos"].config.population.active.window_size == pytest.approx(3.0)
    assert tasks["computeEphemerides"].prerequisite_inputs["orbits"].parent_dataset_type_name == "tno_orbits"


@pytest.mark.parametrize("uri", ["resource://lsst.meas.tno/resources", "eups://meas_tno", "$MEAS_TNO_DIR"])
def test_pipelines_are_found_with_and_without_eups(uri, monkeypatch):
    monkeypatch.delenv("MEAS_TNO_DIR", raising=False)
    assert set(Pipeline.from_uri(f"{uri}/pipelines/Search.yaml").subsets) == {"search"}
    assert ResourcePath(f"{uri}/config/dp2.py").exists()


def test_bright_and_faint_objects_are_injected():
    population = _load("BuildTrainingSet").to_graph().tasks["injectTnos"].config.population.active
    assert (population.snr_min, population.snr_max) == (3.0, 60.0)
    assert population.snr_distribution == "log_uniform"


@pytest.mark.parametrize("release", ["dp0_2", "dp1", "dp2"])
def test_release_overrides_apply(release):
    pipeline = _load("BuildTrainingSet")
    pipeline.addConfigFile("extractCutouts", f"resource://lsst.meas.tno/resources/config/{release}.py")
    edge = pipeline.to_graph().tasks["extractCutouts"].inputs["visit_images"]
    expected = {
        "dp0_2": ("calexp", "ExposureF"),
        "dp1": ("visit_image", "ExposureF"),
        "dp2": ("visit_image", "VisitImage"),
    }
    assert (edge.parent_dataset_type_name, edge.storage_class_name) == expected[release]
