# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Injected objects that move on the orbits of a catalog."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.coordinates import SkyCoord, angular_separation, get_body_barycentric_posvel
from astropy.table import Table, vstack
from astropy.time import Time
from injection_builders import astropy_observer, make_orbit_states, make_sequences, mask_pixels, pad
from scipy import stats

import lsst.daf.butler.tests as butler_tests
from lsst.meas.tno._planets import GM_SYSTEM
from lsst.meas.tno._schema import SCHEMAS, validate_table
from lsst.meas.tno._sequences import BANDS, ImageSequences, Injection
from lsst.meas.tno.ephemerides import compute_ephemerides
from lsst.meas.tno.orbit_states import OrbitStates
from lsst.meas.tno.orbits import make_synthetic_orbits, offset_mean_anomaly
from lsst.meas.tno.photometry import TNO_COLOURS, V_MINUS_R, njy_to_ab_mag
from lsst.meas.tno.positions import split_of_orbits
from lsst.meas.tno.tasks.inject_tnos import InjectTnosConfig, InjectTnosConnections, InjectTnosTask
from lsst.pex.config import FieldValidationError
from lsst.pipe.base.testUtils import assertValidOutput, lintConnections, makeQuantum, runTestQuantum

DATA_ID = {"skymap": "map", "tract": 7, "patch": 42}

EPOCH = 60000.0

GAUSS = 0.01720209895

SPEED_OF_LIGHT = 299792.458 / 149597870.7 * 86400.0
"""au/day."""

OBLIQUITY = np.radians(84381.448 / 3600.0)

TO_ICRS = np.array(
    [
        [1.0, 0.0, 0.0],
        [0.0, np.cos(OBLIQUITY), -np.sin(OBLIQUITY)],
        [0.0, np.sin(OBLIQUITY), np.cos(OBLIQUITY)],
    ]
)
"""Rotation from the ecliptic of J2000."""

POLE = (270.0, 90.0 - 84381.448 / 3600.0)
"""Position of the pole of the ecliptic, where parallax is largest, deg."""

MAS = np.radians(1.0 / 3.6e6)


def make_task(
    population: str = "orbits", *, fraction: float = 1.0, seed: int = 1, noise: bool = True, **values: Any
) -> InjectTnosTask:
    """Return a task; other arguments configure the population."""
    config = InjectTnosConfig()
    config.population.name = population
    config.fraction, config.seed = fraction, seed
    if not noise:
        config.zero_points = dict.fromkeys(BANDS, 50.0)
    for name, value in values.items():
        setattr(config.population[population], name, value)
    config.validate()
    return InjectTnosTask(config=config)


@functools.cache
def make_orbits(n: int = 300) -> Table:
    """Return synthetic orbits of all populations."""
    return make_synthetic_orbits(n, np.random.default_rng(1), epoch=EPOCH)


@functools.cache
def make_states(n: int = 300) -> OrbitStates:
    """Return the states of `make_orbits`."""
    return make_orbit_states(make_orbits(n))


def circular_orbits(radius: float, n: int = 60, *, inclination: float = 0.0) -> Table:
    """Return circular orbits of a radius, au, that objects are all around."""
    orbits = make_orbits(n).copy()
    orbits["q"][:], orbits["e"][:], orbits["i"][:], orbits["node"][:] = radius, 0.0, inclination, 0.0
    orbits["peri"][:], orbits["tp"][:] = np.linspace(0, 360, n, endpoint=False), EPOCH
    return orbits


def small_sequences(n: int, seed: int, **values: Any) -> ImageSequences:
    """Return sequences of small images, of splits in turn."""
    sequences = make_sequences(
        n, np.random.default_rng(seed), **({"size": 15, "psf_size": 7, "n_times": 12} | values)
    )
    sequences.split[:] = np.arange(n) % 3
    return sequences


def put_at(sequences: ImageSequences, row: int, ra: float, dec: float) -> None:
    """Move a sequence on the sky, in place."""
    sequences.ra[row], sequences.dec[row] = ra, dec
    sequences.centre_ra[row, sequences.valid[row]], sequences.centre_dec[row, sequences.valid[row]] = ra, dec


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of unit length."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def tangent_axes(ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the unit vectors to positions, to their east and north."""
    ra, dec = np.radians(ra), np.radians(dec)
    zero = np.zeros_like(ra)
    towards = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
    east = np.stack([-np.sin(ra), np.cos(ra), zero], axis=-1)
    return towards, east, np.cross(towards, east)


def directions(sequences: ImageSequences, truth: Injection, row: int) -> np.ndarray:
    """Return where an object is in the valid images, unit vectors, from the
    pixels of the truth.
    """
    valid = sequences.valid[row]
    pixel = np.stack([truth.inj_x[row, valid], truth.inj_y[row, valid], np.ones(valid.sum())], axis=-1)
    plane = np.radians(np.einsum("tij,tj->ti", sequences.pixel_to_sky[row, valid], pixel) / 3600.0)
    towards, east, north = tangent_axes(sequences.centre_ra[row, valid], sequences.centre_dec[row, valid])
    return unit(towards + plane[:, :1] * east + plane[:, 1:] * north)


