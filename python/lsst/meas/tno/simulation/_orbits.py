# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving objects of a simulated survey that are on given orbits."""

from __future__ import annotations

__all__ = ("OrbitingObjects", "make_orbiting_objects", "read_orbit_file")

import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from .._placement import place_in_view
from ..ephemerides import Ephemerides, InitialStates, initial_states, observe, observer_states
from ..geometry import gnomonic, inverse_gnomonic, polar_rate
from ..orbits import make_synthetic_orbits, read_orbits
from ..photometry import V_MINUS_R
from ._random import Stream, make_generator
from ._sky import tract_half_size

if TYPE_CHECKING:
    from ._config import SimulateSurveyConfig
    from ._observations import Visit

_LOG = logging.getLogger("lsst.meas.tno.simulation")

N_SYNTHETIC = 1000
"""Synthetic orbits to choose from where there is no file."""

FIELD_MARGIN = 60.0
"""Distance from the tract within which objects are kept, arcsec: they may be
in an image.
"""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class OrbitingObjects:
    """Objects that move about the Sun, seen from Rubin."""

    object_id: np.ndarray
    """Names."""

    states: InitialStates
    """States at some time, with absolute magnitudes that make the objects as
    bright as they are to be.
    """

    colours: Mapping[str, float]
    """AB magnitude in each band less that in r, mag."""

    def __len__(self) -> int:
        return len(self.object_id)

    def observe(self, mjd: float) -> Ephemerides:
        """Return what is seen of the objects.

        Parameters
        ----------
        mjd
            TAI MJD.

        Returns
        -------
        ephemerides : `Ephemerides`
            Arrays of shape ``(n, 1)``.
        """
        return observe(self.states, observer_states([mjd]), n_threads=1)

    def positions(self, mjd: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the ICRS positions, deg.

        Parameters
        ----------
        mjd
            TAI MJD.
        """
        seen = self.observe(mjd)
        return seen.ra[:, 0], seen.dec[:, 0]

    def rates(self, mjd: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the rates, arcsec/hour, and the position angles of the
        motion, deg east of north.

        Parameters
        ----------
        mjd
            TAI MJD.
        """
        seen = self.observe(mjd)
        return polar_rate(seen.rate_ra_cosdec[:, 0], seen.rate_dec[:, 0])

    def mags(self, mjd: float) -> np.ndarray:
        """Return the AB magnitudes in r.

        Parameters
        ----------
        mjd
            TAI MJD.
        """
        return self.observe(mjd).mag[:, 0] - V_MINUS_R


def make_orbiting_objects(config: SimulateSurveyConfig, visits: list[Visit]) -> OrbitingObjects:
    """Choose the objects, and put them in the field if they are to be there.

    Parameters
    ----------
    config
        Configuration of the survey.
    visits
        Visits of the survey.

    Raises
    ------
    ValueError
        Raised if the file has no orbits.
    """
    rng = make_generator(config, Stream.OBJECTS)
    orbits = (
        read_orbit_file(config.orbit_file) if config.orbit_file else make_synthetic_orbits(N_SYNTHETIC, rng)
    )
    if config.object_motion == "orbits":
        return _place_in_field(config, visits, orbits, rng)
    states = initial_states(orbits)
    seen = observe(states, observer_states([visit.mjd for visit in visits]), n_threads=1)
    half_size = np.reshape(tract_half_size(config), (2, 1, 1)) + FIELD_MARGIN
    offset = np.abs(gnomonic(seen.ra, seen.dec, config.ra, config.dec))
    is_near = np.any(np.all(offset <= half_size, axis=0), axis=1)
    # What has no magnitude cannot be drawn.
    return _make(states, is_near & np.isfinite(seen.mag[:, 0]), config)


def read_orbit_file(path: str) -> Table:
    """Read a file of orbits.

    Parameters
    ----------
    path
        Path of the file.

    Raises
    ------
    ValueError
        Raised if the file cannot be read or has no orbits.
    """
    catalog = read_orbits(path)
    if catalog.rejected:
        _LOG.warning(
            "Left out %d rows of %s, the first of them %s", len(catalog.rejected), path, catalog.rejected[0]
        )
    return catalog.orbits


def _place_in_field(
    config: SimulateSurveyConfig, visits: list[Visit], orbits: Table, rng: np.random.Generator
) -> OrbitingObjects:
    """Turn orbits about the barycentre so that their objects are somewhere in
    the tract at the middle of the survey, with drawn magnitudes.
    """
    n = config.n_objects
    chosen = orbits[rng.integers(len(orbits), size=n)]
    mjd = (visits[0].mjd + visits[-1].mjd) / 2
    half_width, half_height = tract_half_size(config)
    ra, dec = inverse_gnomonic(
        rng.uniform(-half_width, half_width, n),
        rng.uniform(-half_height, half_height, n),
        config.ra,
        config.dec,
    )
    observer = observer_states(np.full(n, mjd))
    states = place_in_view(initial_states(chosen), np.ones(n), ra, dec, observer)
    # With an absolute magnitude of 0, and then with the one that is missing.
    states.magnitudes[:] = 0.0, np.nan, np.nan, np.nan
    seen = observe(states, observer_states([mjd]), n_threads=1)
    mag = rng.uniform(config.object_mag_min, config.object_mag_max, n)
    states.magnitudes[:, 0] = mag + V_MINUS_R - seen.mag[:, 0]
    named = np.array([f"sim-{i:04d} {name}" for i, name in enumerate(states.name)], dtype=str)
    return _make(dataclasses.replace(states, name=named), np.isfinite(mag - seen.mag[:, 0]), config)


def _make(states: InitialStates, keep: np.ndarray, config: SimulateSurveyConfig) -> OrbitingObjects:
    if not np.all(keep):
        _LOG.info("%d of %d objects are not in the field or have no magnitude.", np.sum(~keep), len(keep))
    kept = states.select(keep)
    return OrbitingObjects(object_id=kept.name, states=kept, colours=dict(config.object_colours))
