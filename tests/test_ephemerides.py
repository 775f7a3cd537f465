# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import logging
import socket

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import EarthLocation, SkyCoord, get_body_barycentric_posvel
from astropy.table import MaskedColumn, QTable
from astropy.time import Time
from astropy.utils import iers
from orbit_builders import (
    horizons_ephemeris,
    horizons_orbits,
    jpl_comet_orbits,
    orbit_table,
    sbdb_orbits,
    sbdb_query_orbits,
)

from lsst.meas.tno.ephemerides import (
    RUBIN,
    compute_ephemerides,
    compute_states,
    initial_states,
    observer_states,
    view,
    visual_magnitude,
)

LIGHT = 299792.458 * 86400 / 149597870.7
"""Speed of light, au/day."""

PHOLUS, ALBION, SB = "5145 Pholus (1992 AD)", "15760 Albion (1992 QB1)", "15788 (1993 SB)"


def _of_horizons(name):
    """Return an ephemeris of an object, and JPL's of the same elements."""
    orbits = horizons_orbits()
    theirs = horizons_ephemeris(name)
    return compute_ephemerides(orbits[orbits["name"] == name], theirs["mjd_tai"]), theirs


def _separation(one, other):
    """Return angles between two sets of sky positions, mas."""
    return SkyCoord(one.ra, one.dec, unit="deg").separation(SkyCoord(other.ra, other.dec, unit="deg")).mas


@pytest.mark.parametrize(("name", "tolerance"), [(PHOLUS, 0.8), (ALBION, 0.4), (SB, 0.4)])
def test_positions_are_those_of_horizons(name, tolerance):
    """A month about the elements' epoch, to some of the 0.0036 mas that JPL
    lists. What is left is the Earth of epv00, which ERFA says is up to 13 km
    off: 0.4 mas at 40 au, 0.8 mas at 22 au.
    """
    ours, theirs = _of_horizons(name)
    true = SkyCoord(theirs["RA"], theirs["DEC"], unit="deg")
    separation = SkyCoord(ours.ra[0], ours.dec[0], unit="deg").separation(true).mas
    assert len(separation) == 45
    assert separation.max() < tolerance


@pytest.mark.parametrize("name", [PHOLUS, ALBION, SB])
def test_distances_are_those_of_horizons(name):
    """Horizons' r and phase are of other instants than ours: its Sun is where
    it was when the light that the object reflects left it, one more light
    time (5 hours at 40 au) before, in which it moves by up to 2e-6 au about
    the barycentre. And the directions of its phase angle have stellar
    aberration, up to 20.5 arcsec = 0.0057 deg, and up to 1e-3 deg by what the
    object moves.
    """
    ours, theirs = _of_horizons(name)
    np.testing.assert_allclose(ours.topocentric_distance[0], theirs["delta"], rtol=0, atol=2e-7)
    np.testing.assert_allclose(ours.heliocentric_distance[0], theirs["r"], rtol=0, atol=2e-6)
    np.testing.assert_allclose(ours.phase_angle[0], theirs["alpha"], rtol=0, atol=0.007)
    # Minutes, as Horizons lists them.
    np.testing.assert_allclose(ours.topocentric_distance[0] / LIGHT * 1440, theirs["lighttime"], atol=2e-6)


@pytest.mark.parametrize("name", [PHOLUS, ALBION, SB])
def test_rates_are_those_of_horizons(name):
    """Horizons' are rates of the apparent place of date: aberration changes
    them by 1e-4 of themselves and by its own drift (0.35 arcsec a day at
    most, 0.015 arcsec/hour), precession turns them (0.2 deg).
    """
    ours, theirs = _of_horizons(name)
    rate = np.hypot(ours.rate_ra_cosdec[0], ours.rate_dec[0])
    np.testing.assert_allclose(rate, np.hypot(theirs["RA_rate"], theirs["DEC_rate"]), rtol=0, atol=0.02)
    np.testing.assert_array_less(np.abs(ours.rate_ra_cosdec[0] - theirs["RA_rate"]), 0.002 * rate)
    np.testing.assert_array_less(np.abs(ours.rate_dec[0] - theirs["DEC_rate"]), 0.002 * rate)


