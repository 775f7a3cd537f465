# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where to look: positions of image sequences, their HTM index and split.

Sky positions are ICRS in degrees.
"""

from __future__ import annotations

__all__ = (
    "SPLITS",
    "SPLIT_FRACTIONS",
    "catalog_positions",
    "grid_positions",
    "htm_index",
    "random_positions",
    "sky_box",
    "split_of_hash",
    "split_of_htm",
    "split_of_orbits",
    "straddles_split",
)

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from astropy.table import Table

from lsst.sphgeom import Box, Circle, HtmPixelization, LonLat, Region, UnitVector3d

from .geometry import inverse_gnomonic
from .orbits import designation_key

SPLITS = ("training", "validation", "test")
"""Names of the values of the ``split`` column."""

SPLIT_FRACTIONS = (0.70, 0.15, 0.15)
"""Fraction of the sky in each split. Constants, so that every run of every
patch agrees on them.
"""

MAX_DRAWS = 1000
"""Draws after which a region that has almost nothing in common with the box
is taken to have nothing.
"""

MAX_CIRCLE_STRETCH = 1.6
"""More than what half the range in RA of a circle can exceed its radius over
cos(dec) by: asin(x) < 1.6 x.
"""


def random_positions(
    region: Region, n_positions: int, rng: np.random.Generator, box: Box | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw positions that are uniform on the sky.

    Parameters
    ----------
    region
        Region that holds the positions.
    n_positions
        Number of positions.
    rng
        Source of randomness.
    box
        Further region that holds the positions.

    Returns
    -------
    ra, dec : `numpy.ndarray`
        Positions, ``(n_positions,)``, deg; none if the region and the box have
        nothing in common.
    """
    circle = min(_circles(region, box), key=Circle.getOpeningAngle)
    ra, dec = np.empty(0), np.empty(0)
    for _ in range(MAX_DRAWS):
        more_ra, more_dec = _draw_in_circle(circle, max(n_positions, 64), rng)
        inside = _contains(region, more_ra, more_dec)
        if box is not None:
            inside &= _contains(box, more_ra, more_dec)
        ra, dec = np.append(ra, more_ra[inside]), np.append(dec, more_dec[inside])
        if len(ra) >= n_positions:
            break
    return ra[:n_positions], dec[:n_positions]


