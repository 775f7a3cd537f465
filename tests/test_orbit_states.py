# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""States of objects at steps of time, and what is seen of them in between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import angular_separation
from astropy.table import Table, vstack
from injection_builders import astropy_observer, make_orbit_states

import lsst.daf.butler.tests as butler_tests
from lsst.meas.tno._schema import EPHEMERIDES_COLUMNS, SCHEMAS, SchemaError, validate_table
from lsst.meas.tno.ephemerides import compute_ephemerides, compute_states, observer_states
from lsst.meas.tno.orbit_states import OrbitStates, compute_orbit_states
from lsst.meas.tno.orbits import make_synthetic_orbits

BEGIN, END = 60000.0, 60400.0

SPEED_OF_LIGHT = 299792.458 / 149597870.7 * 86400.0
"""au/day."""


def make_orbits(n: int = 40, *, near: bool = False) -> Table:
    """Return synthetic orbits, and if so a comet and two asteroids."""
    orbits = make_synthetic_orbits(n, np.random.default_rng(1))
    if near:
        orbits["q"][:3], orbits["e"][:3], orbits["tp"][:3] = (1.2, 1.8, 2.8), (1.0, 0.3, 0.1), 60210.0
        orbits["H"][0], orbits["G"][0], orbits["M1"][0], orbits["K1"][0] = np.nan, np.nan, 9.0, 12.0
        orbits["epoch"] = 60200.0
    return orbits


@pytest.fixture(scope="module")
def orbits() -> Table:
    return make_orbits()


@pytest.fixture(scope="module")
def states(orbits: Table) -> OrbitStates:
    return make_orbit_states(orbits, mjd_begin=BEGIN, mjd_end=END, step=30.0)


@pytest.mark.parametrize("step", [10.0, 30.0])
def test_interpolation_is_as_accurate_as_stated(step: float) -> None:
    orbits = make_orbits(30, near=True)
    states, error = compute_orbit_states(orbits, BEGIN, END, step, n_threads=1)
    mjd = np.random.default_rng(2).uniform(BEGIN, END, 3000)
    position, velocity = compute_states(orbits, mjd, n_threads=1)
    found, moving = states.at(np.arange(len(orbits))[:, np.newaxis], mjd)
    # What is seen of an error is less the farther the object is.
    distance = np.linalg.norm(position, axis=2) - 1.02
    off = np.degrees(np.linalg.norm(found - position, axis=2) / distance) * 3600.0
    # Halfway is the worst place in a step, the fourth derivative being
    # constant; of Bernoulli's numbers no more than a few percent more.
    assert np.all(off.max(axis=1) <= 1.05 * error + 1e-9)
    assert np.all(off.max(axis=1) >= 0.7 * error - 1e-9)
    # Objects beyond Neptune are well below 1 mas; those near the Sun are not.
    assert error[3:].max() < 1e-6 * (step / 10) ** 4
    assert error[:3].min() > 1e-3 * (step / 10) ** 4
    # The derivative of such an error: at most 16 / (3 sqrt(3)) of it a step.
    speed_off = np.linalg.norm(moving - velocity, axis=2).max(axis=1)
    position_off = np.linalg.norm(found - position, axis=2).max(axis=1)
    assert np.all(speed_off <= 4.0 * position_off / step + 1e-13)


def test_steps_are_states_themselves_and_are_never_left(states: OrbitStates, orbits: Table) -> None:
    grid = states.mjd[0]
    assert grid[0] == BEGIN
    assert END <= grid[-1] < END + 30.0
    np.testing.assert_array_equal(np.diff(grid), 30.0)
    assert np.all(states.mjd == grid)
    position, velocity = states.at(np.arange(len(states))[:, np.newaxis], grid)
    np.testing.assert_allclose(position, states.position, rtol=1e-15)
    np.testing.assert_allclose(velocity, states.velocity, rtol=1e-13)
    expected = compute_states(orbits, grid, n_threads=1)
    np.testing.assert_allclose(states.position, expected[0], rtol=0, atol=1e-12)
    for mjd in (grid[0] - 1e-6, grid[-1] + 1e-6):
        with pytest.raises(
            ValueError, match=f"TDB MJD {mjd:.3f}, only from 60000.000.*mjd_begin and mjd_end"
        ):
            states.at(np.array([0, 1]), np.array([grid[3], mjd]))


def test_light_that_left_before_the_first_step_is_an_error(states: OrbitStates) -> None:
    far = np.argmax(np.linalg.norm(states.position[:, 0], axis=1))
    light_time = np.linalg.norm(states.position[far, 0]) / SPEED_OF_LIGHT
    with pytest.raises(ValueError, match="no ephemerides for TDB MJD 5999"):
        states.observe(np.array([far]), observer_states([BEGIN + 0.9 * light_time]))
    seen = states.observe(np.array([far]), observer_states([BEGIN + 1.1 * light_time + 0.01]))
    assert np.all(np.isfinite(seen.ra))


