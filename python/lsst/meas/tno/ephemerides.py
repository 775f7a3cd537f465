# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where objects on given orbits are, and where they are seen.

Nothing here needs a file or the network: the Sun and the planets are those of
astropy's built-in ephemeris.
"""

from __future__ import annotations

__all__ = (
    "RUBIN",
    "Ephemerides",
    "InitialStates",
    "ObserverStates",
    "compute_ephemerides",
    "compute_states",
    "initial_states",
    "observe",
    "observer_states",
    "view",
    "visual_magnitude",
)

import contextlib
import dataclasses
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import astropy.units as u
import erfa
import numpy as np
from astropy.coordinates import EarthLocation
from astropy.table import Table
from astropy.time import Time
from astropy.utils import iers
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import ArrayLike

from ._integration import LARGEST_STEP, RULE, SPEED_OF_LIGHT
from ._observation import DEFAULT_SLOPE, bowell_magnitude, follow_orbit, observe_orbit, view_states
from ._planets import FIRST_MJD, GM_SUN, LAST_MJD, Planets, earth_state, make_planets, sun_state
from ._progress import log_progress
from ._schema import ORBIT_COLUMNS
from ._two_body import elements_to_states

_LOG = logging.getLogger(__name__)

RUBIN = EarthLocation.from_geodetic(-70.749417 * u.deg, -30.244633 * u.deg, 2663.0 * u.m)
"""Rubin Observatory (code X05 of the Minor Planet Center)."""

_MARGIN = LARGEST_STEP + 1e5 / SPEED_OF_LIGHT
"""Days for which the planets must be known beyond the first and the last
time: one step, and the way of light from where nothing of interest is.
"""

_BLOCK = 16
"""Orbits that a thread takes at a time."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Ephemerides:
    """What an observer sees of objects, arrays ``(n_orbits, n_times)``.

    Positions are astrometric: where the object was when the light left it, as
    seen from where the observer is when it arrives, without aberration. All
    is NaN for an orbit that could not be followed.
    """

    ra: np.ndarray
    """ICRS right ascension, deg, in [0, 360)."""

    dec: np.ndarray
    """ICRS declination, deg."""

    rate_ra_cosdec: np.ndarray
    """Rate to the east, arcsec/hour."""

    rate_dec: np.ndarray
    """Rate to the north, arcsec/hour."""

    heliocentric_distance: np.ndarray
    """Distance from the Sun when the light left, au."""

    topocentric_distance: np.ndarray
    """Distance that the light travelled, au."""

    phase_angle: np.ndarray
    """Angle at the object between the Sun and the observer, deg."""

    mag: np.ndarray
    """Apparent magnitude in V; NaN without absolute magnitude."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class InitialStates:
    """Objects, each at an epoch of its own."""

    name: np.ndarray
    """Names, ``(n,)``."""

    epoch: np.ndarray
    """TDB MJD, ``(n,)``."""

    position: np.ndarray
    """Barycentric ICRS positions, ``(n, 3)``, au; NaN for objects that have
    none, and will have no ephemerides.
    """

    velocity: np.ndarray
    """Barycentric ICRS velocities, ``(n, 3)``, au/day."""

    magnitudes: np.ndarray
    """H, G, M1 and K1, ``(n, 4)``; NaN where unknown."""

    def __len__(self) -> int:
        return len(self.epoch)

    def select(self, index: np.ndarray) -> InitialStates:
        """Return some of the objects.

        Parameters
        ----------
        index
            Boolean mask or integer indices.
        """
        return InitialStates(
            **{field.name: getattr(self, field.name)[index] for field in dataclasses.fields(self)}
        )


class ObserverStates(NamedTuple):
    """Where an observer is, at the times of observations."""

    mjd_tdb: np.ndarray
    """TDB MJD, ``(n,)``."""

    position: np.ndarray
    """Barycentric ICRS positions, ``(n, 3)``, au."""

    velocity: np.ndarray
    """Barycentric ICRS velocities, ``(n, 3)``, au/day."""

    def select(self, index: np.ndarray) -> ObserverStates:
        """Return the states at some of the times.

        Parameters
        ----------
        index
            Indices of the times.
        """
        return ObserverStates(*(array[index] for array in self))


def compute_ephemerides(
    orbits: Table,
    mjd_tai: ArrayLike,
    observatory: EarthLocation = RUBIN,
    *,
    n_threads: int | None = None,
) -> Ephemerides:
    """Compute where objects are seen.

    Parameters
    ----------
    orbits
        Orbits, with the columns of `ORBIT_COLUMNS`; those of magnitudes, of
        class and source may be left out.
    mjd_tai
        TAI MJD of the observations, ``(n_times,)``, in any order.
    observatory
        Where the observer is.
    n_threads
        Number of threads; all cores if None. The result does not depend on
        it.

    Returns
    -------
    ephemerides : `Ephemerides`
        Arrays of shape ``(n_orbits, n_times)``.

    Raises
    ------
    ValueError
        Raised if an orbit is impossible, or a time is not between the years
        1003 and 2997.

    Notes
    -----
    Objects move in the field of the Sun, with its first relativistic term,
    and Mercury to Neptune, from their own epoch on. Other forces (of moons,
    asteroids, Pluto, gas and light) are left out.

    The planets are up to 0.01 au, and 90 arcsec, from where they really are.
    Ten years from the epoch that moves what stays beyond 35 au by 0.2 mas, at
    most 4, and what comes within 12 au by 10 mas, at most 0.5 arcsec.

    Memory is that of the result, 64 bytes for each orbit and time.
    """
    return observe(initial_states(orbits), observer_states(mjd_tai, observatory), n_threads=n_threads)


def observe(states: InitialStates, observer: ObserverStates, *, n_threads: int | None = None) -> Ephemerides:
    """Compute where objects are seen by an observer.

    Parameters
    ----------
    states
        The objects.
    observer
        Where the observer is, at ``n_times`` times.
    n_threads
        Number of threads; all cores if None.

    Returns
    -------
    ephemerides : `Ephemerides`
        Arrays of shape ``(n_orbits, n_times)``.
    """
    values = np.full((8, len(states), len(observer.mjd_tdb)), np.nan)

    def work(planets: Planets, row: int, state: tuple[np.ndarray, np.ndarray, float]) -> bool:
        return observe_orbit(RULE, planets, *state, *observer, states.magnitudes[row], values[:, row])

    _for_each_orbit(work, states, observer.mjd_tdb, n_threads)
    return _make_ephemerides(values)


def view(
    position: np.ndarray, velocity: np.ndarray, observer: ObserverStates, magnitudes: np.ndarray
) -> Ephemerides:
    """Return what an observer sees of objects that are where they were when
    the light left them.

    Parameters
    ----------
    position, velocity
        Barycentric ICRS states, ``(n_orbits, n_times, 3)``, au and au/day.
    observer
        Where the observer is, at ``n_times`` times.
    magnitudes
        H, G, M1 and K1, ``(n_orbits, 4)``.

    Returns
    -------
    ephemerides : `Ephemerides`
        Arrays of shape ``(n_orbits, n_times)``.
    """
    # While light is on its way from 2000 au the Sun moves by less than 1e-4.
    sun, _ = sun_state(observer.mjd_tdb)
    values = np.full((8, *position.shape[:2]), np.nan)
    view_states(position, velocity, observer.position, observer.velocity, sun, magnitudes, values)
    return _make_ephemerides(values)


def _make_ephemerides(values: np.ndarray) -> Ephemerides:
    return Ephemerides(
        **{field.name: array for field, array in zip(dataclasses.fields(Ephemerides), values, strict=True)}
    )


def compute_states(
    orbits: Table, mjd_tdb: ArrayLike, *, n_threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Compute where objects are.

    Parameters
    ----------
    orbits
        Orbits, as `compute_ephemerides` takes them.
    mjd_tdb
        TDB MJD, ``(n_times,)``, in any order.
    n_threads
        Number of threads; all cores if None.

    Returns
    -------
    position, velocity : `numpy.ndarray`
        Barycentric ICRS states, ``(n_orbits, n_times, 3)``, au and au/day;
        NaN for an orbit that could not be followed.
    """
    mjd_tdb = np.array(mjd_tdb, dtype=float, ndmin=1)
    values = np.full((2, len(orbits), len(mjd_tdb), 3), np.nan)

    def work(planets: Planets, row: int, state: tuple[np.ndarray, np.ndarray, float]) -> bool:
        return follow_orbit(RULE, planets, *state, mjd_tdb, values[0, row], values[1, row])

    _for_each_orbit(work, initial_states(orbits), mjd_tdb, n_threads)
    return values[0], values[1]


