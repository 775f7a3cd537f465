# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects that are moved out and turned to where they are to be seen."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.coordinates import CartesianRepresentation, SkyCoord

from lsst.meas.tno._placement import place, sky_direction
from lsst.meas.tno._planets import GM_SYSTEM

MAS = np.radians(1.0 / 3.6e6)
"""Radians in a milliarcsecond."""

OBLIQUITY = np.radians(84381.448 / 3600.0)

POLE = np.array([0.0, -np.sin(OBLIQUITY), np.cos(OBLIQUITY)])
"""North pole of the ecliptic of J2000, ICRS."""

N = 4000


def unit_vectors(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return isotropic directions, the first four of them the poles of the
    equator and of the ecliptic.
    """
    vectors = rng.normal(size=(n, 3))
    vectors[:4] = [0, 0, 1], [0, 0, -1], POLE, -POLE
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def length(vectors: np.ndarray) -> np.ndarray:
    """Return the lengths of vectors."""
    return np.linalg.norm(vectors, axis=-1)


def random_states(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Return positions, velocities, scales, directions and observers. Orbits
    are bound and unbound; nothing comes nearer than the observer is.
    """
    position = unit_vectors(rng, N) * np.exp(rng.uniform(np.log(3.0), np.log(200.0), N))[:, np.newaxis]
    escape = np.sqrt(2 * GM_SYSTEM / length(position))
    velocity = unit_vectors(rng, N)[::-1] * (escape * rng.uniform(0.1, 1.2, N))[:, np.newaxis]
    scale = np.exp(rng.uniform(np.log(0.5), np.log(100.0), N))
    observer = unit_vectors(rng, N)[rng.permutation(N)] * rng.uniform(0.97, 1.03, N)[:, np.newaxis]
    return position, velocity, scale, unit_vectors(rng, N)[rng.permutation(N)], observer


def eccentricity(position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """Return eccentricities of orbits about the barycentre."""
    momentum = np.cross(position, velocity)
    return length(np.cross(velocity, momentum) / GM_SYSTEM - position / length(position)[:, np.newaxis])


def heading(position: np.ndarray, velocity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts of velocities away from the barycentre, and along the
    circles of latitude of the ecliptic, over the speed.
    """
    away = np.sum(position * velocity, axis=1) / length(position)
    parallel = np.cross(POLE, position)
    parallel /= length(parallel)[:, np.newaxis]
    return away / length(velocity), np.sum(parallel * velocity, axis=1) / length(velocity)


def test_directions_are_those_of_astropy() -> None:
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 360, 50), rng.uniform(-90, 90, 50)
    expected = SkyCoord(ra, dec, unit="deg").cartesian.xyz.value.T
    np.testing.assert_allclose(sky_direction(ra, dec), expected, rtol=0, atol=1e-15)


def test_objects_are_seen_where_they_are_put() -> None:
    position, velocity, scale, direction, observer = random_states(np.random.default_rng(2))
    placed, _, distance = place(position, velocity, scale, direction, observer)
    ray = placed - observer
    # The cross product keeps the digits of small angles.
    error = length(np.cross(ray, direction)) / length(ray)
    assert error.max() < 1e-5 * MAS
    assert np.all(np.sum(ray * direction, axis=1) > 0)
    np.testing.assert_allclose(distance, length(ray), rtol=1e-12)
    as_seen = SkyCoord(CartesianRepresentation(*ray.T))
    wanted = SkyCoord(CartesianRepresentation(*direction.T))
    assert as_seen.separation(wanted).mas.max() < 1e-5


def test_orbits_grow_and_stay_of_the_same_kind() -> None:
    position, velocity, scale, direction, observer = random_states(np.random.default_rng(3))
    placed, moving, _ = place(position, velocity, scale, direction, observer)
    np.testing.assert_allclose(length(placed), scale * length(position), rtol=1e-13)
    np.testing.assert_allclose(length(moving), length(velocity) / np.sqrt(scale), rtol=1e-13)
    energy = length(velocity) ** 2 / 2 - GM_SYSTEM / length(position)
    grown = length(moving) ** 2 / 2 - GM_SYSTEM / length(placed)
    # Near a parabola the energy is a small difference.
    np.testing.assert_allclose(grown * scale, energy, rtol=0, atol=1e-13 * GM_SYSTEM)
    momentum = length(np.cross(position, velocity))
    np.testing.assert_allclose(length(np.cross(placed, moving)), momentum * np.sqrt(scale), rtol=1e-11)
    np.testing.assert_allclose(eccentricity(placed, moving), eccentricity(position, velocity), atol=1e-11)


def test_objects_go_the_same_way_along_the_ecliptic_and_off_it() -> None:
    position, velocity, scale, direction, observer = random_states(np.random.default_rng(4))
    placed, moving, _ = place(position, velocity, scale, direction, observer)
    # At the poles of the ecliptic there is no north.
    placeable = (np.abs(placed @ POLE) < 0.9999 * length(placed)) & (
        np.abs(position @ POLE) < 0.9999 * length(position)
    )
    assert np.sum(placeable) > 0.99 * N
    for before, after in zip(
        heading(position[placeable], velocity[placeable]),
        heading(placed[placeable], moving[placeable]),
        strict=True,
    ):
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-11)
    # With these two the same, north is so but for its sign.
    north = np.cross(position, np.cross(POLE, position))
    north_after = np.cross(placed, np.cross(POLE, placed))
    before, after = np.sum(north * velocity, axis=1), np.sum(north_after * moving, axis=1)
    assert np.all(np.sign(before[placeable]) == np.sign(after[placeable]))


def test_an_object_that_is_where_it_is_seen_stays() -> None:
    rng = np.random.default_rng(5)
    position, velocity, _, _, observer = random_states(rng)
    ray = position - observer
    placed, moving, _ = place(position, velocity, np.ones(N), ray / length(ray)[:, np.newaxis], observer)
    np.testing.assert_allclose(placed, position, atol=1e-12)
    # The first are at poles, where rounding makes the parallel any direction.
    np.testing.assert_allclose(moving[4:], velocity[4:], rtol=0, atol=1e-11 * length(velocity).max())


@pytest.mark.parametrize("scale", [0.1, 0.5, 0.97])
def test_what_is_inside_of_the_observer_s_orbit_is_not_seen_outwards(scale: float) -> None:
    rng = np.random.default_rng(6)
    observer = unit_vectors(rng, N)
    position = unit_vectors(rng, N)[::-1]
    velocity = 0.017 * unit_vectors(rng, N)[rng.permutation(N)]
    direction = unit_vectors(rng, N)[rng.permutation(N)]
    # Of that line of sight, what is nearest to the barycentre.
    along = np.sum(observer * direction, axis=1)
    nearest = np.where(along < 0, np.sqrt(1 - along**2), 1.0)
    placed, moving, distance = place(position, velocity, np.full(N, scale), direction, observer)
    unseen = scale < nearest
    assert 0 < unseen.sum() < N
    assert np.all(np.isnan(placed[unseen]).all(axis=1) & np.isnan(moving[unseen]).all(axis=1))
    assert np.all(np.isnan(distance) == unseen)
    # The rest is towards the Sun, and right.
    ray = (placed - observer)[~unseen]
    assert (length(np.cross(ray, direction[~unseen])) / length(ray)).max() < 1e-5 * MAS
    np.testing.assert_allclose(length(placed[~unseen]), scale, rtol=1e-12)
