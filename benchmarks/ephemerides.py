# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed and accuracy of ephemerides, beside other ways to get them.

Run it on a machine that does nothing else::

    python benchmarks/ephemerides.py --planets de440.bsp

ASSIST, with which Sorcha computes ephemerides, needs a file of the planets
(DE440, 120 MB); without ``--planets`` it is left out. It needs REBOUND 4.

All that is compared is measured in the same run. What would take too long is
measured on fewer orbits or times and scaled, which the table says.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import os
import platform
import resource
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from astropy.coordinates import (
    HeliocentricEclipticIAU76,
    SkyCoord,
    get_body_barycentric,
    get_body_barycentric_posvel,
)
from astropy.table import Table
from astropy.time import Time, TimeDelta
from astropy.utils import iers

from lsst.meas.tno._planets import GM_BODIES, GM_SUN, earth_state, sun_state
from lsst.meas.tno.ephemerides import RUBIN, compute_ephemerides, compute_states

EPOCH = 61000.0
"""TDB MJD of all orbits."""

BODIES = (
    *("sun", "mercury", "venus", "earth-moon-barycenter"),
    *("mars", "jupiter", "saturn", "uranus", "neptune"),
)

MJD_ZERO = 2400000.5
"""JD of MJD 0."""

LIGHT_DAYS = 499.004783836 / 86400
"""Days that light takes for 1 au."""


REPEATS = 3
"""Times that all is measured."""


@dataclasses.dataclass
class Row:
    """One line of the table."""

    what: str
    seconds: float
    threads: int
    note: str = ""


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--orbits", type=int, default=10_000, help="Number of orbits.")
    parser.add_argument("--times", type=int, default=1_000, help="Number of times of each orbit.")
    parser.add_argument("--years", type=float, default=10.0, help="Years that the times span.")
    parser.add_argument("--threads", type=int, default=2, help="Threads, beside one.")
    parser.add_argument("--rebound-orbits", type=int, default=1_000, help="Orbits that REBOUND follows.")
    parser.add_argument("--planets", help="File of JPL's DE440, for ASSIST.")
    parser.add_argument("--astropy-orbits", type=int, default=5, help="Orbits that astropy follows.")
    parser.add_argument("--astropy-times", type=int, default=50, help="Times of each of them.")
    args = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python", end=" ")
    print(f"{platform.python_version()}, NumPy {np.__version__}")
    # Astropy is to do with the Earth's rotation that it has.
    iers.conf.auto_download, iers.conf.auto_max_age = False, None
    iers.conf.iers_degraded_accuracy = "ignore"
    warnings.simplefilter("ignore")
    orbits = make_orbits(args.orbits)
    # Compiled, and with the planets of these years, before anything is timed.
    compute_ephemerides(orbits[:2], times_of(args))
    threads = list(dict.fromkeys([args.threads, 1]))
    print_table("Topocentric positions", positions(orbits, times_of(args), threads))
    print_table("Motion alone", motion(orbits, args, threads))
    print_table("Daily steps", daily(orbits, args, threads))


def make_orbits(n: int) -> Table:
    """Return orbits of trans-Neptunian objects, some of them far out."""
    rng = np.random.default_rng(1)
    a = np.where(rng.random(n) < 0.8, rng.uniform(37, 50, n), rng.uniform(50, 300, n))
    q = np.minimum(a, rng.uniform(30, 45, n))
    angles = {name: rng.uniform(0, 360, n) for name in ("node", "peri")}
    tp = EPOCH + rng.uniform(-0.5, 0.5, n) * 365.25 * a**1.5
    names = np.array([f"object {index}" for index in range(n)])
    i = np.abs(rng.normal(0, 15, n))
    table = Table({"name": names, "q": q, "e": 1 - q / a, "i": i, "tp": tp, **angles})
    table["epoch"], table["H"] = EPOCH, 7.0
    return table


