# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from orbit_builders import orbit_table

from lsst.meas.tno._columns import make_table
from lsst.meas.tno.candidates import Candidates
from lsst.meas.tno.ephemerides import compute_ephemerides
from lsst.meas.tno.geometry import inverse_gnomonic
from lsst.meas.tno.known_objects import KnownObjects, match_known_objects

MJD = np.array([61090.2, 61090.2, 61092.7, 61500.1])


@pytest.fixture(scope="module")
def orbits() -> Table:
    rng = np.random.default_rng(1)
    return orbit_table(
        q=rng.uniform(30.0, 90.0, 200),
        e=rng.uniform(0.0, 0.3, 200),
        i=rng.uniform(0.0, 30.0, 200),
        node=rng.uniform(0.0, 360.0, 200),
        tp=61000.0 + rng.uniform(-40000.0, 40000.0, 200),
        H=np.full(200, 6.0),
    )


def observed(orbits: Table, rows: np.ndarray, *, east: float = 0.0, rate: float = 0.0) -> Candidates:
    """Return candidates that are objects as Rubin sees them, with an error of
    the position to the east, arcsec, and of the rate, arcsec/hour.
    """
    candidates = Candidates.full(len(rows))
    candidates.mjd[:] = MJD[: len(rows)]
    candidates.covariance[:] = 0.0
    for index, row in enumerate(rows):
        seen = compute_ephemerides(orbits[[row]], candidates.mjd[[index]])
        ra, dec = inverse_gnomonic(east, 0.0, seen.ra[0, 0], seen.dec[0, 0])
        candidates.ra[index], candidates.dec[index] = ra, dec
        candidates.rate_ra_cosdec[index] = seen.rate_ra_cosdec[0, 0] + rate
        candidates.rate_dec[index] = seen.rate_dec[0, 0]
    return candidates


def test_known_objects_are_found(orbits: Table) -> None:
    rows = np.array([17, 3, 155, 60])
    candidates = observed(orbits, rows, east=1.5, rate=0.1)
    known = match_known_objects(candidates, orbits)
    assert list(known.name) == [f"object {row}" for row in rows]
    np.testing.assert_allclose(known.separation, 1.5, atol=1e-4)
    np.testing.assert_allclose(known.rate_difference, 0.1, atol=1e-4)
    seen = compute_ephemerides(orbits[rows], MJD)
    np.testing.assert_allclose(known.mag, np.diag(seen.mag), atol=1e-6)


def test_objects_elsewhere_or_of_another_motion_are_not(orbits: Table) -> None:
    rows = np.array([17, 3])
    assert list(match_known_objects(observed(orbits, rows, east=6.0), orbits).name) == ["", ""]
    assert list(match_known_objects(observed(orbits, rows, east=6.0), orbits, radius=7.0).name) != ["", ""]
    fast = observed(orbits, rows, rate=1.0)
    known = match_known_objects(fast, orbits)
    assert list(known.name) == ["", ""]
    assert np.all(np.isnan(known.separation))
    # A rate that is not known well disagrees with less.
    fast.covariance[0, 2, 2] = 0.2**2
    assert list(match_known_objects(fast, orbits).name) == ["object 17", ""]


def test_the_nearest_is_taken(orbits: Table) -> None:
    twin = orbits.copy()
    twin["name"] = [f"twin {index}" for index in range(len(twin))]
    # A thousandth of a degree along the orbit: 3.6 arcsec.
    twin["node"] += 0.001
    both = Table({name: np.concatenate([twin[name], orbits[name]]) for name in orbits.colnames})
    known = match_known_objects(observed(orbits, np.array([17])), both)
    assert list(known.name) == ["object 17"]


def test_orbits_that_cannot_be_followed_are_left_out(orbits: Table) -> None:
    some = orbits[:20].copy()
    some["epoch"][3] = 1e7
    known = match_known_objects(observed(orbits, np.array([17, 5])), some)
    assert list(known.name) == ["object 17", "object 5"]


def test_nothing_to_compare(orbits: Table) -> None:
    candidates = observed(orbits, np.array([17]))
    assert list(match_known_objects(candidates, orbits[:0]).name) == [""]
    assert len(match_known_objects(candidates.select(np.array([], dtype=int)), orbits).name) == 0
    table = make_table(candidates.items())
    KnownObjects.none(1).add_to(table)
    assert table.colnames[-4:] == ["known_name", "known_separation", "known_rate_difference", "known_mag"]
    assert table["known_separation"].unit == "arcsec"
