# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Times and dates of orbit catalogs.

Times are MJD in TDB, as JPL and the Minor Planet Center give them.
"""

from __future__ import annotations

__all__ = ("calendar_to_mjd", "jd_to_mjd", "parse_date", "perihelion_time", "unpack_epoch")

import math
import re

from .._planets import GAUSS_K

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

_DATE = re.compile(r"(-?\d{1,4})-(\d{1,2}|[A-Za-z]{3})-(\d{1,2}(?:\.\d*)?)")
"""For example 1986-02-05.895 or -146-06-28.0."""

_COMPACT_DATE = re.compile(r"(-?\d{1,4})(\d\d)(\d\d(?:\.\d*)?)")
"""For example 19860205.895 or -1460628.0."""

_PACKED_EPOCH = re.compile(r"([I-L])(\d\d)([1-9A-C])([1-9A-V])")


def jd_to_mjd(jd: float) -> float:
    """Return the Modified Julian Date of a Julian Date.

    Parameters
    ----------
    jd
        Julian Date.
    """
    return jd - 2400000.5


def calendar_to_mjd(year: int, month: int, day: float) -> float:
    """Return the MJD of a calendar date.

    Parameters
    ----------
    year
        Astronomical year: 0 is 1 BC, -1 is 2 BC.
    month
        Month, from 1.
    day
        Day of the month with its fraction; 1.0 is 0h of the first.

    Returns
    -------
    mjd : `float`
        Modified Julian Date.

    Raises
    ------
    ValueError
        Raised if there is no such date.

    Notes
    -----
    Dates before 1582-10-15 are of the Julian calendar, later ones of the
    Gregorian, as in JPL's catalogs. The day number is that of Richards
    (Explanatory Supplement to the Astronomical Almanac, 2013, section 15.11).
    """
    gregorian = (year, month, day) >= (1582, 10, 15)
    skipped = not gregorian and (year, month, day) >= (1582, 10, 5)
    if not 1 <= month <= 12 or not 1 <= day < 1 + _month_length(year, month, gregorian) or skipped:
        raise ValueError(f"There is no date {year}-{month:02d}-{day:.1f}.")
    before_march = (14 - month) // 12
    y, m = year + 4800 - before_march, month + 12 * before_march - 3
    days = (153 * m + 2) // 5 + 365 * y + y // 4 - 32083
    if gregorian:
        days += y // 400 - y // 100 + 38
    return days + day - 2400001


def _month_length(year: int, month: int, gregorian: bool) -> int:
    if month != 2:
        return 30 if month in (4, 6, 9, 11) else 31
    leap = year % 4 == 0 and (not gregorian or year % 100 != 0 or year % 400 == 0)
    return 29 if leap else 28


def parse_date(text: str) -> float:
    """Return the MJD of a date as JPL writes it.

    Parameters
    ----------
    text
        Date like ``1986-02-05.895``, ``1986-Feb-05.895`` or
        ``19860205.895``; the year may be negative.

    Returns
    -------
    mjd : `float`
        Modified Julian Date.

    Raises
    ------
    ValueError
        Raised if this is no date.
    """
    match = _DATE.fullmatch(text.strip()) or _COMPACT_DATE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text.strip()!r} is not a date.")
    year, month, day = match.groups()
    if not month.isdigit() and month.lower() not in _MONTHS:
        raise ValueError(f"{text.strip()!r} has no month.")
    month_number = int(month) if month.isdigit() else 1 + _MONTHS.index(month.lower())
    return calendar_to_mjd(int(year), month_number, float(day))


def unpack_epoch(packed: str) -> float:
    """Return the MJD of a packed date of the Minor Planet Center.

    Parameters
    ----------
    packed
        Five characters: century (I to L for 18 to 21), year, month and day
        (1 to 9, then A for 10 and so on); K194R is 2019 April 27.

    Returns
    -------
    mjd : `float`
        Modified Julian Date at 0h.

    Raises
    ------
    ValueError
        Raised if this is no packed date.
    """
    match = _PACKED_EPOCH.fullmatch(packed)
    if match is None:
        raise ValueError(f"{packed!r} is not a packed epoch like K194R.")
    century, year, month, day = match.groups()
    return calendar_to_mjd(int(century, 36) * 100 + int(year), int(month, 36), int(day, 36))


def perihelion_time(epoch: float, mean_anomaly: float, a: float) -> float:
    """Return the time of perihelion passage.

    Parameters
    ----------
    epoch
        Epoch of the elements, MJD.
    mean_anomaly
        Mean anomaly at the epoch, deg.
    a
        Semimajor axis, au; negative for a hyperbola.

    Returns
    -------
    tp : `float`
        MJD of the passage; for an ellipse the one nearest to the epoch.
    """
    anomaly = math.remainder(mean_anomaly, 360.0) if a > 0 else mean_anomaly
    return epoch - math.radians(anomaly) / (GAUSS_K / abs(a) ** 1.5)
