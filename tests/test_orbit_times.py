# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of the times and the designations of orbit catalogs."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.time import Time

from lsst.meas.tno.orbits._designations import designation_key, tidy_name, unpack_designation
from lsst.meas.tno.orbits._times import calendar_to_mjd, parse_date, unpack_epoch


@pytest.mark.parametrize(
    ("packed", "date"),
    [("K194R", "2019-04-27"), ("J9611", "1996-01-01"), ("I95CV", "1895-12-31"), ("K00A9", "2000-10-09")],
)
def test_packed_epochs(packed: str, date: str) -> None:
    assert unpack_epoch(packed) == Time(date, scale="tdb").mjd


@pytest.mark.parametrize(
    ("date", "jd"),
    [
        # Meeus, Astronomical Algorithms, chapter 7.
        ((1957, 10, 4.81), 2436116.31),
        ((333, 1, 27.5), 1842713.0),
        ((837, 4, 10.3), 2026871.8),
        ((-1000, 2, 29.0), 1355866.5),
        ((-4712, 1, 1.5), 0.0),
        ((1582, 10, 4.0), 2299159.5),
        ((1582, 10, 15.0), 2299160.5),
    ],
)
def test_calendars(date: tuple[int, int, float], jd: float) -> None:
    assert calendar_to_mjd(*date) == pytest.approx(jd - 2400000.5, abs=1e-9)


def test_gregorian_dates_are_those_of_astropy() -> None:
    rng = np.random.default_rng(4)
    for year, month, day in zip(
        rng.integers(1583, 2300, 50), rng.integers(1, 13, 50), rng.integers(1, 29, 50)
    ):
        assert calendar_to_mjd(year, month, day) == Time(f"{year}-{month:02d}-{day:02d}", scale="tdb").mjd


def test_dates_as_jpl_writes_them() -> None:
    assert parse_date("1986-Feb-05.5") == parse_date("19860205.5") == parse_date("1986-02-05.5")
    assert parse_date("-1460628.00000") == parse_date("-146-06-28.0") == -732091.0
    for text in ("", "1986", "1986-02", "1986-Xyz-05", "1582-10-10", "1900-02-29.0", "1986-02-00.5"):
        with pytest.raises(ValueError, match="date|month"):
            parse_date(text)


@pytest.mark.parametrize(
    ("packed", "designation"),
    [
        # https://www.minorplanetcenter.net/iau/info/PackedDes.html
        ("02060", "2060"),
        ("A0345", "100345"),
        ("z0289", "610289"),
        ("~0000", "620000"),
        ("~AZaz", "3140113"),
        ("J95X00A", "1995 XA"),
        ("J92Q01B", "1992 QB1"),
        ("J98SA8Q", "1998 SQ108"),
        ("K07Tf8A", "2007 TA418"),
        ("PLS2040", "2040 P-L"),
        ("T3S4101", "4101 T-3"),
        ("_QC0000", "2026 CA620"),
        ("_QC0aEM", "2026 CZ6190"),
    ],
)
def test_packed_designations(packed: str, designation: str) -> None:
    assert unpack_designation(packed) == designation


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (" 15760 Albion (1992 QB1)", "(15760) 1992 QB1"),
        ("(15760) Albion", "15760"),
        ("       (2020 MQ53)", "2020 MQ53"),
        ("C/2002 T7 (LINEAR)", "C/2002 T7"),
        ("51P/Harrington-A", "51P-A/Harrington"),
        ("1P/Halley", "1P"),
    ],
)
def test_names_of_one_object(a: str, b: str) -> None:
    assert designation_key(tidy_name(a)) == designation_key(tidy_name(b))


def test_names_of_different_objects() -> None:
    names = (
        *("1992 QB1", "1992 QB2", "1992", "1992P/X", "C/2001 A2-A (LINEAR)", "C/2001 A2-B (LINEAR)"),
        *("51P/Harrington-A", "51P/Harrington-D", "2040 P-L", "2040 T-1", "synthetic-000001", "C/-146 P1"),
    )
    assert len({designation_key(name) for name in names}) == len(names)