def test_magnitudes_are_those_of_horizons():
    """JPL's V of Albion in 2012 is of the same H, 7.18, as its answer of 2026
    and of its default G = 0.15; it is listed to 0.001 mag.
    """
    theirs = horizons_ephemeris(ALBION)
    ours = compute_ephemerides(sbdb_query_orbits(ALBION), theirs["mjd_tai"])
    np.testing.assert_allclose(ours.mag[0], theirs["V"], rtol=0, atol=0.002)


@pytest.mark.parametrize(
    ("name", "make_other"), [(ALBION, sbdb_query_orbits), (SB, sbdb_orbits)], ids=["13.6 years", "7.6 years"]
)
def test_elements_of_other_epochs_are_the_same_orbit(name, make_other):
    """JPL's elements at two epochs are of nearly the same fit, integrated by
    JPL from one to the other, with Pluto and large asteroids, and full
    relativity; their own errors are 100 mas.
    """
    orbits, other = horizons_orbits(), make_other(name)
    orbits = orbits[orbits["name"] == name]
    mjd = np.linspace(orbits["epoch"][0], other["epoch"][0], 300)
    assert _separation(compute_ephemerides(orbits, mjd), compute_ephemerides(other, mjd)).max() < 2.5


def test_next_return_of_halleys_comet():
    """Elements of 1994 put its aphelion on 9 December 2023 at 35.14 au, in
    Hydra, as is published; so they do its perihelion of July 2061, at 0.59 au,
    within the days by which its gas moves it.
    """
    orbits = jpl_comet_orbits("1P/Halley")
    mjd = Time("2023-12-09").tai.mjd + np.arange(-60, 60.0)
    seen = compute_ephemerides(orbits, mjd)
    assert abs(np.argmax(seen.heliocentric_distance[0]) - 60) < 15
    assert seen.heliocentric_distance.max() == pytest.approx(35.14, abs=0.01)
    assert (seen.ra[0, 60], seen.dec[0, 60]) == pytest.approx((125.6, 2.2), abs=0.3)
    # 28 July 2061.
    mjd = 74029.0 + np.arange(-30, 30.0)
    distance = compute_ephemerides(orbits, mjd).heliocentric_distance[0]
    assert abs(np.argmin(distance) - 30) < 10
    assert distance.min() == pytest.approx(0.593, abs=0.002)


def test_orbit_of_1832_is_seen_today():
    """Biela's comet, had it not broken up."""
    orbits = jpl_comet_orbits("3D/Biela")
    seen = compute_ephemerides(orbits, [60676.0])
    assert 0.5 < seen.heliocentric_distance[0, 0] < 7
    again = compute_ephemerides(orbits, [60676.0], n_threads=1)
    assert again.ra == seen.ra


def test_rates_are_differences_of_positions():
    """Of TNOs, a comet near the Earth and a thing at 1 pc, over a minute."""
    orbits = orbit_table(
        q=[40.0, 30.0, 0.98, 2e5], e=[0.1, 0.9, 1.0, 0.0], i=[5.0, 120.0, 70.0, 30.0], tp=61010.0
    )
    mjd, half = np.linspace(60990.0, 61030.0, 50), 30 / 86400
    seen, before, after = (compute_ephemerides(orbits, mjd + shift) for shift in (0, -half, half))
    hours = 48 * half
    east = (np.mod(after.ra - before.ra + 180, 360) - 180) * np.cos(np.radians(seen.dec)) * 3600 / hours
    north = (after.dec - before.dec) * 3600 / hours
    # Positions have 1e-13 deg, over a minute 2e-8 arcsec/hour, and times 1e-11
    # d; the comet's rate changes from minute to minute by 1e-6 of itself.
    rate = np.hypot(seen.rate_ra_cosdec, seen.rate_dec)
    np.testing.assert_array_less(np.abs(seen.rate_ra_cosdec - east), 1e-6 + 1e-6 * rate)
    np.testing.assert_array_less(np.abs(seen.rate_dec - north), 1e-6 + 1e-6 * rate)
    assert rate[2].max() > 100