def times_of(args: argparse.Namespace) -> np.ndarray:
    """Return TAI MJD of visits, in order."""
    return EPOCH + np.sort(np.random.default_rng(2).uniform(0, args.years * 365.25, args.times))


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a function returns, and the seconds that it takes, the
    shortest of `REPEATS`: what else runs on the machine only adds to it.
    """
    seconds = np.inf
    for _ in range(REPEATS):
        value = None
        begin = time.perf_counter()
        value = function()
        seconds = min(seconds, time.perf_counter() - begin)
    return value, float(seconds)


def time_ephemerides(orbits: Table, mjd: np.ndarray, n_threads: int) -> float:
    """Return the seconds that it takes to see orbits at times."""
    _, seconds = timed(lambda: compute_ephemerides(orbits, mjd, n_threads=n_threads))
    return seconds


def positions(orbits: Table, mjd: np.ndarray, threads: list[int]) -> list[Row]:
    """Measure all of the ephemerides, and the memory."""
    rows = []
    for n in threads:
        seconds = time_ephemerides(orbits, mjd, n)
        note = f"{len(orbits) * len(mjd) / seconds / 1e6:.2f} million positions a second"
        rows.append(Row(f"{len(orbits)} orbits x {len(mjd)} times", seconds, n, note))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result = 64 * len(orbits) * len(mjd) / 2**30
    rows[0].note += f"; peak memory of the process {peak:.2f} GiB, {result:.2f} of it the result"
    return rows


def motion(orbits: Table, args: argparse.Namespace, threads: list[int]) -> list[Row]:
    """Measure the integration beside that of REBOUND."""
    end = EPOCH + args.years * 365.25
    rows = []
    for n in threads:
        (ours, _), seconds = timed(functools.partial(compute_states, orbits, [end], n_threads=n))
        rows.append(Row(f"meas_tno, {args.years:g} years", seconds, n))
    try:
        rebound = importlib.import_module("rebound")
    except ImportError:
        return [*rows, Row("REBOUND is not installed", np.nan, 1)]
    some = orbits[: args.rebound_orbits]
    theirs, seconds = timed(lambda: follow_with_rebound(rebound, some, end))
    angle = angles(theirs, ours[: len(some), 0], end)
    note = f"measured on {len(some)}; differs by {np.median(angle) * 1e3:.1f} mas (median), "
    note += (
        f"{angle.max() * 1e3:.0f} mas (largest): its planets start with the ephemeris' velocities and drift"
    )
    scale = len(orbits) / len(some)
    rows.append(Row(f"REBOUND {rebound.__version__} IAS15", seconds * scale, 1, note))
    if args.planets:
        (theirs, earth), seconds = timed(lambda: follow_with_assist(rebound, some, end, args.planets))
        angle = angles_between(theirs - earth, ours[: len(some), 0] - earth_state(np.array([end]))[0])
        note = f"measured on {len(some)}; differs by {np.median(angle) * 1e3:.1f} mas (median), "
        note += f"{angle.max() * 1e3:.0f} mas (largest): its planets are better"
        rows.append(Row("ASSIST with DE440, without asteroids", seconds * scale, 1, note))
    return rows


def follow_with_rebound(rebound: Any, orbits: Table, end: float) -> np.ndarray:
    """Return barycentric positions, ``(n, 3)``, in the field of the same
    bodies, which move by their own forces.
    """
    simulation = rebound.Simulation()
    simulation.integrator = "ias15"
    simulation.t = EPOCH
    names = ("x", "y", "z", "vx", "vy", "vz")
    for body, gm in zip(BODIES, GM_BODIES, strict=True):
        state = get_body_barycentric_posvel(body, Time(EPOCH, format="mjd", scale="tdb"), ephemeris="builtin")
        values = np.concatenate([state[0].xyz.to_value("au"), state[1].xyz.to_value("au/d")])
        simulation.add(m=gm, **dict(zip(names, values, strict=True)))
    simulation.N_active = len(BODIES)
    position, velocity = compute_states(orbits, [EPOCH])
    for row in np.concatenate([position, velocity], axis=-1)[:, 0]:
        simulation.add(m=0.0, **dict(zip(names, row, strict=True)))
    simulation.integrate(end)
    return np.array([particle.xyz for particle in simulation.particles])[len(BODIES) :]


def follow_with_assist(
    rebound: Any, orbits: Table, end: float, planets: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return barycentric positions of the objects, ``(n, 3)``, and of the
    Earth, in the field of DE440.
    """
    assist = importlib.import_module("assist")
    ephemeris = assist.Ephem(planets)
    simulation = rebound.Simulation()
    extras = assist.Extras(simulation, ephemeris)
    extras.forces = ["SUN", "PLANETS", "GR_EIH"]
    simulation.t = EPOCH + MJD_ZERO - ephemeris.jd_ref
    sun = ephemeris.get_particle("sun", simulation.t)
    position, velocity = compute_states(orbits, [EPOCH])
    sun_position, sun_velocity = sun_state(np.array([EPOCH]))
    names = ("x", "y", "z", "vx", "vy", "vz")
    position, velocity = position[:, 0] - sun_position + sun.xyz, velocity[:, 0] - sun_velocity + sun.vxyz
    for row in np.concatenate([position, velocity], axis=-1):
        simulation.add(**dict(zip(names, row, strict=True)))
    simulation.integrate(end + MJD_ZERO - ephemeris.jd_ref)
    earth = ephemeris.get_particle("earth", simulation.t)
    return np.array([particle.xyz for particle in simulation.particles]), np.array(earth.xyz)


