# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.table import Table
from builders import region_about

from lsst.meas.tno.positions import (
    SPLIT_FRACTIONS,
    catalog_positions,
    grid_positions,
    htm_index,
    random_positions,
    sky_box,
    split_of_hash,
    split_of_htm,
    split_of_orbits,
    straddles_split,
)
from lsst.sphgeom import HtmPixelization, LonLat, UnitVector3d

ACROSS_ZERO = region_about(0.0, -28.0, 720.0)


def _inside(region, ra, dec):
    return np.all(region.contains(np.radians(ra), np.radians(dec)))


def test_random_positions_are_uniform_across_ra_zero():
    ra, dec = random_positions(ACROSS_ZERO, 4000, np.random.default_rng(1))
    assert len(ra) == len(dec) == 4000
    assert _inside(ACROSS_ZERO, ra, dec)
    # 4 sigma of a binomial with 4000 draws.
    assert abs(np.mean(ra > 180) - 0.5) < 4 * 0.5 / np.sqrt(4000)
    assert abs(np.mean(dec > -28.0) - 0.5) < 4 * 0.5 / np.sqrt(4000) + 1e-3


def test_random_positions_near_the_pole_are_uniform_on_the_sphere():
    region = sky_box([0.0, 359.999, 60.0, 90.0])
    _, dec = random_positions(region, 20000, np.random.default_rng(2))
    half_area = np.degrees(np.arcsin((np.sin(np.radians(60.0)) + 1) / 2))
    assert abs(np.mean(dec > half_area) - 0.5) < 4 * 0.5 / np.sqrt(20000)


def test_random_positions_lie_in_the_box():
    box = sky_box([359.95, 0.02, -28.02, -27.5])
    ra, dec = random_positions(ACROSS_ZERO, 100, np.random.default_rng(3), box)
    assert len(ra) == 100
    assert np.all((ra >= 359.95) | (ra <= 0.02))
    assert np.all(dec >= -28.02)
    elsewhere = sky_box([50.0, 74.0, -44.0, -27.0])
    assert len(random_positions(ACROSS_ZERO, 100, np.random.default_rng(3), elsewhere)[0]) == 0


def test_grid_is_the_same_for_neighbours():
    left, right = region_about(0.0, -28.0, 300.0), region_about(0.05, -28.0, 300.0)
    points = [
        {point for row in grid_positions(region, 10.0) for point in zip(*row, strict=True)}
        for region in (left, right)
    ]
    common = {point for point in points[0] if _inside(right, *map(np.atleast_1d, point))}
    assert len(common) > 100
    assert common == {point for point in points[1] if _inside(left, *map(np.atleast_1d, point))}
    assert len(points[0]) == pytest.approx(30 * 30, rel=0.05)


def test_catalog_positions_take_units_and_refuse_nonsense():
    catalog = Table({"ra": [0.0, 6.28] * u.rad, "dec": [-28.0, -28.01] * u.deg})
    ra, dec = catalog_positions(ACROSS_ZERO, catalog)
    assert ra.tolist() == pytest.approx([0.0])
    assert dec.tolist() == [-28.0]
    with pytest.raises(ValueError, match=r"lacks the columns \['ra'\]"):
        catalog_positions(ACROSS_ZERO, Table({"RA": [0.0], "dec": [0.0]}))
    with pytest.raises(ValueError, match="Row 1"):
        catalog_positions(ACROSS_ZERO, Table({"ra": [0.0, 1.0], "dec": [0.0, 91.0]}))


def test_htm_index_is_that_of_the_trixel():
    rng = np.random.default_rng(4)
    ra, dec = random_positions(ACROSS_ZERO, 50, rng)
    index = htm_index(ra, dec, 12)
    pixelization = HtmPixelization(12)
    assert index.dtype == np.int64
    for position, trixel in zip(zip(ra, dec, strict=True), index, strict=True):
        vector = UnitVector3d(LonLat.fromDegrees(*position))
        assert pixelization.triangle(int(trixel)).contains(vector)


def test_split_has_the_fractions_and_ignores_order():
    split = split_of_hash(np.arange(200_000))
    for value, fraction in enumerate(SPLIT_FRACTIONS):
        # 4 sigma of a binomial.
        assert abs(np.mean(split == value) - fraction) < 4 * np.sqrt(fraction * (1 - fraction) / 200_000)
    assert split.dtype == np.uint8
    np.testing.assert_array_equal(split_of_htm(np.arange(200_000)[::-1]), split[::-1])


def test_straddling_windows_are_those_near_an_edge():
    rng = np.random.default_rng(5)
    ra, dec = random_positions(region_about(10.0, -28.0, 3600.0), 2000, rng)
    htm = htm_index(ra, dec, 12)
    tiny, large = straddles_split(ra, dec, htm, 0.001), straddles_split(ra, dec, htm, 60.0)
    assert np.mean(tiny) < 0.002
    assert 0.3 < np.mean(large) < 0.8
    assert np.all(straddles_split(ra, dec, htm, 3.0)[tiny])
    assert len(straddles_split(ra[:0], dec[:0], htm[:0], 3.0)) == 0


def test_names_of_one_object_are_of_one_split():
    for names in (
        ["15760 Albion (1992 QB1)", "15760 Albion", "15760 (1992 QB1)"],
        ["2060 Chiron", "2060 Chiron (1977 UB)"],
        ["C/2002 T7 (LINEAR)", "C/2002 T7"],
    ):
        assert len(set(split_of_orbits(np.array(names)))) == 1
    assert len(set(split_of_orbits(np.array([f"synthetic-{i:06d}" for i in range(50)])))) == 3
    assert len(split_of_orbits(np.empty(0, dtype=str))) == 0
