# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The task that computes where the objects of an orbit catalog are."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.coordinates import get_body_barycentric_posvel
from astropy.table import Table
from astropy.time import Time

import lsst.daf.butler.tests as butler_tests
from lsst.meas.tno._schema import SCHEMAS, SchemaError, validate_table
from lsst.meas.tno.ephemerides import compute_states
from lsst.meas.tno.orbit_states import OrbitStates
from lsst.meas.tno.orbits import make_synthetic_orbits, offset_mean_anomaly
from lsst.meas.tno.tasks.compute_ephemerides import (
    ComputeEphemeridesConfig,
    ComputeEphemeridesConnections,
    ComputeEphemeridesTask,
)
from lsst.pex.config import FieldValidationError
from lsst.pipe.base import NoWorkFound
from lsst.pipe.base.testUtils import assertValidOutput, lintConnections, makeQuantum, runTestQuantum

GAUSS = 0.01720209895


def make_task(**values: Any) -> ComputeEphemeridesTask:
    """Return a task for 200 days."""
    config = ComputeEphemeridesConfig()
    config.mjd_begin, config.mjd_end = 60000.0, 60200.0
    config.update(**values)
    config.validate()
    return ComputeEphemeridesTask(config=config)


def make_orbits(n: int = 12) -> Table:
    """Return synthetic orbits."""
    return make_synthetic_orbits(n, np.random.default_rng(1), epoch=60100.0)


def add_comet(orbits: Table, row: int, *, q: float) -> None:
    """Make an orbit that of a comet at its perihelion."""
    orbits["q"][row], orbits["e"][row], orbits["tp"][row], orbits["epoch"][row] = q, 0.97, 60100.0, 60000.0
    orbits["name"] = orbits["name"].astype("U40")
    orbits["name"][row] = f"comet of {q} au"