def initial_states(orbits: Table) -> InitialStates:
    """Return the states of objects at the epochs of their orbits.

    Parameters
    ----------
    orbits
        Orbits, as `compute_ephemerides` takes them.

    Raises
    ------
    ValueError
        Raised if a column is missing or an orbit is impossible.
    """
    q, e, i, node, peri, epoch, tp = (
        _column(orbits, name) for name in ("q", "e", "i", "node", "peri", "epoch", "tp")
    )
    possible = np.isfinite(q + e + i + node + peri + epoch + tp) & (q > 0) & (e >= 0)
    if not np.all(possible):
        row = int(np.flatnonzero(~possible)[0])
        raise ValueError(
            f"{np.sum(~possible)} orbits are impossible, the first of them {orbits['name'][row]}: "
            f"q = {q[row]} au, e = {e[row]}, i = {i[row]}, node = {node[row]}, peri = {peri[row]} deg, "
            f"epoch = {epoch[row]}, tp = {tp[row]}."
        )
    position, velocity = elements_to_states(q, e, i, node, peri, epoch - tp, GM_SUN)
    sun_position, sun_velocity = sun_state(epoch)
    return InitialStates(
        name=np.asarray(orbits["name"], dtype=str),
        epoch=epoch,
        position=position + sun_position,
        velocity=velocity + sun_velocity,
        magnitudes=np.stack([_column(orbits, name) for name in ("H", "G", "M1", "K1")], axis=-1),
    )