def test_light_takes_its_time():
    """What is seen is where the object was, and the view of that is the
    ephemeris.
    """
    orbits = orbit_table(q=[40.0, 1.1, 300.0], e=[0.1, 0.9, 1.0], tp=61100.0, H=5.0)
    mjd = np.linspace(60800.0, 61200.0, 7)
    seen, observer = compute_ephemerides(orbits, mjd), observer_states(mjd)
    for row in range(len(orbits)):
        left = observer.mjd_tdb - seen.topocentric_distance[row] / LIGHT
        position, velocity = (states[0] for states in compute_states(orbits[row : row + 1], left))
        ray = position - observer.position
        # Times have 1e-11 days, positions of 300 au 1e-13 au.
        np.testing.assert_allclose(
            np.linalg.norm(ray, axis=-1), seen.topocentric_distance[row], rtol=0, atol=1e-12 * 300
        )
        ra, dec = np.arctan2(ray[:, 1], ray[:, 0]), np.arcsin(ray[:, 2] / np.linalg.norm(ray, axis=-1))
        np.testing.assert_allclose(np.degrees(ra) % 360, seen.ra[row], rtol=0, atol=1e-10)
        np.testing.assert_allclose(np.degrees(dec), seen.dec[row], rtol=0, atol=1e-10)
        viewed = view(position[np.newaxis], velocity[np.newaxis], observer, np.array([[5.0, np.nan, 0, 0]]))
        np.testing.assert_allclose(viewed.ra[0], seen.ra[row], rtol=0, atol=1e-10)
        np.testing.assert_allclose(viewed.rate_ra_cosdec[0], seen.rate_ra_cosdec[row], rtol=1e-9)
        np.testing.assert_allclose(viewed.mag[0], seen.mag[row], rtol=0, atol=1e-4)


@pytest.mark.parametrize("latitude", [0.0, 40.0, -85.0])
def test_parallax_is_the_annual_ellipse(latitude):
    """What nearly stands, at an aphelion of 1000 au, runs about an ellipse of
    206.26 arcsec times 1 and the sine of its ecliptic latitude. What it moves
    itself is 0.009 au, 1.8 arcsec.
    """
    half_a_period = np.pi / 0.01720209895 * 500.5**1.5
    orbits = orbit_table(
        q=1.0, e=0.999 / 1.001, i=90.0, node=0.0, peri=latitude + 180, tp=61000.0 + half_a_period
    )
    mjd = 60850.0 + np.arange(0.0, 366.0)
    seen = compute_ephemerides(orbits, mjd)
    ecliptic = SkyCoord(seen.ra[0], seen.dec[0], unit="deg").barycentricmeanecliptic
    centre = SkyCoord(0.0, latitude, unit="deg", frame=ecliptic.frame.replicate_without_data())
    east, north = (offset.arcsec for offset in centre.spherical_offsets_to(ecliptic))
    expected = np.array([1.0, abs(np.sin(np.radians(latitude)))]) / 1000 * np.degrees(3600)
    np.testing.assert_allclose((np.ptp(east) / 2, np.ptp(north) / 2), expected, rtol=0, atol=2.0)
    # At the December solstice the Earth is at 90 deg, east of the Sun as the
    # object sees it, and so the object is west.
    assert mjd[np.argmin(east)] == pytest.approx(Time("2025-12-21").mjd, abs=3)
    # Light takes that long for 1000 au.
    assert seen.topocentric_distance[0].mean() / LIGHT == pytest.approx(5.7755, abs=0.01)


def test_parallax_of_half_a_day_is_that_of_the_earth():
    """Beside the Earth's centre, Rubin moves by its distance from the axis,
    5510 km, which is 0.19 arcsec at 40 au, and a geocentre does not.
    """
    orbits, mjd = orbit_table(), 61000.0 + np.linspace(0, 1, 100)
    centre = EarthLocation.from_geocentric(0, 0, 0, unit="m")
    seen, geocentric = compute_ephemerides(orbits, mjd), compute_ephemerides(orbits, mjd, centre)
    across = (seen.ra - geocentric.ra)[0] * np.cos(np.radians(seen.dec[0])) * 3600
    radius = np.hypot(RUBIN.x.to_value("au"), RUBIN.y.to_value("au"))
    assert np.ptp(across) / 2 == pytest.approx(
        np.degrees(3600 * radius / seen.topocentric_distance.mean()), rel=0.01
    )


