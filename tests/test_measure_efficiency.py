# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from matplotlib.figure import Figure
from nn_builders import untrained_classifier
from scipy.special import expit

import lsst.daf.butler.tests as butler_tests
from lsst.daf.butler import Butler
from lsst.meas.tno import SCHEMAS, ImageSequences, Injection, MaskBit, validate_table
from lsst.meas.tno._columns import make_table
from lsst.meas.tno._schema import DETECTION_EFFICIENCY_COLUMNS
from lsst.meas.tno.candidates import Candidates
from lsst.meas.tno.nn.calibration import CalibrationError, fit_calibration
from lsst.meas.tno.nn.classifier import classifier_to_table
from lsst.meas.tno.positions import split_of_orbits
from lsst.meas.tno.tasks.measure_efficiency import (
    MeasureEfficiencyConfig,
    MeasureEfficiencyConnections,
    MeasureEfficiencyTask,
)
from lsst.pipe.base import InMemoryDatasetHandle, NoWorkFound
from lsst.pipe.base.testUtils import assertValidOutput, lintConnections, makeQuantum, runTestQuantum

PATCHES = [{"skymap": "map", "tract": 1, "patch": patch} for patch in (0, 1)]
SIZE = 5
DESCRIPTION = {
    "input_shape": {"n_times": 4, "height": 15, "width": 15},
    "pixel_scale": 0.2,
    "calibration": None,
}


def make_task(**fields: Any) -> MeasureEfficiencyTask:
    config = MeasureEfficiencyConfig()
    config.update(**fields)
    config.validate()
    return MeasureEfficiencyTask(config=config)