def test_what_is_seen_is_what_the_orbits_say() -> None:
    orbits = make_orbits(50, near=True)
    states, error = compute_orbit_states(orbits, BEGIN, END, 1.0, n_threads=1)
    assert error.max() < 1e-3
    mjd = np.random.default_rng(3).uniform(BEGIN + 10, END, 60)
    index = np.random.default_rng(4).permutation(len(orbits))
    ours = states.observe(index, observer_states(mjd))
    expected = compute_ephemerides(orbits[index], mjd, n_threads=1)
    between = angular_separation(*np.radians([ours.ra, ours.dec, expected.ra, expected.dec]))
    assert np.degrees(between).max() * 3.6e6 < 1.0
    assert np.abs(ours.mag - expected.mag).max() < 1e-3
    assert np.all(np.isfinite(ours.mag))
    for name in ("heliocentric_distance", "topocentric_distance"):
        np.testing.assert_allclose(getattr(ours, name), getattr(expected, name), rtol=1e-5)
    np.testing.assert_allclose(ours.phase_angle, expected.phase_angle, atol=1e-3)
    for name in ("rate_ra_cosdec", "rate_dec"):
        # A mas in a day.
        np.testing.assert_allclose(getattr(ours, name), getattr(expected, name), rtol=0, atol=4e-5)


def test_what_is_seen_is_what_astropy_s_observer_sees(states: OrbitStates) -> None:
    """The direction from where astropy has the observatory to where the
    object is when the light leaves.
    """
    mjd = np.random.default_rng(5).uniform(BEGIN + 20, END, 30)
    seen = states.observe(np.arange(len(states)), observer_states(mjd))
    mjd_tdb, observer = astropy_observer(mjd)
    left = mjd_tdb - seen.topocentric_distance / SPEED_OF_LIGHT
    position, _ = states.at(np.arange(len(states))[:, np.newaxis], left)
    ray = position - observer
    distance = np.linalg.norm(ray, axis=2)
    np.testing.assert_allclose(distance, seen.topocentric_distance, rtol=1e-9)
    ra, dec = np.arctan2(ray[..., 1], ray[..., 0]), np.arcsin(ray[..., 2] / distance)
    between = angular_separation(ra, dec, np.radians(seen.ra), np.radians(seen.dec))
    assert np.degrees(between).max() * 3.6e6 < 0.1


def test_states_follow_themselves(states: OrbitStates) -> None:
    """States between the steps begin where others come to."""
    index = np.arange(len(states))
    mjd = np.random.default_rng(6).uniform(BEGIN, END, len(states))
    initial = states.initial_states(index, mjd)
    assert initial.name.tolist() == states.name.tolist()
    position, velocity = states.at(index, mjd)
    np.testing.assert_array_equal(initial.position, position)
    np.testing.assert_array_equal(initial.velocity, velocity)
    np.testing.assert_array_equal(initial.epoch, mjd)
    np.testing.assert_array_equal(initial.magnitudes[:, 0], states.H)
    assert initial.magnitudes.shape == (len(states), 4)


def test_table_and_butler(states: OrbitStates, tmp_path: Path) -> None:
    table = states.to_table()
    sizes = validate_table(table, EPHEMERIDES_COLUMNS)
    assert sizes == {"S": states.mjd.shape[1]}
    assert SCHEMAS["tno_ephemerides"] is EPHEMERIDES_COLUMNS
    with butler_tests.makeTestRepo(str(tmp_path), {}) as repo:
        butler_tests.addDatasetType(repo, "tno_ephemerides", set(), "ArrowAstropy")
        with butler_tests.makeTestCollection(repo, uniqueId="run") as butler:
            butler.put(table, "tno_ephemerides")
            read = butler.get("tno_ephemerides")
    back = OrbitStates.from_table(read)
    for column, array in states.items():
        other = getattr(back, column.name)
        assert other.tolist() == array.tolist() if column.dtype == "U" else other.tobytes() == array.tobytes()
        assert str(read[column.name].unit or "") == str(table[column.name].unit or "")


def test_wrong_tables(states: OrbitStates) -> None:
    table = states.to_table()
    table.remove_column("velocity")
    with pytest.raises(SchemaError, match="velocity"):
        OrbitStates.from_table(table)
    narrow = states.to_table()
    narrow["position"] = narrow["position"].astype(np.float32)
    with pytest.raises(SchemaError, match="position"):
        OrbitStates.from_table(narrow)
    # States at other times may not be mixed with these.
    other = states.to_table()
    other["mjd"] = other["mjd"] + 1.0
    with pytest.raises(SchemaError, match="same"):
        OrbitStates.from_table(vstack([states.to_table(), other]))
    with pytest.raises(SchemaError, match="no objects"):
        OrbitStates.from_table(states.to_table()[:0])


def test_objects_that_cannot_be_followed_have_no_states() -> None:
    orbits = make_orbits(3)
    # The planets are known from the year 1000 on.
    orbits["epoch"][1] = -400000.0
    states, error = compute_orbit_states(orbits, BEGIN, END, 30.0, n_threads=1)
    assert np.isnan(error).tolist() == [False, True, False]
    assert np.isnan(states.position).all(axis=(1, 2)).tolist() == [False, True, False]


def test_threads_do_not_matter(orbits: Table) -> None:
    one, error = compute_orbit_states(orbits, BEGIN, END, 30.0, n_threads=1)
    four, other_error = compute_orbit_states(orbits, BEGIN, END, 30.0, n_threads=4)
    assert error.tobytes() == other_error.tobytes()
    for column, array in one.items():
        assert array.tobytes() == getattr(four, column.name).tobytes()