@pytest.mark.parametrize("where", [RUBIN, EarthLocation.from_geodetic(0, 51.48)], ids=["Rubin", "Greenwich"])
def test_observer_is_where_astropy_has_him(where):
    mjd = np.random.default_rng(4).uniform(53000.0, 60900.0, 200)
    instant = Time(mjd, format="mjd", scale="tai")
    earth = get_body_barycentric_posvel("earth", instant, ephemeris="builtin")
    offset = where.get_gcrs(instant).cartesian
    states = observer_states(mjd, where)
    expected = earth[0].xyz + offset.without_differentials().xyz
    # 1e-11 days at 0.017 au/day.
    np.testing.assert_allclose(states.position, expected.to_value("au").T, rtol=0, atol=1e-12)
    expected = earth[1].xyz + offset.differentials["s"].d_xyz
    np.testing.assert_allclose(states.velocity, expected.to_value("au/d").T, rtol=0, atol=1e-10)
    # TDB - TT is 1.66 ms times a sine of a year, and 0.02 ms of other terms.
    seconds = (states.mjd_tdb - mjd) * 86400
    assert np.abs(seconds - 32.184).max() < 1.70e-3
    assert np.ptp(seconds) > 3e-3


def test_rubin_is_the_minor_planet_centers():
    """X05: longitude 289.25058, 0.864981 and -0.500958 equatorial radii from
    axis and equator, to 5e-6 (30 m, which at 40 au is 0.001 mas).
    """
    x, y, z = (axis.to_value("m") / 6378137.0 for axis in RUBIN.geocentric)
    assert np.degrees(np.arctan2(y, x)) % 360 == pytest.approx(289.25058, abs=1e-4)
    assert (np.hypot(x, y), z) == pytest.approx((0.864981, -0.500958), abs=5e-6)


@pytest.mark.parametrize(
    ("phase", "slope", "dimming"),
    [
        (0.0, 0.15, 0.0),
        (0.0, -0.1, 0.0),
        # With pocket calculator: tan 10 deg is 0.17633, so exp(-3.33 t^0.63)
        # is 0.32762 and exp(-1.87 t^1.22) 0.79844; 0.39825 of the light.
        (20.0, 0.15, 0.9997),
        (20.0, 0.0, 1.2116),
        (20.0, 1.0, 0.2444),
        # 0.62931 and 0.95983.
        (5.0, 0.15, 0.4205),
    ],
)
def test_visual_magnitude(phase, slope, dimming):
    at = 5 * np.log10(40.0 * 39.0)
    assert visual_magnitude(7.0, slope, 40.0, 39.0, phase) == pytest.approx(7.0 + at + dimming, abs=2e-4)


def test_slope_that_is_unknown_is_0_15():
    magnitudes = visual_magnitude([5.0, 5.0], [np.nan, 0.15], 2.0, 1.5, [20.0, 20.0])
    assert magnitudes[0] == magnitudes[1]


def test_magnitudes_of_asteroids_and_comets():
    orbits = orbit_table(
        q=[40.0, 3.0, 3.0, 3.0],
        tp=61000.0,
        H=[7.0, np.nan, 8.0, np.nan],
        G=[0.3, np.nan, np.nan, np.nan],
        M1=[np.nan, 6.5, 6.5, np.nan],
        K1=[np.nan, 10.0, 10.0, np.nan],
    )
    seen = compute_ephemerides(orbits, [61000.0, 61100.0])
    r, delta, phase = seen.heliocentric_distance, seen.topocentric_distance, seen.phase_angle
    expected = visual_magnitude([[7.0], [8.0]], [[0.3], [0.15]], *(x[[0, 2]] for x in (r, delta, phase)))
    np.testing.assert_allclose(seen.mag[[0, 2]], expected, rtol=0, atol=1e-12)
    comet = 6.5 + 5 * np.log10(delta[1]) + 10 * np.log10(r[1])
    np.testing.assert_allclose(seen.mag[1], comet, rtol=0, atol=1e-12)
    assert np.all(np.isnan(seen.mag[3]))
    # Law of cosines, by the Earth's distance from the Sun.
    earth = np.linalg.norm(
        observer_states([61000.0, 61100.0]).position
        - get_body_barycentric_posvel(
            "sun", Time([61000.0, 61100.0], format="mjd", scale="tai"), ephemeris="builtin"
        )[0]
        .xyz.to_value("au")
        .T,
        axis=-1,
    )
    cosine = (r**2 + delta**2 - earth**2) / (2 * r * delta)
    # The Sun moves by 1e-5 au a day, and light takes 5 hours.
    np.testing.assert_allclose(phase, np.degrees(np.arccos(cosine)), rtol=0, atol=1e-3)


