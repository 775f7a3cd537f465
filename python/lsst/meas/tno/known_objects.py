# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which candidates are objects that are known already."""

from __future__ import annotations

__all__ = ("KnownObjects", "match_known_objects")

import dataclasses

import numpy as np
from astropy.coordinates import EarthLocation
from astropy.table import Column, Table

from .candidates import Candidates
from .ephemerides import RUBIN, Ephemerides, compute_ephemerides
from .geometry import gnomonic

COARSE_STEP = 0.5
"""Days between the times at which objects are looked for that may be near."""

COARSE_MARGIN = 60.0
"""Arcsec that are added to the reach of an object, for the change of its
rate.
"""

N_SIGMA = 5.0
"""Standard deviations that the rates may differ by, in addition to the
tolerance.
"""


@dataclasses.dataclass(kw_only=True, eq=False)
class KnownObjects:
    """The known object that each candidate is, ``(n,)`` each."""

    name: np.ndarray
    """Its name; empty if there is none (`str`)."""

    separation: np.ndarray
    """Distance of the candidate from where it is predicted, arcsec; NaN if
    there is none.
    """

    rate_difference: np.ndarray
    """Difference of the rates, arcsec/hour, likewise."""

    mag: np.ndarray
    """Predicted magnitude in V; NaN if it is not known."""

    @classmethod
    def none(cls, n: int) -> KnownObjects:
        """Return no known objects.

        Parameters
        ----------
        n
            Number of candidates.
        """
        names = np.full(n, "", dtype="U1")
        return cls(
            name=names, **{name: np.full(n, np.nan) for name in ("separation", "rate_difference", "mag")}
        )

    def add_to(self, table: Table) -> None:
        """Add what is known as columns to a table of the candidates.

        Parameters
        ----------
        table
            Table with one row a candidate.
        """
        for name, values, unit, doc in (
            ("known_name", self.name, None, "Known object that it is; empty if there is none."),
            ("known_separation", self.separation, "arcsec", "Distance from where that is predicted."),
            ("known_rate_difference", self.rate_difference, "arcsec / h", "Difference of the rates."),
            ("known_mag", self.mag, "mag", "Predicted magnitude of it, in V."),
        ):
            table[name] = Column(values, unit=unit, description=doc)


def match_known_objects(
    candidates: Candidates,
    orbits: Table,
    *,
    radius: float = 5.0,
    rate_tolerance: float = 0.5,
    observatory: EarthLocation = RUBIN,
    n_threads: int | None = None,
) -> KnownObjects:
    """Find the known objects that candidates are.

    Parameters
    ----------
    candidates
        Candidates.
    orbits
        Orbits, with the columns of `ORBIT_COLUMNS`.
    radius
        Largest distance from the predicted position, arcsec.
    rate_tolerance
        Largest difference from the predicted rate, arcsec/hour, to which
        `N_SIGMA` times the error of the measured one is added.
    observatory
        Where the observer is.
    n_threads
        Number of threads; all cores if None.

    Returns
    -------
    known : `KnownObjects`
        The nearest of the objects that agree in position and rate.

    Notes
    -----
    Predictions are for the mean time of each candidate. How well an orbit is
    known is not in the catalog: objects with few observations may be farther
    from where they are predicted than any radius.
    """
    known = KnownObjects.none(len(candidates))
    if len(candidates) == 0 or len(orbits) == 0:
        return known
    near = _may_be_near(candidates, orbits, radius, observatory, n_threads)
    if not np.any(near):
        return known
    names = np.asarray(orbits["name"], dtype=str)[near]
    known.name = known.name.astype(names.dtype)
    mjd, time_index = np.unique(candidates.mjd, return_inverse=True)
    predicted = compute_ephemerides(orbits[near], mjd, observatory, n_threads=n_threads)
    allowed = rate_tolerance + N_SIGMA * _rate_error(candidates)
    for row, time in enumerate(time_index):
        separation, difference = _differences(candidates, row, predicted, time)
        agrees = (separation <= radius) & (difference <= allowed[row])
        if np.any(agrees):
            best = int(np.argmin(np.where(agrees, separation, np.inf)))
            known.name[row] = names[best]
            known.separation[row], known.rate_difference[row] = separation[best], difference[best]
            known.mag[row] = predicted.mag[best, time]
    return known


def _may_be_near(
    candidates: Candidates, orbits: Table, radius: float, observatory: EarthLocation, n_threads: int | None
) -> np.ndarray:
    """Return the objects that may be near a candidate, from where they are at
    a few times.
    """
    steps = np.round(candidates.mjd / COARSE_STEP)
    times, time_index = np.unique(steps, return_inverse=True)
    predicted = compute_ephemerides(orbits, times * COARSE_STEP, observatory, n_threads=n_threads)
    near = np.zeros(len(orbits), dtype=bool)
    rate = np.hypot(predicted.rate_ra_cosdec, predicted.rate_dec)
    # The rotation of the Earth changes rates within half a day.
    reach = radius + COARSE_MARGIN + 2.0 * rate * COARSE_STEP / 2 * 24
    for row, time in enumerate(time_index):
        xi, eta = gnomonic(
            predicted.ra[:, time], predicted.dec[:, time], candidates.ra[row], candidates.dec[row]
        )
        near |= np.hypot(xi, eta) <= reach[:, time]
    return near


def _rate_error(candidates: Candidates) -> np.ndarray:
    """Return the errors of the rates, arcsec/hour; 0 where they are not
    known.
    """
    variance = candidates.covariance[:, 2, 2] + candidates.covariance[:, 3, 3]
    return np.sqrt(np.nan_to_num(np.maximum(variance, 0.0)))


def _differences(
    candidates: Candidates, row: int, predicted: Ephemerides, time: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return how far objects are from a candidate, arcsec, and how much their
    rates differ, arcsec/hour; infinite for those without ephemerides.
    """
    xi, eta = gnomonic(predicted.ra[:, time], predicted.dec[:, time], candidates.ra[row], candidates.dec[row])
    difference = np.hypot(
        predicted.rate_ra_cosdec[:, time] - candidates.rate_ra_cosdec[row],
        predicted.rate_dec[:, time] - candidates.rate_dec[row],
    )
    return np.nan_to_num(np.hypot(xi, eta), nan=np.inf), np.nan_to_num(difference, nan=np.inf)