class Patch:
    """Tables of a patch: all sequences of the test split, the first half with
    an object.
    """

    def __init__(self, seed: int, n: int, *, patch: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.sequences = ImageSequences.full(n, T=4, H=SIZE, W=SIZE, K=1)
        self.sequences.tract[:], self.sequences.patch[:] = 1, patch
        self.sequences.sequence_id[:] = np.arange(n)
        self.sequences.split[:] = 2
        self.sequences.ra[:], self.sequences.dec[:] = rng.uniform(10, 11, n), rng.uniform(-30, -29, n)
        self.sequences.valid[:], self.sequences.mask[:] = True, 0
        truth = self.truth = Injection.full(n, T=4)
        self.sequences.injection = truth
        truth.injected[: n // 2] = True
        truth.object_id = np.where(truth.injected, [f"1-{patch}-{i}" for i in range(n)], "")
        truth.source_orbit = np.full(n, "")
        truth.snr[: n // 2] = rng.uniform(3, 12, n // 2)
        truth.mag[: n // 2] = rng.uniform(23, 27, n // 2)
        truth.rate[: n // 2] = rng.uniform(0.5, 2.5, n // 2)
        truth.inj_x[: n // 2], truth.inj_y[: n // 2] = 2.0, 2.0
        self.logit = rng.normal(-3, 1, n).astype(np.float32)
        self.not_candidates: list[int] = []

    @property
    def scores(self) -> Table:
        def value(name: str) -> Any:
            computed = {"logit": self.logit, "score": expit(self.logit)}
            return computed.get(name, getattr(self.truth, name, getattr(self.sequences, name, None)))

        return make_table((c, value(c.name)) for c in SCHEMAS["tno_scores_injected"])

    @property
    def candidates(self) -> Table:
        ids = np.setdiff1d(np.flatnonzero(self.logit >= 0), self.not_candidates)
        candidates = Candidates.full(len(ids))
        candidates.sequence_id[:], candidates.logit[:] = ids, self.logit[ids]
        return make_table(candidates.items())

    @property
    def tables(self) -> tuple[Table, Table, Table]:
        return self.scores, self.candidates, self.sequences.to_table()


def run(patches: list[Patch], description: dict = DESCRIPTION, **fields: Any) -> Table:
    handles = [
        [
            InMemoryDatasetHandle(
                table,
                storageClass="ArrowAstropy",
                skymap="map",
                tract=1,
                patch=int(patch.sequences.patch[0]),
            )
            for table in patch.tables
        ]
        for patch in patches
    ]
    task = make_task(**fields)
    result = task.run(*(list(part) for part in zip(*handles, strict=True)), description=description)
    assertValidOutput(task, result)
    assert isinstance(result.plot, Figure)
    validate_table(result.efficiency, DETECTION_EFFICIENCY_COLUMNS)
    return result.efficiency


def rows(table: Table, kind: str, quantity: str | None = None) -> Table:
    chosen = table["kind"] == kind
    return table[chosen if quantity is None else chosen & (table["quantity"] == quantity)]


def value(table: Table, kind: str, quantity: str) -> tuple[float, float]:
    (row,) = rows(table, kind, quantity)
    return row["value"], row["value_high"] - row["value"]


def find(patch: Patch, efficiency: np.ndarray, seed: int = 1) -> None:
    """Let objects be found with a probability."""
    rng = np.random.default_rng(seed)
    n = len(efficiency)
    found = rng.random(n) < efficiency
    patch.logit[:n] = np.where(found, 1, -1) * rng.uniform(0.1, 5, n)


def test_connections() -> None:
    lintConnections(MeasureEfficiencyConnections)
    assert MeasureEfficiencyTask._DefaultName == "measureEfficiency"


def test_quantum(tmp_path: Path) -> None:
    patches = [Patch(seed, 40, patch=seed) for seed in (0, 1)]
    for patch in patches:
        patch.logit[:10] = 2.0
    task = make_task()
    connections = MeasureEfficiencyConnections(config=task.config)
    Butler.makeRepo(tmp_path)
    with Butler.from_config(tmp_path, run="run") as butler:
        for dimension, key in (("skymap", "map"), ("tract", 1), ("patch", 0), ("patch", 1)):
            butler_tests.addDataIdValue(butler, dimension, key)
        for name in (*connections.inputs, *connections.outputs):
            connection = getattr(connections, name)
            butler_tests.addDatasetType(
                butler, connection.name, set(connection.dimensions), connection.storageClass
            )
        names = ("tno_scores_injected", "tno_candidates_injected", "tno_sequences_injected")
        for data_id, patch in zip(PATCHES, patches, strict=True):
            for name, table in zip(names, patch.tables, strict=True):
                butler.put(table, name, data_id)
        butler.put(classifier_to_table(untrained_classifier()), "tno_classifier")
        skymap = {"skymap": "map"}
        inputs = dict.fromkeys(("scores", "candidates", "sequences"), PATCHES)
        ids = {**inputs, "classifier": {}, "efficiency": skymap, "plot": skymap}
        runTestQuantum(task, butler, makeQuantum(task, butler, skymap, ids), mockRun=False)
        table = butler.get("tno_detection_efficiency", skymap)
        plot = Path(butler.getURI("tno_detection_efficiency_plot", skymap).ospath)
        assert plot.read_bytes().startswith(b"\x89PNG")
    validate_table(table, SCHEMAS["tno_detection_efficiency"])
    (row,) = rows(table, "efficiency", "all")
    assert (row["n_injected"], row["n_found"], row["value"]) == (40, 20, 0.5)
    expected = run(patches, untrained_classifier().description)
    for name in table.colnames:
        np.testing.assert_array_equal(table[name], expected[name])


def test_only_the_test_split_counts() -> None:
    patch = Patch(1, 60)
    patch.sequences.split[:5], patch.sequences.split[5:10] = 0, 1
    table = run([patch])
    assert rows(table, "efficiency", "all")["n_injected"][0] == 20
    assert rows(table, "false_positives", "per_sequence")["n_clean"][0] == 30
    patch.sequences.split[:] = 1
    with pytest.raises(NoWorkFound, match="test split"):
        run([patch])
    with pytest.raises(NoWorkFound, match="test split"):
        make_task().run([], [], [], DESCRIPTION)


def test_orbits_of_another_split_do_not_count() -> None:
    names = np.array([f"synthetic-{i:06d}" for i in range(30)])
    foreign = split_of_orbits(names) != 2
    assert 10 < foreign.sum() < 30
    patch = Patch(1, 60)
    patch.truth.source_orbit = np.concatenate([names, np.full(30, "")])
    assert rows(run([patch]), "efficiency", "all")["n_injected"][0] == 30 - foreign.sum()


def test_known_efficiency() -> None:
    patch = Patch(2, 8000)
    mag = patch.truth.mag[:4000]
    find(patch, 0.9 / (1 + np.exp((mag - 25.2) / 0.3)))
    table = run([patch])
    for quantity, truth in (("m50", 25.2), ("m50_width", 0.3), ("m50_plateau", 0.9)):
        measured, error = value(table, "fit", quantity)
        print(quantity, measured, error)
        assert abs(measured - truth) < 3 * error
        assert error < 0.05
    bins = rows(table, "efficiency", "mag")
    assert len(bins) == 16
    np.testing.assert_allclose(bins["high"] - bins["low"], 0.25)
    assert bins["n_injected"].sum() == 4000
    np.testing.assert_allclose(bins["value"], bins["n_found"] / bins["n_injected"])
    expected = 0.9 * expit((25.2 - (bins["low"] + bins["high"]) / 2) / 0.3)
    # Two thirds of the intervals hold the truth, 10.9 of 16 with a scatter of
    # 1.9.
    inside = (bins["value_low"] < expected) & (expected < bins["value_high"])
    assert 5 <= inside.sum() <= 16
    # What does not depend on the rate does not appear to.
    by_rate = rows(table, "efficiency", "rate")
    assert 5 <= len(by_rate) <= 15
    assert np.ptp(by_rate["value"]) < 0.15


def test_known_efficiency_with_snr() -> None:
    patch = Patch(3, 6000)
    snr = patch.truth.snr[:3000]
    find(patch, expit((snr - 6.4) / 0.7))
    table = run([patch], snr_bin_width=0.05)
    measured, error = value(table, "fit", "snr50")
    assert abs(measured - 6.4) < 3 * error
    assert 0.01 < error < 0.08
    bins = rows(table, "efficiency", "snr")
    # From S/N 3 to 12.
    assert len(bins) == 13
    np.testing.assert_allclose(bins["high"] / bins["low"], 10**0.05)
    np.testing.assert_allclose(bins["low"][1:], bins["high"][:-1])
    assert bins["n_injected"].sum() == 3000


def test_no_signal_is_in_the_lowest_bin() -> None:
    patch = Patch(3, 60)
    patch.truth.snr[:3] = 0.0, 0.4, 1.0
    bins = rows(run([patch]), "efficiency", "snr")
    assert bins["low"][:2].tolist() == [0.0, 1.0]
    assert bins["high"][0] == 1.0
    assert bins["n_injected"][:2].tolist() == [2, 1]


def test_errors_of_m50_are_those_of_repetitions() -> None:
    pulls = []
    for seed in range(60):
        patch = Patch(seed, 600)
        find(patch, expit((25.0 - patch.truth.mag[:300]) / 0.3), seed)
        measured, error = value(run([patch]), "fit", "m50")
        pulls.append((measured - 25.0) / error)
    print("pulls of m50", np.mean(pulls), np.std(pulls))
    # 60 scatter by 0.13 and 0.09.
    assert abs(np.mean(pulls)) < 0.45
    assert 0.7 < np.std(pulls) < 1.35


@pytest.mark.parametrize(
    ("n", "efficiency", "reason"),
    [
        (30, 0.5, "fewer than 20 objects"),
        (60, 1.0, "all objects were found"),
        (60, 0.0, "no object was found"),
    ],
)
def test_what_cannot_be_fitted(n: int, efficiency: float, reason: str) -> None:
    patch = Patch(4, n)
    find(patch, np.full(n // 2, efficiency))
    table = run([patch])
    fits = rows(table, "fit")
    assert set(fits["reason"]) == {reason}
    assert np.all(np.isnan(fits["value"]))
    assert len(rows(table, "efficiency", "all")) == 1


def test_false_positives() -> None:
    patch = Patch(5, 1000)
    patch.logit[500:] = -1.0
    patch.logit[[600, 700, 900]] = [0.0, 2.0, 5.0]
    table = run([patch])
    (row,) = rows(table, "false_positives", "per_sequence")
    assert (row["n_clean"], row["n_false_positives"], row["value"]) == (500, 3, 3 / 500)
    assert row["value_low"] < 3 / 500 < row["value_high"]
    (row,) = rows(table, "false_positives", "per_square_degree")
    # 1.44 million windows of 3 arcsec.
    assert row["value"] == pytest.approx(3 / 500 * 1.44e6)


def test_roc() -> None:
    patch = Patch(6, 2000)
    patch.logit[:1000] += 2
    roc = rows(run([patch]), "roc")
    assert len(roc) <= 201
    assert np.all(np.diff(roc["false_positive_rate"]) > 0)
    assert np.all(np.diff(roc["value"]) >= 0)
    assert (roc["false_positive_rate"][0], roc["false_positive_rate"][-1], roc["value"][-1]) == (0, 1, 1)
    for row in roc[::20]:
        assert np.mean(patch.logit[1000:] > row["logit"]) == pytest.approx(row["false_positive_rate"])
        assert np.mean(patch.logit[:1000] > row["logit"]) == pytest.approx(row["value"])


def test_ties_in_the_roc() -> None:
    patch = Patch(6, 40)
    patch.logit[:] = -np.inf
    patch.logit[:5] = 1.0
    roc = rows(run([patch]), "roc")
    assert roc["value"][0] == 5 / 20
    assert roc["value"][-1] == 1.0


@pytest.mark.parametrize("prior", [0.5, 0.1])
def test_calibration(prior: float) -> None:
    rng = np.random.default_rng(7)
    logits = np.concatenate([rng.normal(-2, 2, 5000), rng.normal(2, 2, 5000)])
    calibration = fit_calibration(logits, np.arange(10000) >= 5000)
    patch = Patch(8, 20000)
    patch.truth.injected[int(20000 * prior) :] = False
    patch.logit[:] = rng.normal(np.where(patch.truth.injected, 2, -2), 2)
    table = run([patch], {**DESCRIPTION, "calibration": calibration.to_json()}, threshold=-100.0)
    bins = rows(table, "calibration", "probability")
    assert len(bins) == 10
    assert np.all((bins["predicted"] >= bins["low"]) & (bins["predicted"] <= bins["high"]))
    assert (bins["n_injected"] + bins["n_clean"]).sum() == 20000
    np.testing.assert_allclose(bins["value"], bins["predicted"], rtol=0, atol=0.08)


def test_scores_that_are_not_calibrated() -> None:
    table = run([Patch(9, 100)])
    assert len(rows(table, "calibration", "score")) > 0
    assert np.isnan(rows(table, "threshold")["false_positive_rate"][0])
    with pytest.raises(CalibrationError, match="threshold_mode='logit'"):
        run([Patch(9, 100)], threshold_mode="per_sequence", threshold=0.1)


def test_threshold_of_the_calibration() -> None:
    patch = Patch(10, 4000)
    calibration = fit_calibration(patch.logit, patch.truth.injected)
    description = {**DESCRIPTION, "calibration": calibration.to_json()}
    patch.not_candidates = list(range(4000))
    table = run([patch], description, threshold_mode="per_sequence", threshold=0.02)
    (row,) = rows(table, "threshold")
    assert row["false_positive_rate"] == pytest.approx(0.02)
    assert row["reason"] == ""
    assert row["logit"] == pytest.approx(-3 + 2.05, abs=0.15)
    assert value(table, "false_positives", "per_sequence")[0] == pytest.approx(0.02, rel=0.1)
    table = run([patch], description, threshold_mode="per_sequence", threshold=1e-4)
    assert rows(table, "threshold")["reason"][0] == "extrapolated"
    table = run([patch], description, threshold_mode="per_sequence", threshold=calibration.smallest_rate)
    assert rows(table, "threshold")["false_positive_rate"][0] == pytest.approx(calibration.smallest_rate)
    (row,) = rows(run([patch], description, threshold=20.0), "threshold")
    assert np.isnan(row["false_positive_rate"])
    assert row["reason"] == f"below {1 / (30 * calibration.n_clean):.3g}, which is all that is known"


def test_reasons_of_misses() -> None:
    patch = Patch(11, 20)
    patch.logit[:10] = 3.0
    # Outside of the window in three of four images.
    patch.truth.inj_x[1, 1:] = 7.0
    patch.logit[1] = -5.0
    # On masked pixels.
    patch.sequences.mask[2, 1:, 2, 2] = MaskBit.BAD
    patch.logit[2] = -5.0
    patch.logit[3], patch.sequences.mask[3] = -np.inf, MaskBit.NO_DATA
    patch.logit[4] = -0.1
    patch.not_candidates = [5]
    # Found although it was seen in part.
    patch.truth.inj_x[6, 1:], patch.sequences.mask[7, 1:, 2, 2] = 7.0, MaskBit.BAD
    table = run([patch])
    missed = rows(table, "missed")
    assert dict(zip(missed["sequence_id"].tolist(), missed["reason"].tolist(), strict=True)) == {
        1: "outside",
        2: "masked",
        3: "masked",
        4: "below_threshold",
        5: "merged",
    }
    assert missed["object_id"].tolist() == [f"1-0-{i}" for i in (1, 2, 3, 4, 5)]
    np.testing.assert_array_equal(missed["value"], patch.truth.snr[1:6])
    np.testing.assert_array_equal(missed["logit"], patch.logit[1:6])
    assert rows(table, "efficiency", "all")["n_found"][0] == 5


def test_an_object_that_another_sequence_lists_is_found() -> None:
    patch = Patch(12, 20)
    patch.logit[:10] = 3.0
    patch.truth.object_id[4] = patch.truth.object_id[3]
    patch.not_candidates = [4, 5]
    table = run([patch])
    assert rows(table, "missed")["sequence_id"].tolist() == [5]


def test_positions_of_overlapping_patches_count_once() -> None:
    first, second = Patch(13, 40), Patch(14, 40, patch=1)
    first.logit[:10] = 3.0
    # Two sequences of each of these positions, at different times.
    for patch in (first, second):
        patch.sequences.ra[20:22], patch.sequences.dec[20:22] = 10.5, -29.5
    second.sequences.ra[:5], second.sequences.dec[:5] = first.sequences.ra[:5], first.sequences.dec[:5]
    second.sequences.ra[:5] += 1e-9
    table = run([first, second])
    assert rows(table, "efficiency", "all")["n_injected"][0] == 20 + 15
    assert rows(table, "false_positives", "per_sequence")["n_clean"][0] == 20 + 18


def test_order_of_the_inputs_does_not_matter() -> None:
    patches = [Patch(seed, 100, patch=seed) for seed in (0, 1, 2)]
    for patch in patches:
        find(patch, expit((25.0 - patch.truth.mag[:50]) / 0.3), int(patch.sequences.patch[0]))
    patches[2].sequences.ra[:9], patches[2].sequences.dec[:9] = (
        patches[0].sequences.ra[:9],
        patches[0].sequences.dec[:9],
    )
    first, second = run(patches), run(patches[::-1])
    for name in first.colnames:
        assert np.asarray(first[name]).tobytes() == np.asarray(second[name]).tobytes(), name


def test_nothing_was_injected_or_everything() -> None:
    clean = Patch(15, 30)
    clean.truth.injected[:] = False
    table = run([clean])
    assert len(rows(table, "efficiency")) == len(rows(table, "missed")) == len(rows(table, "roc")) == 0
    full = Patch(16, 60)
    full.sequences.split[30:] = 0
    table = run([full])
    (row,) = rows(table, "false_positives", "per_sequence")
    assert (row["n_clean"], row["value_low"], row["value_high"]) == (0, 0, 1)
    assert np.isnan(row["value"])
    assert len(rows(table, "roc")) == 0


def test_tables_that_do_not_belong_together() -> None:
    patch = Patch(17, 30)
    patch.logit[3] = 1.0
    with pytest.raises(ValueError, match=r"below the threshold 2\.0000"):
        run([patch], threshold=2.0)
    task = make_task()
    handles = [InMemoryDatasetHandle(table, storageClass="ArrowAstropy") for table in patch.tables]
    handles[2] = InMemoryDatasetHandle(patch.tables[2][:20], storageClass="ArrowAstropy")
    with pytest.raises(ValueError, match="10 of 30 scores"):
        task.run(*([handle] for handle in handles), description=DESCRIPTION)