def _bytes(ephemerides):
    return {name: array.tobytes() for name, array in dataclasses.asdict(ephemerides).items()}


@pytest.fixture(scope="module")
def many():
    """Orbits of many kinds."""
    rng = np.random.default_rng(5)
    n = 60
    q, e = 10 ** rng.uniform(-0.5, 2, n), rng.choice([0.0, 0.2, 0.95, 1.0, 1.3], n)
    angles = {"i": rng.uniform(0, 180, n), "node": rng.uniform(0, 360, n), "peri": rng.uniform(0, 360, n)}
    epoch = rng.uniform(60000.0, 61500.0, n)
    return orbit_table(q=q, e=e, epoch=epoch, tp=epoch + rng.uniform(-1000, 1000, n), H=6.0, **angles)


@pytest.mark.parametrize("n_threads", [2, 5, None])
def test_threads_do_not_matter(many, n_threads):
    mjd = np.linspace(60900.0, 61100.0, 9)
    one = compute_ephemerides(many, mjd, n_threads=1)
    assert _bytes(compute_ephemerides(many, mjd, n_threads=n_threads)) == _bytes(one)
    states = compute_states(many, mjd, n_threads=1)
    np.testing.assert_array_equal(compute_states(many, mjd, n_threads=n_threads), states)


def test_times_are_in_any_order(many):
    """Before and after the epochs; and others' orbits do not matter."""
    rng = np.random.default_rng(6)
    mjd = rng.uniform(60000.0, 61500.0, 20)
    seen = compute_ephemerides(many, mjd)
    ordered = compute_ephemerides(many, np.sort(mjd))
    # Light times are found from the last one's, to 1e-8 days: a thing at 1 au
    # moves by 0.03 mas in that.
    for name, array in dataclasses.asdict(seen).items():
        assert np.all(np.isfinite(array)), name
        np.testing.assert_allclose(array[:, np.argsort(mjd)], getattr(ordered, name), rtol=1e-7, atol=1e-8)
    alone = compute_ephemerides(many[7:8], mjd[3])
    assert alone.ra.shape == (1, 1)
    assert (alone.ra[0, 0], alone.dec[0, 0]) == pytest.approx((seen.ra[7, 3], seen.dec[7, 3]), abs=1e-8)


def test_epoch_is_on_both_tracks(many):
    position, velocity = compute_states(many, many["epoch"])
    states = initial_states(many)
    diagonal = np.arange(len(many))
    np.testing.assert_allclose(position[diagonal, diagonal], states.position, rtol=0, atol=1e-12)
    np.testing.assert_allclose(velocity[diagonal, diagonal], states.velocity, rtol=0, atol=1e-13)


def test_nothing_to_do():
    assert compute_ephemerides(orbit_table()[:0], [61000.0, 61001.0]).ra.shape == (0, 2)
    assert compute_ephemerides(orbit_table(), []).mag.shape == (1, 0)
    assert compute_states(orbit_table()[:0], [61000.0])[0].shape == (0, 1, 3)


def test_columns_and_units():
    """Magnitudes may be left out, units are converted, integers too."""
    orbits = orbit_table(q=[40, 41], e=0.2, tp=62000.0, H=[5, 6])
    mjd = [61000.0, 61200.0]
    plain = compute_ephemerides(orbits, mjd)
    np.testing.assert_array_equal(
        np.isnan(compute_ephemerides(orbits["name", "q", "e", "i", "node", "peri", "epoch", "tp"], mjd).mag),
        True,
    )
    table = QTable(orbits)
    table["q"] = (orbits["q"] * u.au).to("km")
    table["i"] = (orbits["i"] * u.deg).to("rad")
    table["tp"] = (orbits["tp"] * u.day).to("s")
    table["H"] = orbits["H"] * u.mag
    for name, array in dataclasses.asdict(compute_ephemerides(table, mjd)).items():
        np.testing.assert_allclose(array, getattr(plain, name), rtol=1e-12)
    table["q"] = table["q"].value * u.deg
    with pytest.raises(u.UnitsError):
        compute_ephemerides(table, mjd)
    orbits.remove_column("node")
    with pytest.raises(ValueError, match="node"):
        compute_ephemerides(orbits, mjd)


