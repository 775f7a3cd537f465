# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Orbits and published ephemerides for the tests, read independently of the
readers of the package.
"""

from __future__ import annotations

import csv
import ctypes
import json
from pathlib import Path
from typing import Any

import erfa
import numpy as np
import pytest
from astropy.coordinates import get_body_barycentric_posvel
from astropy.table import Table
from astropy.time import Time
from builders import SHARED_DATA

from lsst.meas.tno.ephemerides import compute_states

GAUSS = 0.01720209895
"""Gauss's constant: the square root of the Sun's au^3/day^2."""

MPC_EPOCH = 58600.0
"""K194R is 2019 April 27, TT."""


BODIES = (
    *("sun", "mercury", "venus", "earth-moon-barycenter", "mars", "jupiter", "saturn", "uranus", "neptune"),
)
"""Names of astropy's of the bodies that pull, in the order of the package."""

_INVERSE_MASSES = np.array(
    [1.0, 6023600, 408523.719, 328900.5597, 3098703.59, 1047.348644, 3497.9018, 22902.98, 19412.26]
)
"""Of the system of constants IAU 2009."""

_LIGHT = 299792.458 * 86400 / 149597870.7
"""Speed of light, au/day."""


def shared_file(folder: str, name: str) -> Path:
    """Return the path of a shared file, or skip the test."""
    path = SHARED_DATA / folder / name
    if not path.exists():
        pytest.skip(f"{path} does not exist")
    return path


def orbit_table(**columns: object) -> Table:
    """Return a table of orbits from columns, all as long as the longest; what
    is not given is that of a TNO on a circle at 40 au.
    """
    defaults = {"q": 40.0, "e": 0.0, "i": 10.0, "node": 20.0, "peri": 30.0, "epoch": 61000.0, "tp": 61000.0}
    n = max([1, *(np.size(column) for column in columns.values() if np.ndim(column))])
    values = {name: np.broadcast_to(column, n).copy() for name, column in (defaults | columns).items()}
    values.setdefault("name", np.array([f"object {index}" for index in range(n)]))
    return Table(values)


def elliptic_orbit(name: str, a: float, e: float, mean_anomaly: float, **others: float) -> dict[str, object]:
    """Return the row of an orbit of a semi-major axis, au, and a mean
    anomaly, deg.
    """
    # Of the passages, the one that is next.
    mean_anomaly = (mean_anomaly + 180.0) % 360.0 - 180.0
    daily_motion = np.degrees(GAUSS) / a**1.5
    tp = others["epoch"] - mean_anomaly / daily_motion
    return {"name": name, "q": a * (1.0 - e), "e": e, "tp": tp, **others}


def horizons_orbits() -> Table:
    """Return JPL's elements of the objects that `horizons_ephemeris` has."""
    with shared_file("ephemerides", "horizons_elements_heliocentric_ecliptic.csv").open() as file:
        rows = [
            {
                "name": row["targetname"],
                "q": float(row["q"]),
                "e": float(row["e"]),
                "i": float(row["incl"]),
                "node": float(row["Omega"]),
                "peri": float(row["w"]),
                "epoch": float(row["mjd_tdb"]),
                "tp": float(row["tp_mjd"]),
            }
            for row in csv.DictReader(file)
        ]
    return Table(rows=rows)


def horizons_states() -> np.ndarray:
    """Return JPL's heliocentric states, on the ecliptic of J2000, of the same
    orbits, ``(3, 6)``, au and au/day.
    """
    with shared_file("ephemerides", "horizons_elements_heliocentric_ecliptic.csv").open() as file:
        rows = list(csv.DictReader(file))
    return np.array([[float(row[name]) for name in ("x", "y", "z", "vx", "vy", "vz")] for row in rows])