def angles(one: np.ndarray, other: np.ndarray, mjd_tdb: float) -> np.ndarray:
    """Return angles between positions, as seen from the Earth, arcsec."""
    earth = get_body_barycentric("earth", Time(mjd_tdb, format="mjd", scale="tdb"), ephemeris="builtin")
    return angles_between(*(vector - earth.xyz.to_value("au") for vector in (one, other)))


def angles_between(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return angles between vectors, arcsec."""
    product = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return np.degrees(np.linalg.norm(np.cross(one, other), axis=-1) / product) * 3600


def daily(orbits: Table, args: argparse.Namespace, threads: list[int]) -> list[Row]:
    """Measure what a notebook would do: two-body motion in daily steps, by
    astropy's frames, orbit by orbit and day by day.
    """
    days = np.arange(0.0, 5 * 365.25)
    rows = []
    for n in threads:
        seconds = time_ephemerides(orbits, EPOCH + days, n)
        rows.append(Row(f"meas_tno, {len(orbits)} orbits, 5 years", seconds, n))
    some = orbits[: args.astropy_orbits]
    mjd = EPOCH + np.linspace(0, days[-1], args.astropy_times)
    places, seconds = timed(lambda: [[two_body_place(orbit, day) for day in mjd] for orbit in some])
    ours = compute_ephemerides(some, mjd)
    errors = [
        place[-1].separation(SkyCoord(ra, dec, unit="deg")).arcsec
        for place, ra, dec in zip(places, ours.ra[:, -1], ours.dec[:, -1], strict=True)
    ]
    scale = len(orbits) * len(days) / (len(some) * len(mjd))
    note = f"measured on {len(some)} x {len(mjd)}; "
    note += f"wrong by {np.median(errors):.1f} (median), {max(errors):.1f} arcsec (largest) after 5 years"
    return [*rows, Row("astropy, two bodies", seconds * scale, 1, note)]


def two_body_place(orbit: Table.Row, mjd_tai: float) -> SkyCoord:
    """Return the astrometric place of an object on an ellipse about the Sun,
    as seen from Rubin Observatory.
    """
    when = Time(mjd_tai, format="mjd", scale="tai")
    observer = get_body_barycentric("earth", when, ephemeris="builtin") + RUBIN.get_gcrs(when).cartesian
    light_time = 0.0
    for _ in range(3):
        then = when - TimeDelta(light_time, format="jd")
        frame = HeliocentricEclipticIAU76(obstime=then)
        position = ellipse(orbit, then.tdb.mjd)
        there = SkyCoord(*position, unit="au", representation_type="cartesian", frame=frame).icrs
        ray = there.cartesian - observer.without_differentials()
        light_time = ray.norm().to_value("au") * LIGHT_DAYS
    return SkyCoord(ray, frame="icrs")


def ellipse(orbit: Table.Row, mjd_tdb: float) -> np.ndarray:
    """Return the position on the ecliptic, au."""
    e, a = orbit["e"], orbit["q"] / (1 - orbit["e"])
    mean = np.sqrt(GM_SUN / a**3) * (mjd_tdb - orbit["tp"])
    anomaly = mean
    for _ in range(50):
        anomaly -= (anomaly - e * np.sin(anomaly) - mean) / (1 - e * np.cos(anomaly))
    x, y = a * (np.cos(anomaly) - e), a * np.sqrt(1 - e**2) * np.sin(anomaly)
    i, node, peri = np.radians([orbit["i"], orbit["node"], orbit["peri"]])
    along, across = x * np.cos(peri) - y * np.sin(peri), x * np.sin(peri) + y * np.cos(peri)
    return np.array(
        [
            along * np.cos(node) - across * np.sin(node) * np.cos(i),
            along * np.sin(node) + across * np.cos(node) * np.cos(i),
            across * np.sin(i),
        ]
    )


def print_table(title: str, rows: list[Row]) -> None:
    """Print times, and their ratios to that of the first row."""
    print(f"\n{title}\n{'':44} {'threads':>7} {'s':>11} {'ratio':>9}")
    for row in rows:
        ratio = row.seconds / rows[0].seconds
        print(f"{row.what:44} {row.threads:7d} {row.seconds:11.2f} {ratio:9.2f}  {row.note}")


if __name__ == "__main__":
    main()