def angle_between(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return small angles between unit vectors, radians."""
    return np.linalg.norm(np.cross(one, other), axis=-1)


def kepler_state(orbit: Table.Row, mjd_tdb: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the barycentric state on an ellipse about astropy's Sun."""
    a = orbit["q"] / (1 - orbit["e"])
    mean = GAUSS / a**1.5 * (mjd_tdb - orbit["tp"])
    anomaly = mean
    for _ in range(60):
        anomaly -= (anomaly - orbit["e"] * np.sin(anomaly) - mean) / (1 - orbit["e"] * np.cos(anomaly))
    b, rate = a * np.sqrt(1 - orbit["e"] ** 2), GAUSS / a**1.5 / (1 - orbit["e"] * np.cos(anomaly))
    in_plane = np.array(
        [
            [a * (np.cos(anomaly) - orbit["e"]), b * np.sin(anomaly), 0.0],
            [-a * np.sin(anomaly) * rate, b * np.cos(anomaly) * rate, 0.0],
        ]
    )
    for angle, axes in (("peri", (0, 1)), ("i", (1, 2)), ("node", (0, 1))):
        sine, cosine = np.sin(np.radians(orbit[angle])), np.cos(np.radians(orbit[angle]))
        first, second = in_plane[:, axes[0]].copy(), in_plane[:, axes[1]].copy()
        in_plane[:, axes[0]], in_plane[:, axes[1]] = (
            cosine * first - sine * second,
            sine * first + cosine * second,
        )
    sun = get_body_barycentric_posvel("sun", Time(mjd_tdb, format="mjd", scale="tdb"), ephemeris="builtin")
    position, velocity = in_plane @ TO_ICRS.T
    return position + sun[0].xyz.to_value("AU"), velocity + sun[1].xyz.to_value("AU / d")


def turned(velocity: np.ndarray, position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return a velocity at a position as one at another: as much outwards,
    along the circle of latitude of the ecliptic, and to its north.
    """

    def axes(at: np.ndarray) -> np.ndarray:
        east = unit(np.cross(TO_ICRS[:, 2], at))
        return np.array([unit(at), east, np.cross(unit(at), east)])

    return (axes(position) @ velocity) @ axes(target)


def independent_track(
    orbit: Table.Row, scale: float, seen: np.ndarray, image: int, mjd_tdb: np.ndarray, observer: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return directions and distances of an object that was seen in one image
    where it was put, at all times.

    It moves on a parabola in the field of the barycentre, from where it is on
    the line of sight, at its distance from the barycentre.
    """
    position, velocity = kepler_state(orbit, mjd_tdb[image])
    radius, towards, at = scale * np.linalg.norm(position), seen[image], observer[image]
    along = at @ towards
    distance = np.sqrt(along**2 - at @ at + radius**2) - along
    begin = at + distance * towards
    left = mjd_tdb[image] - distance / SPEED_OF_LIGHT
    speed = turned(velocity / np.sqrt(scale), position, begin)
    pull = -GM_SYSTEM * begin / radius**3
    light_time = np.full(len(mjd_tdb), distance / SPEED_OF_LIGHT)
    for _ in range(4):
        elapsed = (mjd_tdb - light_time - left)[:, np.newaxis]
        ray = begin + elapsed * speed + elapsed**2 / 2 * pull - observer
        light_time = np.linalg.norm(ray, axis=1) / SPEED_OF_LIGHT
    return unit(ray), light_time * SPEED_OF_LIGHT


def worst_misfit(
    sequences: ImageSequences, truth: Injection, row: int, orbits: Table, *, factor: float = 1.0
) -> tuple[float, float]:
    """Return how far an object is from its independent track, mas, and the
    relative error of its distance. Which image it was put in is not known: the
    best is taken. With a factor, the track is that of another scale.
    """
    valid = sequences.valid[row]
    mjd = sequences.mjd[row, valid]
    mjd_tdb, observer = astropy_observer(np.append(mjd, mjd.mean()))
    seen = directions(sequences, truth, row)
    orbit = orbits[orbits["name"].tolist().index(truth.source_orbit[row])]
    results = []
    for image in range(len(mjd)):
        track, distance = independent_track(
            orbit, factor * truth.distance_scale[row], seen, image, mjd_tdb, observer
        )
        off = angle_between(track[:-1], seen).max() / MAS
        results.append((off, abs(distance[-1] / truth.distance[row] - 1)))
    return min(results)


def sky_rate(sequences: ImageSequences, truth: Injection, row: int) -> tuple[float, float]:
    """Return rate, arcsec/hour, and position angle, deg, from the track's
    derivative at the mean time.
    """
    seen = directions(sequences, truth, row)
    mjd = sequences.mjd[row, sequences.valid[row]]
    days = (mjd - mjd.mean()) / np.ptp(mjd)
    coefficients = np.polynomial.polynomial.polyfit(days, seen, min(4, len(mjd) - 1))
    towards, moving = unit(coefficients[0]), coefficients[1] / (np.ptp(mjd) * 24)
    east = unit(np.cross([0, 0, 1], towards))
    v_east, v_north = moving @ east, moving @ np.cross(towards, east)
    return (
        float(np.degrees(np.hypot(v_east, v_north)) * 3600),
        float(np.degrees(np.arctan2(v_east, v_north)) % 360),
    )


# Objects of a catalog, anywhere.


def test_parallax_and_orbital_motion_of_hours() -> None:
    clean, orbits = small_sequences(60, 1, hours=0.6), make_orbits()
    truth = make_task().run(clean, make_states()).injected.injection
    rows = np.flatnonzero(truth.injected)
    assert len(rows) > 50
    misfits = np.array([worst_misfit(clean, truth, row, orbits) for row in rows])
    assert misfits[:, 0].max() < 0.05
    assert misfits[:, 1].max() < 1e-6
    # The test would see a parallax that is wrong by a percent.
    wrong = [worst_misfit(clean, truth, row, orbits, factor=1.01)[0] for row in rows]
    assert np.median(wrong) > 1.0


def test_parallax_and_orbital_motion_of_days() -> None:
    clean, orbits = small_sequences(40, 2, hours=120.0, size=31), make_orbits()
    task = make_task(distance_scale_min=20.0, distance_scale_max=300.0, window_size=6.0)
    truth = task.run(clean, make_states()).injected.injection
    rows = np.flatnonzero(truth.injected)
    assert len(rows) > 35
    assert truth.distance[rows].min() > 500
    misfits = np.array([worst_misfit(clean, truth, row, orbits) for row in rows])
    assert misfits[:, 0].max() < 1.0
    assert misfits[:, 1].max() < 1e-5
    wrong = [worst_misfit(clean, truth, row, orbits, factor=1.01)[0] for row in rows]
    assert np.median(wrong) > 3.0


def test_rate_and_position_angle_are_those_of_the_pixels() -> None:
    clean = small_sequences(60, 3, hours=0.6, n_times=16)
    truth = make_task().run(clean, make_states()).injected.injection
    for row in np.flatnonzero(truth.injected):
        rate, angle = sky_rate(clean, truth, row)
        assert rate == pytest.approx(truth.rate[row], rel=1e-5)
        assert abs((angle - truth.position_angle[row] + 180) % 360 - 180) < 1e-3


def test_rates_at_opposition() -> None:
    """The Earth overtakes: 148 arcsec an hour over the distance, less what
    the object itself moves, and the turning Earth adds up to 1.5 %.
    """
    clean = small_sequences(60, 4, hours=0.1)
    sun = SkyCoord(get_body_barycentric_posvel("sun", Time(60000.0, format="mjd"), ephemeris="builtin")[0])
    earth = get_body_barycentric_posvel("earth", Time(60000.0, format="mjd"), ephemeris="builtin")[0]
    opposition = SkyCoord(earth - sun.cartesian, frame="icrs")
    for row in range(len(clean)):
        put_at(clean, row, opposition.ra.deg, opposition.dec.deg)
    task = make_task(distance_scale_max=30.0, min_times_inside=1)
    states = make_orbit_states(circular_orbits(40.0))
    truth = task.run(clean, states).injected.injection
    d = truth.distance[truth.injected]
    assert d.min() < 60
    assert d.max() > 900
    # The Earth's speed that day, 0.5 % off its mean, and 1 au less than r.
    expected = 148.0 / d * (1 - 1 / np.sqrt(d + 1))
    np.testing.assert_allclose(truth.rate[truth.injected], expected, rtol=0.03)
    np.testing.assert_allclose(truth.rate[truth.injected] * d, 135, atol=12)
    # All of them the same way, to the west along the ecliptic.
    assert np.ptp(truth.position_angle[truth.injected]) < 5
    assert np.all(np.abs(truth.position_angle[truth.injected] - 270) < 30)


def test_distances_and_places_are_uniform_where_everything_fits() -> None:
    clean = small_sequences(900, 5, hours=1.0, n_times=3, psf_size=3)
    task = make_task(min_times_inside=1, distance_scale_min=2.0, distance_scale_max=200.0, window_size=2.8)
    truth = task.run(clean, make_states()).injected.injection
    # In one image it always is, and that one is random.
    assert truth.injected.all()
    scale = np.log(truth.distance_scale / 2) / np.log(100)
    assert stats.kstest(scale, "uniform").pvalue > 0.01
    states = make_states()
    radius = np.linalg.norm(states.position[:, 0], axis=1)
    row = [states.name.tolist().index(name) for name in truth.source_orbit]
    np.testing.assert_allclose(truth.distance, radius[row] * truth.distance_scale, rtol=0.02)
    # Each object of the split as often as others: a chi^2 of about its mean.
    for split in range(3):
        names = states.name[split_of_orbits(states.name) == split]
        counts = [np.sum(truth.source_orbit[clean.split == split] == name) for name in names]
        assert sum(counts) == 300
        assert stats.chisquare(counts).pvalue > 0.001
    # Far objects stand still, and are anywhere in the window less its margin.
    far = truth.distance > 2000
    seen = np.array([directions(clean, truth, row)[1] for row in np.flatnonzero(far)])
    towards, east, north = tangent_axes(clean.ra[far], clean.dec[far])
    for axis in (east, north):
        offset = np.degrees(np.sum(seen * axis, axis=1)) * 3600
        assert np.abs(offset).max() < 1.0 + 0.07
        assert stats.kstest(np.clip(offset / 2 + 0.5, 0, 1), "uniform").pvalue > 0.01


def test_orbits_of_splits_are_separate(caplog: pytest.LogCaptureFixture) -> None:
    clean = small_sequences(90, 6)
    truth = make_task().run(clean, make_states()).injected.injection
    injected = truth.injected
    assert injected.sum() > 80
    np.testing.assert_array_equal(split_of_orbits(truth.source_orbit[injected]), clean.split[injected])
    assert set(truth.source_orbit[injected]) <= set(make_states().name)
    # A catalog with orbits of two splits has none for the third.
    states = make_states()
    states = states.select(split_of_orbits(states.name) != 1)
    with caplog.at_level(logging.WARNING):
        truth = make_task().run(clean, states).injected.injection
    assert "is for sequences of the validation split" in caplog.text
    assert not truth.injected[clean.split == 1].any()
    assert truth.injected[clean.split != 1].sum() > 50


@pytest.mark.parametrize("brightness", ["snr", "mag", "absolute"])
def test_brightness(brightness: str) -> None:
    clean, states = small_sequences(40, 7), make_states()
    task = make_task(noise=False, brightness=brightness, mag_min=22.0, mag_max=24.0, snr_min=5.0, snr_max=9.0)
    truth = task.run(clean, states).injected.injection
    rows = np.flatnonzero(truth.injected)
    assert len(rows) > 30
    if brightness == "snr":
        assert np.all((truth.snr[rows] >= 5) & (truth.snr[rows] <= 9))
    if brightness == "mag":
        assert np.all((truth.mag[rows] >= 22) & (truth.mag[rows] <= 24))
        assert truth.mag[rows].std() > 0.3
    for row in rows:
        band = np.array(list(BANDS))[clean.band[row]]
        on = truth.inj_flux[row] > 0
        mag = njy_to_ab_mag(truth.inj_flux[row, on])
        # Within an hour neither distance nor phase change by more than 1e-3.
        expected = truth.mag[row] + np.array([TNO_COLOURS[name] for name in band[on]])
        np.testing.assert_allclose(mag, expected, atol=2e-3)
    if brightness == "absolute":
        np.testing.assert_allclose(
            truth.mag[rows], [_magnitude(clean, truth, row, states) for row in rows], atol=1e-3
        )


def _magnitude(
    clean: ImageSequences, truth: Injection, row: int, states: OrbitStates, mjd: float | None = None
) -> float:
    """Return the r magnitude of an object from its H and G, where it is at
    the mean time or another.
    """
    mjd_mean = clean.mjd[row][clean.valid[row]].mean()
    mjd_tdb, observer = astropy_observer(mjd_mean if mjd is None else mjd)
    sun = get_body_barycentric_posvel("sun", Time(mjd_tdb, format="mjd", scale="tdb"), ephemeris="builtin")[0]
    at_mean = np.argmin(np.abs(clean.mjd[row] - (mjd_mean if mjd is None else mjd)))
    ray = truth.distance[row] * directions(clean, truth, row)[at_mean]
    from_sun = ray + observer[0] - sun.xyz.to_value("AU")[:, 0]
    r, d = np.linalg.norm(from_sun), np.linalg.norm(ray)
    phase = np.arccos(ray @ from_sun / (r * d))
    orbit = states.name.tolist().index(truth.source_orbit[row])
    bright, dark = np.exp(-3.33 * np.tan(phase / 2) ** 0.63), np.exp(-1.87 * np.tan(phase / 2) ** 1.22)
    slope = states.G[orbit]
    reduced = states.H[orbit] - 2.5 * np.log10((1 - slope) * bright + slope * dark)
    return reduced + 5 * np.log10(r * d) - V_MINUS_R


def test_brightness_follows_distance_and_phase() -> None:
    """Over 60 days the phase of a distant object changes the most."""
    clean = small_sequences(20, 8, hours=24 * 60.0, size=31)
    clean.band[:] = BANDS.index("r")
    task = make_task(
        noise=False,
        distance_scale_min=300.0,
        distance_scale_max=3000.0,
        window_size=6.0,
        brightness="absolute",
    )
    states = make_orbit_states(make_orbits(), mjd_begin=59980.0, mjd_end=60080.0)
    truth = task.run(clean, states).injected.injection
    rows = np.flatnonzero(truth.injected)
    assert len(rows) > 10
    for row in rows:
        on = truth.inj_flux[row] > 0
        found = njy_to_ab_mag(truth.inj_flux[row, on])
        expected = [_magnitude(clean, truth, row, states, mjd) for mjd in clean.mjd[row, on]]
        # The distance changes by up to 1 au in 10,000.
        np.testing.assert_allclose(found - found[0], np.array(expected) - expected[0], atol=2e-3)


def test_reference_band_and_colours_are_configurable() -> None:
    clean = small_sequences(20, 9)
    colours = dict(TNO_COLOURS, g=1.0, i=-0.5)
    task = make_task(noise=False, reference_band="g", colours=colours, brightness="absolute", v_minus_r=0.5)
    truth = task.run(clean, make_states()).injected.injection
    plain = make_task(noise=False, brightness="absolute").run(clean, make_states()).injected.injection
    np.testing.assert_array_equal(truth.inj_x, plain.inj_x)
    rows = np.flatnonzero(truth.injected)
    np.testing.assert_allclose(truth.mag[rows], plain.mag[rows] + 1.0 - (0.5 - V_MINUS_R), atol=1e-9)
    for row in rows:
        on = truth.inj_flux[row] > 0
        expected = truth.mag[row] - 1.0 + np.array([colours[BANDS[band]] for band in clean.band[row, on]])
        np.testing.assert_allclose(njy_to_ab_mag(truth.inj_flux[row, on]), expected, atol=2e-3)


def test_objects_without_magnitude() -> None:
    clean, states = small_sequences(30, 10), make_states().select(slice(0, 300))
    states.H = np.where(np.arange(300) % 2, states.H, np.nan)
    # A drawn S/N needs none.
    truth = make_task().run(clean, states).injected.injection
    chosen = np.isin(truth.source_orbit, states.name[np.isnan(states.H)])
    assert 5 < chosen.sum() < 25
    assert np.all(np.isfinite(truth.mag[truth.injected]))
    truth = make_task(brightness="absolute").run(clean, states).injected.injection
    assert truth.injected.sum() > 20
    assert not np.isin(truth.source_orbit, states.name[np.isnan(states.H)]).any()
    states.H = np.full(300, np.nan)
    with pytest.raises(ValueError, match="None of the 300 objects of the catalog has an absolute magnitude"):
        make_task(brightness="absolute").run(clean, states)


def test_same_inputs_same_bytes_whatever_else_is_there() -> None:
    clean, states = small_sequences(14, 11), make_states()
    task = make_task()
    first, second = (task.run(clean, states).injected for _ in range(2))
    part = task.run(clean[np.array([9, 4, 5])], states).injected
    for name in ("image", "variance", "mask"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()
        assert getattr(part, name).tobytes() == getattr(first, name)[[9, 4, 5]].tobytes()
    for column, array in first.injection.items():
        if column.dtype != "U":
            assert array.tobytes() == getattr(second.injection, column.name).tobytes()
            assert getattr(part.injection, column.name).tobytes() == array[[9, 4, 5]].tobytes(), column.name
    assert second.injection.source_orbit.tolist() == first.injection.source_orbit.tolist()
    assert part.injection.source_orbit.tolist() == first.injection.source_orbit[[9, 4, 5]].tolist()
    other = make_task(seed=2).run(clean, states).injected.injection
    assert not np.any(other.distance_scale == first.injection.distance_scale)


def test_min_times_inside_and_max_tries() -> None:
    clean, states = small_sequences(60, 12, hours=10.0), make_states()
    task = make_task(min_times_inside=7, max_tries=9, distance_scale_max=3.0)
    truth = task.run(clean, states).injected.injection
    rows = np.flatnonzero(truth.injected)
    assert 5 < len(rows) < 55
    assert task.metadata["n_left_out"] == 60 - len(rows)
    n_inside = []
    for row in rows:
        seen = directions(clean, truth, row)
        towards, east, north = tangent_axes(clean.ra[row], clean.dec[row])
        on_plane = np.array([seen @ east, seen @ north]) / (seen @ towards)
        n_inside.append(np.sum(np.abs(np.degrees(on_plane)).max(axis=0) * 3600 <= 1.1 + 1e-6))
    assert min(n_inside) >= 7
    assert min(n_inside) < 12
    # More tries, more objects; those of few tries are among them.
    more = make_task(min_times_inside=7, max_tries=200, distance_scale_max=3.0).run(clean, states)
    more = more.injected.injection
    assert more.injected.sum() > len(rows)
    np.testing.assert_array_equal(more.source_orbit[rows], truth.source_orbit[rows])
    n_injected = [
        make_task(min_times_inside=7, max_tries=n, distance_scale_max=3.0).run(clean, states).injected
        for n in (1, 3, 8)
    ]
    n_injected = [injected.injection.injected.sum() for injected in n_injected]
    assert 0 < n_injected[0] < n_injected[1] < n_injected[2] <= len(rows)


def test_objects_are_put_into_the_window_of_a_random_image() -> None:
    """Of two images that are hours and an arcminute apart, objects are inside
    of one only: of either as often.
    """
    clean = small_sequences(400, 30, n_times=2, psf_size=3)
    clean.mjd[:] = 60000.0 + np.array([0.0, 0.2])
    clean.centre_dec[:, 1] += 1.0 / 60.0
    task = make_task(min_times_inside=1, distance_scale_max=2.0)
    truth = task.run(clean, make_states()).injected.injection
    assert truth.injected.all()
    is_on = truth.inj_flux > 0
    assert np.all(is_on.sum(axis=1) == 1)
    # Three sigma of 400 coins.
    assert abs(is_on[:, 0].sum() - 200) < 30


def test_padded_and_empty_sequences() -> None:
    clean = small_sequences(6, 13)
    pad(clean, 0, 5)
    pad(clean, 1, 0)
    pad(clean, 2, 1)
    task = make_task()
    injected = task.run(clean, make_states()).injected
    injected.validate()
    truth = injected.injection
    assert not truth.injected[1]
    assert truth.injected[[0, 2]].all()
    assert np.all(np.isfinite(truth.inj_x[0]) == clean.valid[0])
    assert np.all(truth.inj_flux[0, 5:] == 0)
    assert task.metadata["n_left_out"] == 6 - truth.injected.sum()
    assert np.all(truth.inj_flux[1] == 0)
    # Nothing but padding is nothing to do.
    for row in range(6):
        pad(clean, row, 0)
    assert not make_task().run(clean, make_states()).injected.injection.injected.any()


def test_images_without_the_object_have_no_flux_and_are_as_they_were() -> None:
    clean = small_sequences(60, 14, hours=8.0)
    injected = make_task(min_times_inside=3, distance_scale_max=3.0).run(clean, make_states()).injected
    truth = injected.injection
    outside = ~((truth.inj_x >= -0.5) & (truth.inj_x < 14.5) & (truth.inj_y >= -0.5) & (truth.inj_y < 14.5))
    assert np.all((truth.inj_flux == 0) == outside)
    assert (outside & truth.injected[:, np.newaxis]).sum() > 50
    # 25 pixels are beyond the PSF's and the kernel's reach.
    far = truth.injected[:, np.newaxis] & (np.hypot(truth.inj_x - 7, truth.inj_y - 7) > 25)
    assert far.sum() > 10
    np.testing.assert_array_equal(injected.image[far], clean.image[far])
    np.testing.assert_array_equal(injected.mask[far], clean.mask[far])
    assert np.all(truth.inj_flux[~truth.injected] == 0)
    np.testing.assert_array_equal(injected.image[~truth.injected], clean.image[~truth.injected])


def test_nothing_that_can_stay_is_an_error_with_numbers() -> None:
    clean, states = small_sequences(5, 15, hours=500.0), make_states()
    for row in range(5):
        put_at(clean, row, *POLE)
    before = clean.image.copy()
    with pytest.raises(
        ValueError, match="None of the 300 objects can stay inside of window_size=3.0"
    ) as error:
        make_task().run(clean, states)
    message = str(error.value)
    assert "edge_margin=0.4" in message
    assert "distance_scale_max=10.0" in message
    assert "min_times_inside=50" in message
    distance = float(message.split("even at ")[1].split()[0])
    farthest = 10 * np.linalg.norm(states.position[:, 0], axis=1).max()
    assert distance == pytest.approx(farthest, rel=2e-3)
    moved = float(message.split("at least ")[1].split()[0])
    # Of 500 hours of the Earth's motion, as far as it is across.
    assert 2.2 < moved < 148 / farthest * 500
    np.testing.assert_array_equal(clean.image, before)
    # Farther, or with a larger window, or in fewer images, they can.
    for values in ({"distance_scale_max": 1000.0}, {"window_size": 60.0}, {"min_times_inside": 2}):
        make_task(**values).run(clean, states)
    # A single short sequence among them can have one.
    clean.mjd[2] = 60000.0 + np.linspace(0, 0.01, clean.n_times)
    truth = make_task().run(clean, states).injected.injection
    assert np.flatnonzero(truth.injected).tolist() == [2]


def test_few_images_close_in_time_are_enough() -> None:
    """A sequence that is longer than all others can have images that are
    nearer to each other.
    """
    clean, states = small_sequences(20, 21, hours=500.0), make_states()
    for row in range(20):
        put_at(clean, row, *POLE)
    clean.mjd[:] = 60000.0 + np.linspace(0.0, 20.0, clean.n_times)
    clean.mjd[-1] = 60000.0 + np.append(np.linspace(0.0, 0.01, 7), np.linspace(10.0, 30.0, 5))
    truth = make_task(min_times_inside=7).run(clean, states).injected.injection
    assert np.flatnonzero(truth.injected).tolist() == [19]


def test_near_objects_that_stand_still_are_no_error() -> None:
    """Where the Earth's motion and their own cancel, objects at 40 au stay
    for days, while those at ten times that do not.
    """
    orbits = circular_orbits(40.0, 200)
    mjd = 60000.0 + np.linspace(-1.3, 1.3, 12)
    seen = compute_ephemerides(orbits, mjd, n_threads=1)
    still = np.argmin(np.hypot(seen.rate_ra_cosdec, seen.rate_dec).mean(axis=1))
    clean = small_sequences(3, 16)
    clean.mjd[:] = mjd
    for row in range(3):
        put_at(clean, row, seen.ra[still].mean(), seen.dec[still].mean())
    truth = make_task(max_tries=2000).run(clean, make_orbit_states(orbits)).injected.injection
    assert truth.injected.any()
    assert truth.distance[truth.injected].max() < 100


def test_objects_that_return_are_no_error() -> None:
    """Two images in each of six seasons, half a year apart, at the pole of the
    ecliptic: the window has room for every second season's place only.
    """
    orbits = circular_orbits(40.0)
    clean = small_sequences(4, 17, size=31)
    clean.mjd[:] = 60000.0 + np.repeat(np.arange(6), 2) * 182.63 + 0.02 * (np.arange(12) % 2)
    for row in range(4):
        put_at(clean, row, *POLE)
    states = make_orbit_states(orbits, mjd_begin=59900.0, mjd_end=61000.0, step=30.0)
    values = {
        "distance_scale_min": 1000.0,
        "distance_scale_max": 1300.0,
        "window_size": 6.0,
        "max_tries": 400,
    }
    truth = make_task(min_times_inside=6, **values).run(clean, states).injected.injection
    assert truth.injected.all()
    with pytest.raises(ValueError, match="min_times_inside=7 images: even at 5"):
        make_task(min_times_inside=7, **values).run(clean, states)


def test_visits_outside_of_the_ephemerides() -> None:
    clean = small_sequences(4, 18)
    for shift, visit in ((-29.5, 0), (80.0, 11)):
        moved = small_sequences(4, 18)
        moved.mjd[2] += shift
        for population in ("orbits", "survey"):
            with pytest.raises(ValueError, match=rf"Visit {visit} of MJD .* is outside of the ephemerides"):
                make_task(population).run(moved, make_states())
    for population in ("orbits", "survey"):
        make_task(population).run(clean, make_states())
        with pytest.raises(ValueError, match="needs the ephemerides of an orbit catalog"):
            make_task(population).run(clean)


def test_windows_that_follow_the_parallax_of_a_distance() -> None:
    clean = small_sequences(30, 19, hours=3.0)
    states = make_orbit_states(circular_orbits(45.0, inclination=5.0))
    with pytest.raises(ValueError, match="can stay inside"):
        make_task(distance_scale_max=1.0).run(clean, states)
    for row in range(len(clean)):
        # What rests at 45 au.
        _, observer = astropy_observer(clean.mjd[row])
        middle, _, _ = tangent_axes(clean.ra[row], clean.dec[row])
        ray = unit(observer[6] + 45.0 * middle - observer)
        clean.centre_ra[row] = np.degrees(np.arctan2(ray[:, 1], ray[:, 0])) % 360
        clean.centre_dec[row] = np.degrees(np.arcsin(ray[:, 2]))
    drift = angular_separation(
        *np.radians([clean.centre_ra[:, 0], clean.centre_dec[:, 0]]),
        *np.radians([clean.centre_ra[:, -1], clean.centre_dec[:, -1]]),
    )
    assert np.degrees(drift).max() * 3600 > 6
    truth = make_task(distance_scale_max=1.0).run(clean, states).injected.injection
    rows = np.flatnonzero(truth.injected)
    assert len(rows) >= 20
    np.testing.assert_allclose(truth.distance[rows], 45, atol=1.2)
    orbits = circular_orbits(45.0, inclination=5.0)
    for row in rows:
        assert worst_misfit(clean, truth, row, orbits)[0] < 0.1
        # On pixels of each cutout, not of the first.
        assert np.all(truth.inj_flux[row] > 0)


def test_impossible_configurations() -> None:
    with pytest.raises(
        FieldValidationError, match="distance_scale_min=20.0 is above distance_scale_max=10.0"
    ):
        make_task(distance_scale_min=20.0)
    with pytest.raises(FieldValidationError, match="mag_min=28.0 is above"):
        make_task(mag_min=28.0)
    with pytest.raises(FieldValidationError):
        make_task(brightness="colour")


def test_connections_and_quantum(tmp_path: Path) -> None:
    lintConnections(InjectTnosConnections)  # type: ignore[arg-type]
    for population, has_orbits in (("linear", False), ("orbits", True), ("survey", True)):
        connections = InjectTnosConnections(config=make_task(population).config)
        assert ("ephemerides" in connections.inputs) == has_orbits
        assert ("ephemerides" in connections.allConnections) == has_orbits
    clean, states, task = small_sequences(6, 20), make_states(), make_task(fraction=0.5)
    result = task.run(clean, states)
    assertValidOutput(task, result)
    with butler_tests.makeTestRepo(str(tmp_path), {"skymap": ["map"], "tract": [7], "patch": [42]}) as repo:
        for name in ("tno_cutouts", "tno_cutouts_injected"):
            butler_tests.addDatasetType(repo, name, {"skymap", "tract", "patch"}, "ArrowAstropy")
        butler_tests.addDatasetType(repo, "tno_ephemerides", set(), "ArrowAstropy")
        with butler_tests.makeTestCollection(repo, uniqueId="run") as butler:
            butler.put(clean.to_arrow(), "tno_cutouts", DATA_ID)
            butler.put(states.to_table(), "tno_ephemerides")
            data_id = butler.registry.expandDataId(DATA_ID)
            quantum = makeQuantum(
                task, butler, data_id, {"cutouts": DATA_ID, "ephemerides": {}, "injected": DATA_ID}
            )
            runTestQuantum(task, butler, quantum, mockRun=False)
            table = butler.get("tno_cutouts_injected", DATA_ID)
    validate_table(table, SCHEMAS["tno_cutouts_injected"])
    written = ImageSequences.from_table(table)
    written.validate()
    assert written.image.tobytes() == result.injected.image.tobytes()
    assert written.injection.inj_x.tobytes() == result.injected.injection.inj_x.tobytes()
    assert written.injection.source_orbit.tolist() == result.injected.injection.source_orbit.tolist()
    assert written.injection.injected.sum() == 3
    assert len(set(written.injection.object_id[written.injection.injected])) == 3


# Objects of a catalog where they are.


def survey_sequences(
    orbits: Table, rows: list[int], n_empty: int, seed: int, **values: Any
) -> ImageSequences:
    """Return sequences where objects are at the mean time, and others."""
    clean = small_sequences(len(rows) + n_empty, seed, **values)
    seen = compute_ephemerides(orbits, clean.mean_mjd, n_threads=1)
    for sequence, row in enumerate(rows):
        put_at(clean, sequence, seen.ra[row, sequence], seen.dec[row, sequence])
    return clean


def assert_untouched(injected: ImageSequences, clean: ImageSequences, rows: np.ndarray) -> None:
    """Check that sequences are the same bit for bit, and have no truth."""
    for column, array in clean.items():
        assert getattr(injected, column.name)[rows].tobytes() == array[rows].tobytes(), column.name
    truth = injected.injection
    assert not truth.injected[rows].any()
    assert np.all(truth.inj_flux[rows] == 0)
    assert np.all(truth.object_id[rows] == "")
    assert np.all(truth.source_orbit[rows] == "")
    for name in ("distance", "distance_scale", "mag", "snr", "rate", "position_angle", "inj_x", "inj_y"):
        assert np.all(np.isnan(getattr(truth, name)[rows])), name


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_survey_objects_are_where_they_are(fraction: float) -> None:
    orbits = make_orbits()
    clean = survey_sequences(orbits, [3, 50, 120, 121, 299], 4, 21)
    task = make_task("survey", fraction=fraction, noise=False, faintest_mag=40.0)
    injected = task.run(clean, make_states()).injected
    injected.validate()
    truth = injected.injection
    assert truth.injected.tolist() == [True] * 5 + [False] * 4
    assert truth.source_orbit[:5].tolist() == orbits["name"][[3, 50, 120, 121, 299]].tolist()
    assert truth.object_id[:5].tolist() == truth.source_orbit[:5].tolist()
    np.testing.assert_array_equal(truth.distance_scale[:5], 1.0)
    for sequence, row in enumerate((3, 50, 120, 121, 299)):
        mjd = np.append(clean.mjd[sequence], clean.mean_mjd[sequence])
        seen = compute_ephemerides(orbits[row : row + 1], mjd, n_threads=1)
        expected, _, _ = tangent_axes(seen.ra[0, :-1], seen.dec[0, :-1])
        assert (angle_between(directions(clean, truth, sequence), expected) / MAS).max() < 1.0
        assert truth.distance[sequence] == pytest.approx(seen.topocentric_distance[0, -1], rel=1e-8)
        rate = np.hypot(seen.rate_ra_cosdec[0, -1], seen.rate_dec[0, -1])
        assert truth.rate[sequence] == pytest.approx(rate, rel=1e-6)
        assert truth.mag[sequence] == pytest.approx(seen.mag[0, -1] - V_MINUS_R, abs=1e-6)
        on = truth.inj_flux[sequence] > 0
        colours = np.array([TNO_COLOURS[BANDS[band]] for band in clean.band[sequence, on]])
        expected_mag = seen.mag[0, :-1][on] - V_MINUS_R + colours
        np.testing.assert_allclose(njy_to_ab_mag(truth.inj_flux[sequence, on]), expected_mag, atol=1e-5)
        assert on.sum() >= 1
    assert_untouched(injected, clean, np.arange(5, 9))
    assert task.metadata["n_injected"] == 5
    assert task.metadata["n_left_out"] == 0
    assert task.population.metadata["n_crossings"] == 5
    assert task.population.metadata["n_crowded_out"] == 0


def test_survey_objects_cross_all_sequences_on_their_way() -> None:
    orbits = make_orbits()
    clean = survey_sequences(orbits, [10, 10, 10, 10], 1, 22, hours=3.0)
    clean.mjd[:] = clean.mjd[0]
    seen = compute_ephemerides(orbits[10:11], clean.mjd[0], n_threads=1)
    # Two overlap at the beginning, one is at the end, one 10 arcsec beside.
    for row, (time, offset) in enumerate(((2, 0.0), (2, 0.8), (9, 0.0), (5, 10.0))):
        put_at(clean, row, seen.ra[0, time], seen.dec[0, time] + offset / 3600)
    injected = make_task("survey", noise=False).run(clean, make_states()).injected
    truth = injected.injection
    assert truth.injected.tolist() == [True, True, True, False, False]
    assert set(truth.object_id[:3]) == {orbits["name"][10]}
    tracks = [directions(clean, truth, row) for row in range(3)]
    for track in tracks[1:]:
        assert (angle_between(track, tracks[0]) / MAS).max() < 1e-3
    # The same magnitude, and the same light where it is on both.
    np.testing.assert_allclose(truth.mag[:3], truth.mag[0], rtol=0, atol=1e-12)
    assert truth.inj_flux[2, 0] == 0
    assert truth.inj_flux[2, 9] > 0
    assert_untouched(injected, clean, np.array([3, 4]))


def test_survey_sequences_of_two_objects(caplog: pytest.LogCaptureFixture) -> None:
    orbits = make_orbits(6).copy()
    # The second is next to the first and fainter, the third is on its way
    # through; the fourth is elsewhere.
    for row in (1, 2):
        for name in ("q", "e", "i", "node", "peri", "tp"):
            orbits[name][row] = orbits[name][0]
    orbits["H"][:3] = 7.0, 8.0, 3.0
    orbits[1:2] = offset_mean_anomaly(orbits[1:2], 1e-5)
    clean = survey_sequences(orbits, [0, 3], 1, 23, hours=0.3)
    seen = compute_ephemerides(orbits, clean.mjd[0], n_threads=1)
    assert abs(seen.dec[1] - seen.dec[0]).max() * 3600 < 0.5
    orbits[2:3] = offset_mean_anomaly(orbits[2:3], 1.6 / 3600)
    states = make_orbit_states(orbits)
    task = make_task("survey")
    with caplog.at_level(logging.WARNING):
        truth = task.run(clean, states).injected.injection
    # As long inside, and brighter; the third is brighter still, but outside.
    assert truth.source_orbit.tolist() == [orbits["name"][0], orbits["name"][3], ""]
    assert task.population.metadata["n_crossings"] == 3
    assert task.population.metadata["n_crowded_out"] == 1
    assert "1 crossings are not injected" in caplog.text
    # Who is brighter wins, whatever the order.
    orbits["H"][:2] = 8.0, 7.0
    truth = make_task("survey").run(clean, make_orbit_states(orbits)).injected.injection
    assert truth.source_orbit[0] == orbits["name"][1]
    flipped = make_orbit_states(orbits[::-1])
    truth = make_task("survey").run(clean, flipped).injected.injection
    assert truth.source_orbit[0] == orbits["name"][1]


def test_survey_objects_inside_for_longest_win() -> None:
    orbits = make_orbits(6).copy()
    orbits[1:2] = vstack([orbits[0:1]])
    orbits["name"][1] = "passing"
    orbits["H"][:2] = 9.0, 3.0
    clean = survey_sequences(orbits, [0], 0, 24, hours=0.3)
    # On the other side of the edge at first or at last.
    moved = next(
        angle
        for angle in np.linspace(0.2, 3.0, 200) / 3600
        if 0 < _n_inside(clean, offset_mean_anomaly(orbits[1:2], angle)) < 12
    )
    orbits[1:2] = offset_mean_anomaly(orbits[1:2], moved)
    task = make_task("survey")
    truth = task.run(clean, make_orbit_states(orbits)).injected.injection
    assert truth.source_orbit.tolist() == [orbits["name"][0]]
    assert task.population.metadata["n_crowded_out"] == 1


def _n_inside(clean: ImageSequences, orbit: Table) -> int:
    """Return in how many images an object is in the window."""
    seen = compute_ephemerides(orbit, clean.mjd[0], n_threads=1)
    towards, east, north = tangent_axes(clean.ra[0], clean.dec[0])
    at, _, _ = tangent_axes(seen.ra[0], seen.dec[0])
    on_plane = np.degrees(np.array([at @ east, at @ north]) / (at @ towards)) * 3600
    return int(np.sum(np.abs(on_plane).max(axis=0) <= 1.5))


def test_survey_counts_are_those_of_all_sequences() -> None:
    """A sequence whose pixels are all masked has no object, and does not
    change what is counted.
    """
    orbits = make_orbits(8).copy()
    for name in ("q", "e", "i", "node", "peri", "tp"):
        orbits[name][1] = orbits[name][0]
    clean = survey_sequences(orbits, [0, 3], 1, 25)
    mask_pixels(clean, np.broadcast_to((np.arange(3) == 1)[:, None, None, None], clean.image.shape))
    task = make_task("survey")
    injected = task.run(clean, make_orbit_states(orbits)).injected
    assert injected.injection.injected.tolist() == [True, False, False]
    assert_untouched(injected, clean, np.array([1, 2]))
    assert task.metadata["n_injected"] == 1
    assert task.population.metadata["n_crossings"] == 3
    assert task.population.metadata["n_crowded_out"] == 1


def test_survey_objects_without_magnitude_and_faint_ones(caplog: pytest.LogCaptureFixture) -> None:
    orbits = make_orbits(8).copy()
    orbits["H"][0] = np.nan
    orbits["H"][2] = 25.0
    # Comets have other magnitudes.
    orbits["H"][1], orbits["M1"][1], orbits["K1"][1] = np.nan, 5.0, 10.0
    clean = survey_sequences(orbits, [0, 1, 2, 3], 0, 26)
    task = make_task("survey", faintest_mag=35.0)
    with caplog.at_level(logging.WARNING):
        truth = task.run(clean, make_orbit_states(orbits)).injected.injection
    assert truth.injected.tolist() == [False, True, False, True]
    assert task.population.metadata["n_without_magnitude"] == 1
    assert "Left out 1 objects of the catalog that have no magnitude" in caplog.text
    seen = compute_ephemerides(orbits[1:2], clean.mean_mjd[1], n_threads=1)
    r, d = seen.heliocentric_distance[0, 0], seen.topocentric_distance[0, 0]
    expected = 5.0 + 5 * np.log10(d) + 10 * np.log10(r) - V_MINUS_R
    assert truth.mag[1] == pytest.approx(expected, abs=1e-6)
    assert task.population.metadata["n_crossings"] == 2


def test_survey_min_times_inside() -> None:
    orbits = make_orbits()
    clean = survey_sequences(orbits, [5], 0, 27, hours=3.0)
    inside = _n_inside(clean, orbits[5:6])
    assert 1 < inside < 12
    for required, injected in ((1, True), (inside, True), (inside + 1, False)):
        truth = make_task("survey", min_times_inside=required).run(clean, make_states()).injected.injection
        assert truth.injected.tolist() == [injected]
    # Where there are fewer images, all of them.
    pad(clean, 0, 1)
    seen = compute_ephemerides(orbits[5:6], clean.mjd[0, :1], n_threads=1)
    put_at(clean, 0, seen.ra[0, 0], seen.dec[0, 0])
    assert make_task("survey", min_times_inside=5).run(clean, make_states()).injected.injection.injected[0]


def test_survey_of_padding_and_of_windows_that_move() -> None:
    orbits = make_orbits()
    clean = survey_sequences(orbits, [7, 8, 9], 1, 28, hours=3.0)
    pad(clean, 1, 4)
    pad(clean, 3, 0)
    seen = compute_ephemerides(orbits[7:10], np.nan_to_num(clean.mjd, nan=60000.0).ravel(), n_threads=1)
    for row in range(3):
        valid = clean.valid[row]
        images = slice(12 * row, 12 * row + valid.sum())
        clean.centre_ra[row, valid], clean.centre_dec[row, valid] = (
            seen.ra[row, images],
            seen.dec[row, images],
        )
    injected = make_task("survey").run(clean, make_states()).injected
    injected.validate()
    truth = injected.injection
    assert truth.injected.tolist() == [True, True, True, False]
    # Its window follows an object, which is at the centre all the time.
    for row in range(3):
        valid = clean.valid[row]
        towards, _, _ = tangent_axes(clean.centre_ra[row, valid], clean.centre_dec[row, valid])
        assert (angle_between(directions(clean, truth, row), towards) / MAS).max() < 1.0
        assert np.all((truth.inj_flux[row] > 0) == valid)
    for row in range(4):
        pad(clean, row, 0)
    assert not make_task("survey").run(clean, make_states()).injected.injection.injected.any()


def test_survey_of_objects_that_are_moved_on_is_not_where_the_real_ones_are() -> None:
    orbits = make_orbits()
    clean = survey_sequences(orbits, [3, 4, 5], 0, 29)
    moved = make_orbit_states(offset_mean_anomaly(orbits, 1.0))
    assert not make_task("survey").run(clean, moved).injected.injection.injected.any()
    clean = survey_sequences(offset_mean_anomaly(orbits, 1.0), [3, 4, 5], 0, 29)
    assert make_task("survey").run(clean, moved).injected.injection.injected.all()