def horizons_ephemeris(name: str) -> Table:
    """Return JPL's ephemeris of one object seen from Rubin Observatory, with
    a column ``mjd_tai``.
    """
    with shared_file("ephemerides", "horizons_x05.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["targetname"] == name]
    if not rows:
        raise LookupError(name)
    numbers = [column for column in rows[0] if column not in ("targetname", "observatory_code")]
    table = Table({column: [float(row[column]) for row in rows] for column in numbers})
    table["mjd_tai"] = Time(table["mjd_utc"], format="mjd", scale="utc").tai.mjd
    return table


def sbdb_orbits(name: str) -> Table:
    """Return the one orbit of a TNO in JPL's export of 2023 (epoch 60200)."""
    with shared_file("orbits", "sbdb_tno.csv").open() as file:
        for row in csv.DictReader(file):
            if row["full_name"].strip() == name:
                break
        else:
            raise LookupError(name)
    renamed = {"q": "q", "e": "e", "i": "i", "node": "om", "peri": "w", "epoch": "epoch_mjd"}
    values = {ours: float(row[theirs]) for ours, theirs in renamed.items()}
    return Table(rows=[{"name": name, "tp": float(row["tp"]) - 2400000.5, **values}])


def sbdb_query_orbits(name: str) -> Table:
    """Return the one orbit of an object in JPL's response of epoch 61200."""
    response = json.loads(shared_file("orbits", "sbdb_query_response.json").read_text())
    for values in response["data"]:
        row = dict(zip(response["fields"], values, strict=True))
        if row["full_name"].strip() == name:
            break
    else:
        raise LookupError(name)
    orbit = elliptic_orbit(
        name,
        float(row["a"]),
        float(row["e"]),
        float(row["ma"]),
        i=float(row["i"]),
        node=float(row["om"]),
        peri=float(row["w"]),
        epoch=float(row["epoch"]) - 2400000.5,
    )
    return Table(rows=[orbit | {"H": float(row["H"])}])


def mpc_distant_orbits(n: int) -> Table:
    """Return about n orbits, all over the Minor Planet Center's list of
    distant objects, of epoch `MPC_EPOCH`.
    """
    lines = [
        line
        for line in shared_file("orbits", "mpc_distant_2019.txt").read_text().splitlines()
        if line[20:25] == "K194R"
    ]
    return Table(rows=[_mpc_row(line) for line in lines[:: max(len(lines) // n, 1)][:n]])


def _mpc_row(line: str) -> dict[str, object]:
    mean_anomaly, peri, node, i, e = (
        float(line[begin:end]) for begin, end in ((26, 35), (37, 46), (48, 57), (59, 68), (70, 79))
    )
    a = float(line[92:103])
    return elliptic_orbit(line[:7].strip(), a, e, mean_anomaly, i=i, node=node, peri=peri, epoch=MPC_EPOCH)


def jpl_comet_orbits(*names: str) -> Table:
    """Return orbits of comets, by their names as JPL lists them."""
    lines = shared_file("orbits", "jpl_comets_2021.txt").read_text().splitlines()
    width = len(lines[1].split()[0])
    by_name = {line[:width].strip(): line[width:] for line in lines[2:]}
    return Table(rows=[_jpl_comet_row(name, by_name[name]) for name in names])


def _jpl_comet_row(name: str, line: str) -> dict[str, object]:
    epoch, q, e, i, peri, node, day = (float(value) for value in line.split()[:7])
    year, month, whole = int(day // 10000), int(day // 100 % 100), int(day % 100)
    midnight = Time(f"{year}-{month:02d}-{whole:02d}", scale="tdb").mjd
    names = ("name", "q", "e", "i", "peri", "node", "epoch", "tp")
    return dict(zip(names, (name, q, e, i, peri, node, epoch, midnight + day % 1.0), strict=True))


def body_positions(mjd_tdb: float) -> np.ndarray:
    """Return barycentric positions of `BODIES`, ``(9, 3)``, au, as astropy
    finds them with its built-in ephemeris.
    """
    heliocentric, barycentric = erfa.epv00(2400000.5, mjd_tdb)
    sun = barycentric["p"] - heliocentric["p"]
    planets = [erfa.plan94(2400000.5, mjd_tdb, index)["p"] for index in range(1, len(BODIES))]
    return np.stack([sun, *(sun + planet for planet in planets)])


def accelerations(
    mjd_tdb: float, position: np.ndarray, velocity: np.ndarray, *, with_relativity: bool = True
) -> np.ndarray:
    """Return the accelerations, au/day^2, of massless bodies at barycentric
    positions and velocities, ``(n, 3)``.
    """
    towards = body_positions(mjd_tdb)[:, np.newaxis] - position
    gm = GAUSS**2 / _INVERSE_MASSES
    pull = gm[:, np.newaxis] / np.linalg.norm(towards, axis=-1) ** 3
    acceleration = np.sum(pull[..., np.newaxis] * towards, axis=0)
    if with_relativity:
        # Anderson et al. 1975, ApJ 200, 221, with beta and gamma of 1.
        r = -towards[0]
        distance = np.linalg.norm(r, axis=-1, keepdims=True)
        square, product = (np.sum(v * velocity, axis=-1, keepdims=True) for v in (velocity, r))
        bracket = (4 * gm[0] / distance - square) * r + 4 * product * velocity
        acceleration += gm[0] / (_LIGHT**2 * distance**3) * bracket
    return acceleration


def rebound_simulation(orbits: Table, *, with_planets: bool = True) -> Any:
    """Return a simulation of REBOUND's IAS15 of orbits, which are of one
    epoch, from there; the bodies that pull come first.
    """
    import rebound

    epoch = orbits["epoch"][0]
    simulation = rebound.Simulation()
    simulation.integrator = "ias15"
    simulation.t = epoch
    if with_planets:
        time = Time(epoch, format="mjd", scale="tdb")
        for name, inverse_mass in zip(BODIES, _INVERSE_MASSES, strict=True):
            state = get_body_barycentric_posvel(name, time, ephemeris="builtin")
            vectors = state[0].xyz.to_value("au"), state[1].xyz.to_value("au/d")
            _add_particle(simulation, *vectors, GAUSS**2 / inverse_mass)
        simulation.N_active = len(BODIES)
    position, velocity = compute_states(orbits, [epoch])
    for vectors in zip(position[:, 0], velocity[:, 0], strict=True):
        _add_particle(simulation, *vectors, 0.0)
    return simulation


def _add_particle(simulation: Any, position: np.ndarray, velocity: np.ndarray, mass: float) -> None:
    names = ("x", "y", "z", "vx", "vy", "vz")
    simulation.add(m=mass, **dict(zip(names, (*position, *velocity), strict=True)))


def rebound_on_rails(orbits: Table, mjd_tdb: float) -> np.ndarray:
    """Return the positions, ``(n, 3)``, to where REBOUND's IAS15 moves orbits
    in the field of planets that are where the ephemeris has them.
    """
    import rebound

    simulation = rebound_simulation(orbits, with_planets=False)
    simulation.gravity = "none"
    shape = (len(orbits), ctypes.sizeof(rebound.Particle) // ctypes.sizeof(ctypes.c_double))

    def pull(pointer: Any) -> None:
        doubles = ctypes.cast(pointer.contents._particles, ctypes.POINTER(ctypes.c_double))
        # Position, velocity and acceleration are a particle's first values.
        values = np.ctypeslib.as_array(doubles, shape)
        values[:, 6:9] += accelerations(pointer.contents.t, values[:, :3], values[:, 3:6])

    simulation.additional_forces = pull
    simulation.force_is_velocity_dependent = 1
    simulation.integrate(mjd_tdb)
    return np.array([particle.xyz for particle in simulation.particles])
