# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""States of objects at regular steps of time, and between them."""

from __future__ import annotations

__all__ = ("OrbitStates", "compute_orbit_states")

import dataclasses
import math

import numpy as np
from astropy.table import Table

from ._columns import ColumnArrays, make_table
from ._integration import SPEED_OF_LIGHT
from ._schema import EPHEMERIDES_COLUMNS, SchemaError, validate_table
from .ephemerides import Ephemerides, InitialStates, ObserverStates, compute_states, initial_states, view


@dataclasses.dataclass(kw_only=True, eq=False)
class OrbitStates(ColumnArrays):
    """Barycentric states of objects at steps of time that all of them share.

    The attributes are the columns of ``tno_ephemerides``, arrays with one row
    an object; `EPHEMERIDES_COLUMNS` has their units.
    """

    _schema = EPHEMERIDES_COLUMNS

    name: np.ndarray
    mjd: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    H: np.ndarray
    G: np.ndarray
    M1: np.ndarray
    K1: np.ndarray

    def __len__(self) -> int:
        return len(self.name)

    @property
    def magnitudes(self) -> np.ndarray:
        """H, G, M1 and K1 (`numpy.ndarray`, ``(n, 4)``); NaN where
        unknown.
        """
        return np.stack([self.H, self.G, self.M1, self.K1], axis=-1)

    def at(self, index: np.ndarray, mjd_tdb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Interpolate states between the steps.

        Parameters
        ----------
        index
            Rows of the objects.
        mjd_tdb
            TDB MJD, of a shape that broadcasts with that of the rows.

        Returns
        -------
        position, velocity : `numpy.ndarray`
            Barycentric ICRS states, ``(..., 3)``, au and au/day.

        Raises
        ------
        ValueError
            Raised if a time is not between the first and the last step.

        Notes
        -----
        The polynomial of third degree that has the positions and velocities
        of the steps on both sides.
        """
        grid = self.mjd[0]
        outside = (mjd_tdb < grid[0]) | (mjd_tdb > grid[-1])
        if np.any(outside):
            raise ValueError(
                f"There are no ephemerides for TDB MJD {mjd_tdb[outside][0]:.3f}, only from {grid[0]:.3f} to "
                f"{grid[-1]:.3f}. Compute them for all visits: mjd_begin and mjd_end of computeEphemerides."
            )
        before = np.clip(np.searchsorted(grid, mjd_tdb, side="right") - 1, 0, len(grid) - 2)
        return _interpolate(
            grid[before],
            grid[before + 1],
            (self.position[index, before], self.velocity[index, before]),
            (self.position[index, before + 1], self.velocity[index, before + 1]),
            mjd_tdb,
        )

    def observe(self, index: np.ndarray, observer: ObserverStates) -> Ephemerides:
        """Return what an observer sees of some of the objects.

        Parameters
        ----------
        index
            Rows of the objects, ``(n,)``.
        observer
            Where the observer is, at ``n_times`` times.

        Returns
        -------
        ephemerides : `Ephemerides`
            Arrays of shape ``(n, n_times)``.
        """
        index = np.asarray(index)[:, np.newaxis]
        light_time = 0.0
        # Each round leaves an error smaller by v/c, below 1e-4.
        for _ in range(3):
            position, velocity = self.at(index, observer.mjd_tdb - light_time)
            light_time = np.linalg.norm(position - observer.position, axis=2) / SPEED_OF_LIGHT
        return view(position, velocity, observer, self.magnitudes[index[:, 0]])

    def initial_states(self, index: np.ndarray, mjd_tdb: np.ndarray) -> InitialStates:
        """Return the states of objects at given times.

        Parameters
        ----------
        index
            Rows of the objects, ``(n,)``.
        mjd_tdb
            TDB MJD for each of them, ``(n,)``.
        """
        position, velocity = self.at(index, mjd_tdb)
        return InitialStates(
            name=self.name[index],
            epoch=mjd_tdb,
            position=position,
            velocity=velocity,
            magnitudes=self.magnitudes[index],
        )

    def to_table(self) -> Table:
        """Return an astropy table that shares the arrays."""
        return make_table(self.items())

    @classmethod
    def from_table(cls, table: Table) -> OrbitStates:
        """Return a view of a table.

        Parameters
        ----------
        table
            Table with the columns of `EPHEMERIDES_COLUMNS`.

        Raises
        ------
        SchemaError
            Raised if the table has other columns than these, no objects, or
            not the same steps for all of them.
        """
        validate_table(table, EPHEMERIDES_COLUMNS)
        states = cls.from_arrays(table)
        if not len(states):
            raise SchemaError("The table of ephemerides has no objects.")
        if not np.all(states.mjd == states.mjd[0]):
            raise SchemaError("The objects of a table of ephemerides do not have the same mjd.")
        return states


def compute_orbit_states(
    orbits: Table, mjd_begin: float, mjd_end: float, step: float, *, n_threads: int | None = None
) -> tuple[OrbitStates, np.ndarray]:
    """Compute states at regular steps, and how well they interpolate.

    Parameters
    ----------
    orbits
        Orbits, with the columns of `ORBIT_COLUMNS`.
    mjd_begin, mjd_end
        TDB MJD of the first step, and a time that the last is not before.
    step
        Length of a step, days.
    n_threads
        Number of threads; all cores if None.

    Returns
    -------
    states : `OrbitStates`
        States, one row an orbit; NaN where an object could not be followed.
    error : `numpy.ndarray`
        Error of each object's position halfway between steps, the largest
        that a polynomial of third degree has, as seen from the nearest place
        on the Earth's orbit, ``(n,)``, arcsec.
    """
    n_steps = math.ceil((mjd_end - mjd_begin) / step)
    grid = mjd_begin + step * np.arange(n_steps + 1)
    halfway = grid[:-1] + step / 2
    position, velocity = compute_states(orbits, np.concatenate([grid, halfway]), n_threads=n_threads)
    magnitudes = initial_states(orbits).magnitudes
    states = OrbitStates(
        name=np.asarray(orbits["name"], dtype=str),
        mjd=np.tile(grid, (len(orbits), 1)),
        position=position[:, : len(grid)],
        velocity=velocity[:, : len(grid)],
        **dict(zip(("H", "G", "M1", "K1"), magnitudes.T, strict=True)),
    )
    interpolated, _ = _interpolate(
        grid[:-1],
        grid[1:],
        (states.position[:, :-1], states.velocity[:, :-1]),
        (states.position[:, 1:], states.velocity[:, 1:]),
        halfway,
    )
    true = position[:, len(grid) :]
    # Not below a hundredth of the Earth's orbit, where no step would do.
    distance = np.maximum(np.linalg.norm(true, axis=2) - 1.02, 0.01)
    error = np.degrees(np.linalg.norm(interpolated - true, axis=2) / distance) * 3600.0
    return states, error.max(axis=1, initial=0.0)


def _interpolate(
    begin: np.ndarray,
    end: np.ndarray,
    first: tuple[np.ndarray, np.ndarray],
    last: tuple[np.ndarray, np.ndarray],
    mjd: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and velocities between those at two times."""
    length = (end - begin)[..., np.newaxis]
    t = (mjd - begin)[..., np.newaxis] / length
    change = last[0] - first[0]
    bend = first[1] * length - change, change - last[1] * length
    position = first[0] + t * (change + (1 - t) * ((1 - t) * bend[0] + t * bend[1]))
    slope = change + (1 - 3 * t) * (1 - t) * bend[0] + t * (2 - 3 * t) * bend[1]
    return position, slope / length