def observer_states(mjd_tai: ArrayLike, observatory: EarthLocation = RUBIN) -> ObserverStates:
    """Compute where an observer is.

    Parameters
    ----------
    mjd_tai
        TAI MJD, ``(n,)``.
    observatory
        Where on the Earth the observer is.

    Returns
    -------
    states : `ObserverStates`
        Times, positions and velocities.

    Notes
    -----
    The rotation of the Earth is that of astropy's table, and the mean one
    where that ends: UT1 may then be wrong by a second, which moves the
    observer by 0.5 km, and an object at 30 au by 0.02 mas.
    """
    mjd_tai = np.array(mjd_tai, dtype=float, ndmin=1)
    if mjd_tai.ndim != 1:
        raise ValueError(f"The times must have one axis, not the shape {mjd_tai.shape}.")
    time = Time(mjd_tai, format="mjd", scale="tai")
    with _offline():
        mjd_tdb = time.tdb.mjd
        from_geocentre = observatory.get_gcrs_posvel(time)
    position, velocity = earth_state(mjd_tdb)
    return ObserverStates(
        mjd_tdb,
        position + from_geocentre[0].xyz.to_value(u.au).T,
        velocity + from_geocentre[1].xyz.to_value(u.au / u.day).T,
    )


def visual_magnitude(
    absolute: ArrayLike,
    slope: ArrayLike,
    heliocentric_distance: ArrayLike,
    topocentric_distance: ArrayLike,
    phase_angle: ArrayLike,
) -> np.ndarray:
    """Return the apparent magnitudes of asteroids.

    Parameters
    ----------
    absolute, slope
        H and G. Where G is NaN it is taken as 0.15.
    heliocentric_distance, topocentric_distance
        Distances, au.
    phase_angle
        Angles at the object between the Sun and the observer, deg.

    Returns
    -------
    mag : `numpy.ndarray`
        Apparent magnitudes, in the band of H.

    Notes
    -----
    The H, G system (Bowell et al. 1989, in Asteroids II, 524), in its short
    form for phase angles below 120 deg.
    """
    return bowell_magnitude(
        np.asarray(absolute, dtype=float),
        np.where(np.isnan(slope), DEFAULT_SLOPE, slope),
        np.asarray(heliocentric_distance, dtype=float),
        np.asarray(topocentric_distance, dtype=float),
        np.radians(phase_angle),
    )