def mean_anomaly(position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """Return mean anomalies on ellipses about the Sun, radians."""
    r = np.linalg.norm(position, axis=-1)
    a = 1 / (2 / r - np.sum(velocity**2, axis=-1) / GAUSS**2)
    e_sine = np.sum(position * velocity, axis=-1) / (GAUSS * np.sqrt(a))
    return np.arctan2(e_sine, 1 - r / a) - e_sine


def test_states_are_those_of_the_orbits() -> None:
    orbits, task = make_orbits(), make_task(step=30.0)
    ephemerides = task.run(orbits).ephemerides
    assert validate_table(ephemerides, SCHEMAS["tno_ephemerides"]) == {"S": 8}
    np.testing.assert_array_equal(ephemerides["mjd"], np.tile(60000.0 + 30.0 * np.arange(8), (12, 1)))
    position, velocity = compute_states(orbits, ephemerides["mjd"][0], n_threads=1)
    np.testing.assert_allclose(ephemerides["position"], position, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ephemerides["velocity"], velocity, rtol=0, atol=1e-14)
    for name in ("name", "H", "G", "M1", "K1"):
        np.testing.assert_array_equal(ephemerides[name], orbits[name])
    assert {name: task.metadata[name] for name in ("n_orbits", "n_lost", "n_inaccurate", "n_written")} == {
        "n_orbits": 12,
        "n_lost": 0,
        "n_inaccurate": 0,
        "n_written": 12,
    }
    assert validate_table(make_task(step=7.0).run(orbits).ephemerides, SCHEMAS["tno_ephemerides"]) == {
        "S": 30
    }
    # Steps that fit exactly have no one beyond.
    assert make_task(step=50.0).run(orbits).ephemerides["mjd"][0].tolist() == [
        *(60000.0, 60050.0, 60100.0, 60150.0, 60200.0)
    ]


def test_what_is_near_the_sun_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    orbits = make_orbits()
    add_comet(orbits, 3, q=0.7)
    add_comet(orbits, 5, q=0.5)
    orbits["epoch"][8] = -400000.0
    task = make_task()
    with caplog.at_level(logging.WARNING):
        ephemerides = task.run(orbits).ephemerides
    kept = [row for row in range(12) if row not in (3, 5, 8)]
    assert ephemerides["name"].tolist() == orbits["name"][kept].tolist()
    counts = [task.metadata[name] for name in ("n_orbits", "n_lost", "n_inaccurate", "n_written")]
    assert counts == [12, 1, 2, 9]
    message = "\n".join(caplog.messages)
    assert "Left out 2 of 12 objects that come too near to the Sun" in message
    assert "the worst is comet of 0.5 au" in message
    assert np.all(np.isfinite(ephemerides["position"]))
    # With short steps, there is no reason to.
    orbits["epoch"][8] = 60100.0
    task = make_task(step=0.1)
    assert len(task.run(orbits).ephemerides) == 12


def test_interpolation_keeps_the_stated_accuracy() -> None:
    orbits = make_orbits(40)
    # From objects at 1.6 au, which steps of 15 days are too long for, on.
    orbits["q"][:], orbits["e"][:] = np.geomspace(1.6, 40.0, 40), 0.1
    task = make_task(step=15.0, max_error=1.0)
    states = OrbitStates.from_table(task.run(orbits).ephemerides)
    assert 0 < task.metadata["n_inaccurate"] < 40
    mjd = np.random.default_rng(2).uniform(60000.0, 60200.0, 1000)
    kept = orbits[np.isin(orbits["name"], states.name)]
    expected, _ = compute_states(kept, mjd, n_threads=1)
    found, _ = states.at(np.arange(len(states))[:, np.newaxis], mjd)
    nearest = np.linalg.norm(expected, axis=2) - 1.02
    off = np.degrees(np.linalg.norm(found - expected, axis=2) / nearest) * 3.6e6
    assert off.max() < 1.05
    assert off.max() > 0.2


@pytest.mark.parametrize("angle", [0.5, -40.0])
def test_mean_anomaly_offset_moves_objects_on_along_their_orbits(angle: float) -> None:
    orbits = make_orbits()
    plain = make_task().run(orbits).ephemerides
    moved = make_task(mean_anomaly_offset=angle).run(orbits).ephemerides
    for name in ("name", "mjd", "H", "G", "M1", "K1"):
        np.testing.assert_array_equal(moved[name], plain[name])
    sun = [np.array(state) for state in _sun(60100.0)]
    at_epoch = [
        [array[:, 0] - sun[k] for k, array in enumerate(compute_states(table, 60100.0, n_threads=1))]
        for table in (orbits, offset_mean_anomaly(orbits, angle))
    ]
    difference = np.degrees(mean_anomaly(*at_epoch[1]) - mean_anomaly(*at_epoch[0]))
    np.testing.assert_allclose((difference - angle + 180) % 360 - 180, 0, atol=1e-8)
    # The plane and the size of the orbits are the same.
    for quantity in (
        lambda position, velocity: np.cross(position, velocity),
        lambda position, velocity: (
            np.sum(velocity**2, axis=1) / 2 - GAUSS**2 / np.linalg.norm(position, axis=1)
        ),
    ):
        np.testing.assert_allclose(quantity(*at_epoch[1]), quantity(*at_epoch[0]), rtol=1e-9, atol=1e-15)
    # And the task's objects are these.
    expected = compute_states(offset_mean_anomaly(orbits, angle), moved["mjd"][0], n_threads=1)
    np.testing.assert_array_equal(moved["position"], expected[0])
    nearby = np.linalg.norm(moved["position"][:, 3] - plain["position"][:, 3], axis=1)
    # An angle seen from the Sun is seen from the Earth, on a sky of arcmin.
    assert np.all(np.degrees(nearby / np.linalg.norm(plain["position"][:, 3], axis=1)) > 0.3 * abs(angle) / 2)


def _sun(mjd_tdb: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the barycentric state of the Sun, by astropy."""
    position, velocity = get_body_barycentric_posvel(
        "sun", Time(mjd_tdb, format="mjd", scale="tdb"), "builtin"
    )
    return position.xyz.to_value("AU"), velocity.xyz.to_value("AU / d")


def test_nothing_to_do_and_nothing_left() -> None:
    with pytest.raises(NoWorkFound, match="no orbits"):
        make_task().run(make_orbits()[:0])
    orbits = make_orbits(2)
    add_comet(orbits, 0, q=0.3)
    add_comet(orbits, 1, q=0.3)
    with pytest.raises(ValueError, match=r"None of the 2 objects.*0 could not be followed.*2 have errors"):
        make_task().run(orbits)
    orbits = make_orbits(2)
    orbits["q"][1] = -1.0
    for angle in (0.0, 3.0):
        with pytest.raises(
            ValueError, match=r"1 orbits are impossible.*synthetic-000001: q = -1.0.*tp = -?\d"
        ):
            make_task(mean_anomaly_offset=angle).run(orbits)
    orbits.remove_column("tp")
    with pytest.raises(SchemaError, match="tp"):
        make_task().run(orbits)


def test_impossible_configurations() -> None:
    for end in (60000.0, 59000.0):
        with pytest.raises(FieldValidationError, match="mjd_begin=60000.0 is not before.*mjd_end"):
            make_task(mjd_end=end)
    for name in ("step", "max_error"):
        with pytest.raises(FieldValidationError, match=name):
            make_task(**{name: 0.0})


def test_defaults_have_the_survey() -> None:
    """Data Preview 0.2 begins in the middle of 2022, and the ten years of the
    survey end in 2036; six days of light are 1000 au.
    """
    config = ComputeEphemeridesConfig()
    assert config.mjd_begin < 59580.0 - 6.0
    assert config.mjd_end > 64500.0
    task = ComputeEphemeridesTask(config=config)
    ephemerides = task.run(make_orbits(4)).ephemerides
    assert len(ephemerides) == 4
    assert ephemerides["mjd"][0, -1] >= config.mjd_end


def test_threads_do_not_matter() -> None:
    one, two = (make_task(n_threads=n).run(make_orbits(40)).ephemerides for n in (1, 2))
    for name in one.colnames:
        assert one[name].tobytes() == two[name].tobytes()


def test_connections_and_quantum(tmp_path: Path) -> None:
    lintConnections(ComputeEphemeridesConnections)  # type: ignore[arg-type]
    orbits, task = make_orbits(), make_task()
    result = task.run(orbits)
    assertValidOutput(task, result)
    with butler_tests.makeTestRepo(str(tmp_path), {}) as repo:
        for name in ("tno_orbits", "tno_ephemerides"):
            butler_tests.addDatasetType(repo, name, set(), "ArrowAstropy")
        with butler_tests.makeTestCollection(repo, uniqueId="run") as butler:
            butler.put(orbits, "tno_orbits")
            data_id = butler.registry.expandDataId({})
            quantum = makeQuantum(task, butler, data_id, {"orbits": {}, "ephemerides": {}})
            runTestQuantum(task, butler, quantum, mockRun=False)
            table = butler.get("tno_ephemerides")
    validate_table(table, SCHEMAS["tno_ephemerides"])
    states = OrbitStates.from_table(table)
    for name in ("position", "velocity", "mjd", "H"):
        assert getattr(states, name).tobytes() == np.asarray(result.ephemerides[name]).tobytes()
    assert states.name.tolist() == orbits["name"].tolist()