def grid_positions(
    region: Region, spacing: float, box: Box | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Iterate over the rows of a regular grid on the sky.

    The grid is the same for every region, so that neighbouring patches have
    the positions where they overlap in common.

    Parameters
    ----------
    region
        Region that holds the positions.
    spacing
        Distance between neighbours, arcsec.
    box
        Further region that holds the positions.

    Yields
    ------
    ra, dec : `numpy.ndarray`
        Positions of one row of constant declination, deg.
    """
    step = spacing / 3600.0
    circle = min(_circles(region, box), key=Circle.getOpeningAngle)
    centre, radius = LonLat(circle.getCenter()), circle.getOpeningAngle().asDegrees()
    centre_ra, centre_dec = centre.getLon().asDegrees(), centre.getLat().asDegrees()
    dec_min, dec_max = max(centre_dec - radius, -90.0), min(centre_dec + radius, 90.0)
    for dec_index in range(int(np.ceil(dec_min / step)), int(np.floor(dec_max / step)) + 1):
        dec = dec_index * step
        cos_dec = np.cos(np.radians(dec))
        n_around = max(1, int(np.floor(360.0 * cos_dec / step)))
        half_width = min(180.0, radius / max(cos_dec, 1e-9) * MAX_CIRCLE_STRETCH)
        first = int(np.ceil((centre_ra - half_width) / 360.0 * n_around))
        last = min(int(np.floor((centre_ra + half_width) / 360.0 * n_around)), first + n_around - 1)
        ra = np.mod(np.arange(first, last + 1) * (360.0 / n_around), 360.0)
        inside = _contains(region, ra, np.full(len(ra), dec))
        if box is not None:
            inside &= _contains(box, ra, np.full(len(ra), dec))
        if np.any(inside):
            yield ra[inside], np.full(np.count_nonzero(inside), dec)


def catalog_positions(
    region: Region, catalog: Table, box: Box | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of a catalog that lie in a region.

    Parameters
    ----------
    region
        Region that holds the positions.
    catalog
        Table with the columns ``ra`` and ``dec``, in degrees unless they have
        another unit.
    box
        Further region that holds the positions.

    Returns
    -------
    ra, dec : `numpy.ndarray`
        Positions in the order of the catalog, deg.

    Raises
    ------
    ValueError
        Raised if the catalog has no such columns, or they hold positions that
        are none.
    """
    if missing := [name for name in ("ra", "dec") if name not in catalog.colnames]:
        raise ValueError(
            f"The catalog of positions lacks the columns {missing}; it has {catalog.colnames}. "
            "Name its columns of ICRS coordinates 'ra' and 'dec'."
        )
    ra, dec = (_to_degrees(catalog[name]) for name in ("ra", "dec"))
    bad = ~(np.isfinite(ra) & (np.abs(dec) <= 90.0))
    if np.any(bad):
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(f"Row {row} of the catalog has no position on the sky: {ra[row]=}, {dec[row]=} deg.")
    inside = _contains(region, ra, dec)
    if box is not None:
        inside &= _contains(box, ra, dec)
    return np.mod(ra[inside], 360.0), dec[inside]


def sky_box(limits: Sequence[float]) -> Box:
    """Return a box in right ascension and declination.

    Parameters
    ----------
    limits
        Smallest and largest right ascension, smallest and largest
        declination, deg. A box with the first larger than the second wraps
        around 0 deg.
    """
    ra_min, ra_max, dec_min, dec_max = limits
    return Box.fromDegrees(ra_min, dec_min, ra_max, dec_max)


def htm_index(ra: np.ndarray, dec: np.ndarray, level: int) -> np.ndarray:
    """Return the HTM indices of positions.

    Parameters
    ----------
    ra, dec
        Positions, ``(n,)``, deg.
    level
        Level of the HTM pixelization; a trixel of level 12 has sides of about
        80 arcsec.

    Returns
    -------
    index : `numpy.ndarray`
        Indices, int64 ``(n,)``.
    """
    pixelization = HtmPixelization(level)
    vectors = (UnitVector3d(LonLat.fromDegrees(*position)) for position in zip(ra, dec, strict=True))
    return np.fromiter((pixelization.index(vector) for vector in vectors), dtype=np.int64, count=len(ra))


def split_of_htm(htm: np.ndarray) -> np.ndarray:
    """Return the split that trixels belong to.

    Parameters
    ----------
    htm
        HTM indices.

    Returns
    -------
    split : `numpy.ndarray`
        Indices in `SPLITS`, uint8.
    """
    return split_of_hash(np.asarray(htm).astype(np.uint64))


def split_of_hash(key: np.ndarray) -> np.ndarray:
    """Return the split that integer keys belong to.

    Parameters
    ----------
    key
        Keys, uint64.

    Returns
    -------
    split : `numpy.ndarray`
        Indices in `SPLITS`, uint8.

    Notes
    -----
    The keys are mixed by the finalizer of SplitMix64 (Steele, Lea & Flood
    2014, OOPSLA), so that neighbouring keys are independent.
    """
    z = np.asarray(key, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    fraction = (z >> np.uint64(11)).astype(np.float64) / 2.0**53
    return np.searchsorted(np.cumsum(SPLIT_FRACTIONS)[:-1], fraction, side="right").astype(np.uint8)


def split_of_orbits(source_orbit: np.ndarray) -> np.ndarray:
    """Return the split that orbits belong to, by a hash of their designation:
    names that catalogs write differently are of the same split.

    Parameters
    ----------
    source_orbit
        Names of the orbits.

    Returns
    -------
    split : `numpy.ndarray`
        Indices in `SPLITS`, uint8.
    """
    names, inverse = np.unique(np.asarray(source_orbit, dtype=str), return_inverse=True)
    keys = [
        int.from_bytes(hashlib.sha256(designation_key(name).encode()).digest()[:8], "little")
        for name in names
    ]
    return split_of_hash(np.array(keys, dtype=np.uint64))[inverse]


def straddles_split(ra: np.ndarray, dec: np.ndarray, htm: np.ndarray, size: float) -> np.ndarray:
    """Tell which windows reach into trixels of another split than their own.

    Parameters
    ----------
    ra, dec
        Centres of the windows, ``(n,)``, deg.
    htm
        HTM indices of the centres, all of one level.
    size
        Side of the square windows, arcsec; small against a trixel.

    Returns
    -------
    straddles : `numpy.ndarray`
        Whether a corner, or the middle of a side, lies in a trixel of another
        split, bool ``(n,)``.
    """
    if len(htm) == 0:
        return np.zeros(0, dtype=bool)
    level = HtmPixelization.level(int(htm[0]))
    split = split_of_htm(htm)
    straddles = np.zeros(len(htm), dtype=bool)
    for xi in (-size / 2, 0.0, size / 2):
        for eta in (-size / 2, 0.0, size / 2):
            corner = inverse_gnomonic(xi, eta, ra, dec)
            straddles |= split_of_htm(htm_index(*corner, level)) != split
    return straddles


def _circles(region: Region, box: Box | None) -> list[Circle]:
    """Return the bounding circles. Those of polygons are tight, while their
    bounding boxes go all around the sky where they cross RA 0.
    """
    return [part.getBoundingCircle() for part in (region, box) if part is not None]


def _draw_in_circle(circle: Circle, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw positions uniformly: the height above the plane that cuts the
    circle off the sphere is uniform (Archimedes).
    """
    axis = np.array([getattr(circle.getCenter(), name)() for name in ("x", "y", "z")])
    height = rng.uniform(np.cos(circle.getOpeningAngle().asRadians()), 1.0, n)
    azimuth = rng.uniform(0.0, 2 * np.pi, n)
    first = np.cross(axis, np.eye(3)[np.argmin(np.abs(axis))])
    first /= np.linalg.norm(first)
    radius = np.sqrt(1.0 - height**2)
    across = np.outer(np.cos(azimuth), first) + np.outer(np.sin(azimuth), np.cross(axis, first))
    x, y, z = (height[:, None] * axis + radius[:, None] * across).T
    return np.mod(np.degrees(np.arctan2(y, x)), 360.0), np.degrees(np.arctan2(z, np.hypot(x, y)))


def _contains(region: Region, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    return np.asarray(region.contains(np.radians(ra), np.radians(dec)), dtype=bool)


def _to_degrees(column: Table.Column) -> np.ndarray:
    quantity = getattr(column, "quantity", None)
    if quantity is None or column.unit is None:
        return np.ma.filled(np.ma.asarray(column, dtype=float), np.nan)
    return quantity.to_value("deg")