def _column(orbits: Table, name: str) -> np.ndarray:
    """Return a column of numbers, NaN if it is left out and may be."""
    column = next(column for column in ORBIT_COLUMNS if column.name == name)
    if name not in orbits.colnames and column.missing is not None:
        return np.full(len(orbits), np.nan)
    if name not in orbits.colnames:
        raise ValueError(f"The orbits have no column {name!r}; they need those of ORBIT_COLUMNS.")
    # A Quantity of a column forgets its mask.
    missing = getattr(orbits[name], "mask", False)
    values = u.Quantity(orbits[name], column.unit, copy=False).value if column.unit else orbits[name]
    return np.where(missing, np.nan, np.ma.filled(np.ma.asarray(values, dtype=float), np.nan))


def _for_each_orbit(
    function: Callable[[Planets, int, tuple[np.ndarray, np.ndarray, float]], bool],
    states: InitialStates,
    mjd_tdb: np.ndarray,
    n_threads: int | None,
) -> None:
    """Call a function with the planets, and the row and the state of each
    object, in threads; it returns whether it could follow the object.
    """
    if len(states) == 0 or len(mjd_tdb) == 0:
        return
    if not np.all(np.isfinite(mjd_tdb)):
        raise ValueError("The times must be finite.")
    usable = (states.epoch > FIRST_MJD + _MARGIN) & (states.epoch < LAST_MJD - _MARGIN)
    times = np.concatenate([states.epoch[usable], mjd_tdb])
    planets = make_planets(times.min() - _MARGIN, times.max() + _MARGIN)
    rows = np.flatnonzero(usable & np.isfinite(states.position).all(axis=1))
    followed = np.zeros(len(states), dtype=bool)

    def work(block: np.ndarray) -> None:
        for row in block.tolist():
            state = states.position[row], states.velocity[row], states.epoch[row]
            followed[row] = function(planets, row, state)

    with ThreadPoolExecutor(n_threads or len(os.sched_getaffinity(0))) as executor:
        blocks = [rows[i : i + _BLOCK] for i in range(0, len(rows), _BLOCK)]
        done = executor.map(work, blocks)
        for _ in log_progress(_LOG, "Followed %d of %d orbits.", done, len(rows), size=_BLOCK):
            pass
    _warn_of_lost(states, ~usable, "have epochs that are not in the years 1003 to 2997")
    _warn_of_lost(states, np.isin(np.arange(len(states)), rows) & ~followed, "went into the Sun or a planet")


def _warn_of_lost(states: InitialStates, lost: np.ndarray, reason: str) -> None:
    if np.any(lost):
        _LOG.warning(
            "%d of %d orbits %s, the first of them %s; they have no ephemerides.",
            np.sum(lost),
            len(states),
            reason,
            states.name[lost][0],
        )


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Let astropy use the tables that it has, whatever their age, silently."""
    with (
        iers.conf.set_temp("auto_download", False),
        iers.conf.set_temp("auto_max_age", None),
        iers.conf.set_temp("iers_degraded_accuracy", "ignore"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", erfa.ErfaWarning)
        warnings.simplefilter("ignore", AstropyWarning)
        yield