@pytest.mark.parametrize("unit", [None, "mag"])
def test_masked_magnitudes_are_unknown(unit):
    orbits = orbit_table(q=[40.0, 41.0])
    orbits["H"] = MaskedColumn([5.0, 6.0], mask=[True, False], unit=unit)
    orbits["G"] = MaskedColumn([0.5, 0.5], mask=[False, True])
    mag = compute_ephemerides(orbits, [61000.0]).mag[:, 0]
    orbits["G"] = 0.15
    assert np.isnan(mag[0])
    assert mag[1] == compute_ephemerides(orbits, [61000.0]).mag[1, 0]


@pytest.mark.parametrize(
    ("column", "value"), [("q", 0.0), ("q", -1.0), ("e", -0.1), ("tp", np.nan), ("i", np.inf), ("q", None)]
)
def test_impossible_orbits_are_named(column, value):
    orbits = orbit_table(q=[40.0, 41.0, 42.0])
    if value is None:
        orbits[column] = MaskedColumn(orbits[column], mask=[False, True, False], unit="au")
    else:
        orbits[column][1] = value
    with pytest.raises(ValueError, match=r"1 orbits are impossible, the first of them object 1: q = "):
        compute_ephemerides(orbits, [61000.0])


def _all_nan(ephemerides, row):
    return all(np.all(np.isnan(array[row])) for array in dataclasses.asdict(ephemerides).values())


def test_epochs_before_the_planets_are_known(caplog):
    orbits = orbit_table(q=[40.0, 41.0], epoch=[61000.0, -732091.0], H=5.0)
    with caplog.at_level(logging.WARNING):
        seen = compute_ephemerides(orbits, [61000.0])
    assert _all_nan(seen, 1)
    assert not np.any(np.isnan(seen.ra[0]))
    assert np.isfinite(seen.mag[0, 0])
    assert "1 of 2 orbits have epochs that are not in the years 1003 to 2997" in caplog.text
    assert "object 1" in caplog.text


def test_what_falls_into_the_sun_has_no_ephemeris(caplog):
    orbits = orbit_table(q=[1e-8, 41.0], e=[1.0, 0.0], tp=61010.0)
    with caplog.at_level(logging.WARNING):
        seen = compute_ephemerides(orbits, [61000.0, 61020.0])
    assert _all_nan(seen, 0)
    assert np.all(np.isfinite(seen.ra[1]))
    assert "1 of 2 orbits went into the Sun or a planet, the first of them object 0" in caplog.text


@pytest.mark.parametrize("mjd", [-3.2e5, 4.2e5])
def test_times_before_the_planets_are_known(mjd):
    with pytest.raises(ValueError, match="built-in ephemeris of the planets"):
        compute_ephemerides(orbit_table(), [61000.0, mjd])


@pytest.mark.parametrize("mjd", [np.nan, np.inf])
def test_times_are_finite(mjd):
    with pytest.raises(ValueError, match="finite"):
        compute_ephemerides(orbit_table(), [61000.0, mjd])
    with pytest.raises(ValueError, match="finite"):
        compute_states(orbit_table(), [61000.0, mjd])


def test_right_ascension_is_below_360():
    """Remainders of tiny negative numbers round up to 360."""
    observer = observer_states([61000.0])
    position = observer.position + np.array([1.0, -1e-18, 0.1])
    seen = view(position[np.newaxis], np.zeros((1, 1, 3)), observer, np.full((1, 4), np.nan))
    assert seen.ra[0, 0] < 360


def test_far_away():
    """At 137,000 au, of which light takes two years."""
    orbits = orbit_table(q=[1.37e5, 1.9e5], epoch=61000.0)
    seen = compute_ephemerides(orbits, [61000.0, 61100.0])
    # The Sun has gone up to 0.01 au about the barycentre meanwhile.
    np.testing.assert_allclose(seen.heliocentric_distance, orbits["q"][:, np.newaxis] * [1.0, 1.0], atol=0.02)


def test_needs_no_network(monkeypatch):
    """Not even for times after astropy's tables of the Earth's rotation."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("astropy.utils.data.download_file", refuse)
    monkeypatch.setattr(iers.IERS_Auto, "iers_table", None)
    with iers.earth_orientation_table.set(None):
        seen = compute_ephemerides(orbit_table(), [30000.0, 61000.0, 61400.0, 66000.0, 90000.0])
    assert np.all(np.isfinite(seen.ra))
    assert iers.conf.auto_download == iers.Conf().auto_download, "settings are put back"
