# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Readers of the orbit files of the Minor Planet Center and of JPL's lists."""

from __future__ import annotations

__all__ = ("find_jpl_columns", "is_mpc_line", "read_jpl_elements", "read_mpc_orbits")

import math
import re
from collections.abc import Mapping
from pathlib import Path

from .._planets import GAUSS_K
from ._designations import full_name, tidy_name, unpack_designation
from ._rows import (
    Orbit,
    OrbitCatalog,
    OrbitFileError,
    RowError,
    complete_elements,
    load_text,
    make_catalog,
    number,
    optional_number,
)
from ._times import parse_date, unpack_epoch

_MPC_COLUMNS = {
    "packed": (0, 7),
    "H": (8, 13),
    "G": (14, 19),
    "epoch": (20, 25),
    "M": (26, 35),
    "peri": (37, 46),
    "node": (48, 57),
    "i": (59, 68),
    "e": (70, 79),
    "n": (80, 91),
    "a": (92, 103),
    "name": (166, 194),
}
"""First character and one after the last, from 0, of the fields we read, see
https://www.minorplanetcenter.net/iau/info/MPOrbitFormat.html
"""

_MPC_BLANKS = (7, 13, 19, 25, 35, 36, 46, 47, 57, 58, 68, 69, 79, 91)
"""Characters between the fields."""

_MPC_LENGTH = 103
"""Length of a line up to the last element."""

_MPC_EPOCH = re.compile(r"[I-L]\d\d[1-9A-C][1-9A-V]")

_MPC_HEADER_LINES = 200
"""Lines among which the end of a header is looked for."""

_MOTION_TOLERANCE = 1e-5
"""Relative difference between the mean motion that an MPC line states and
that of its semimajor axis from which one of them is taken to be damaged.
"""

_MOTION_ROUNDING = 1e-8
"""Last digit of the mean motion, deg/day."""


def read_mpc_orbits(path: str | Path) -> OrbitCatalog:
    """Read orbits in the MPCORB format of the Minor Planet Center.

    Parameters
    ----------
    path
        Path of ``MPCORB.DAT``, ``Distant.txt`` or an extract of them, which
        may be gzipped. A header that ends with a line of dashes is skipped.

    Returns
    -------
    catalog : `OrbitCatalog`
        The orbits; q and tp follow from a, e and the mean anomaly. Orbit
        classes are those that JPL gives to such a, e.

    Raises
    ------
    OrbitFileError
        Raised if the file has no orbits.
    """
    lines = load_text(path).splitlines()
    ruler = (i for i, line in enumerate(lines[:_MPC_HEADER_LINES]) if re.fullmatch(r"-{20,}\s*", line))
    start = next(ruler, -1) + 1
    source = f"MPC, {Path(path).name}"
    rows = ((i, line) for i, line in enumerate(lines[start:], start + 1) if line.strip())
    return make_catalog(path, rows, lambda line: _parse_mpc(line, source))


def is_mpc_line(line: str) -> bool:
    """Tell whether a line looks like one of MPCORB.

    Parameters
    ----------
    line
        The line.
    """
    fields = _slice(line, _MPC_COLUMNS)
    return len(line) >= _MPC_LENGTH and bool(_MPC_EPOCH.fullmatch(fields["epoch"]))


def _slice(line: str, columns: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    return {name: line[start:stop].strip() for name, (start, stop) in columns.items()}


def _parse_mpc(line: str, source: str) -> Orbit:
    if len(line.rstrip()) < _MPC_LENGTH:
        raise RowError(f"The line has {len(line.rstrip())} characters, not {_MPC_LENGTH} or more.")
    if any(line[i] != " " for i in _MPC_BLANKS):
        raise RowError("The fields are not in the columns of MPCORB.")
    fields = _slice(line, _MPC_COLUMNS)
    e, a = number(fields, "e"), number(fields, "a")
    _check_mean_motion(a, optional_number(fields, "n"))
    elements = complete_elements(
        e=e,
        q=math.nan,
        a=a,
        epoch=unpack_epoch(fields["epoch"]),
        mean_anomaly=number(fields, "M"),
        tp=math.nan,
    )
    return Orbit(
        name=tidy_name(fields["name"]) or unpack_designation(fields["packed"]),
        orbit_class=_asteroid_class(a, e),
        i=number(fields, "i"),
        node=number(fields, "node"),
        peri=number(fields, "peri"),
        H=optional_number(fields, "H"),
        G=optional_number(fields, "G"),
        source=source,
        **elements,
    )


def _check_mean_motion(a: float, motion: float) -> None:
    expected = math.degrees(GAUSS_K) / abs(a) ** 1.5 if a else math.inf
    if abs(motion - expected) > _MOTION_TOLERANCE * expected + _MOTION_ROUNDING:
        raise RowError(f"a={a:g} au does not fit the mean motion of {motion:g} deg/day.")


def _asteroid_class(a: float, e: float) -> str:
    """Return JPL's class of a distant minor planet; see
    https://ssd-api.jpl.nasa.gov/doc/sbdb_filter.html
    """
    if e >= 1.0:
        return "HYA" if e > 1.0 else "PAA"
    if a > 30.1:
        return "TNO"
    return "CEN" if a > 5.5 else ""


def read_jpl_elements(path: str | Path) -> OrbitCatalog:
    """Read one of JPL's lists ELEMENTS.COMET, ELEMENTS.NUMBR, ELEMENTS.UNNUM.

    Parameters
    ----------
    path
        Path of the file, which may be gzipped. Its first line names the
        columns, a line of dashes says where they are.

    Returns
    -------
    catalog : `OrbitCatalog`
        The orbits. The class of a comet is only given where its orbit is
        not elliptic (HYP, PAR).

    Raises
    ------
    OrbitFileError
        Raised if the file has no such columns, or no orbits.
    """
    lines = load_text(path).splitlines()
    columns, start = find_jpl_columns(lines)
    if not columns:
        raise OrbitFileError(f"{path} has no line of dashes under names of columns as JPL's lists have.")
    source = f"JPL, {Path(path).name}"
    rows = ((i, line) for i, line in enumerate(lines[start:], start + 1) if line.strip())
    return make_catalog(path, rows, lambda line: _parse_jpl(line, columns, source))


def find_jpl_columns(lines: list[str]) -> tuple[dict[str, tuple[int, int]], int]:
    """Find the columns of a list of JPL.

    Parameters
    ----------
    lines
        Lines of the file.

    Returns
    -------
    columns : `dict` [`str`, `tuple` [`int`, `int`]]
        First character and one after the last of each column; empty if this
        is no such list.
    start : `int`
        Index of the first line of data.
    """
    for index, (header, ruler) in enumerate(zip(lines[:20], lines[1:21], strict=False)):
        if not re.fullmatch(r" *-+(?: +-+)+ *", ruler):
            continue
        spans = [match.span() for match in re.finditer("-+", ruler)]
        columns = {" ".join(header[start:stop].split()): (start, stop) for start, stop in spans}
        if {"Epoch", "e", "i", "w", "Node"} <= columns.keys():
            return columns, index + 2
    return {}, 0


def _parse_jpl(line: str, columns: dict[str, tuple[int, int]], source: str) -> Orbit:
    # All but the reference are numbers, aligned to the right.
    last = max(stop for name, (_, stop) in columns.items() if name != "Ref")
    if len(line.rstrip()) < last:
        raise RowError(f"The line has {len(line.rstrip())} characters, not {last} or more.")
    edges = [stop for _, stop in columns.values() if stop <= last]
    if any(line[edge : edge + 1].strip() for edge in edges):
        raise RowError("The fields are not in the columns of the line of dashes.")
    fields = _slice(line, columns)
    e = number(fields, "e")
    a = optional_number(fields, "a")
    is_comet = "Tp" in columns
    elements = complete_elements(
        e=e,
        q=optional_number(fields, "q"),
        a=a,
        epoch=number(fields, "Epoch"),
        mean_anomaly=optional_number(fields, "M"),
        tp=parse_date(fields["Tp"]) if is_comet else math.nan,
    )
    return Orbit(
        name=_jpl_name(fields),
        orbit_class=_comet_class(e) if is_comet else _asteroid_class(a, e),
        i=number(fields, "i"),
        node=number(fields, "Node"),
        peri=number(fields, "w"),
        H=optional_number(fields, "H"),
        G=optional_number(fields, "G"),
        source=source,
        **elements,
    )


def _jpl_name(fields: Mapping[str, str]) -> str:
    if fields.get("Num"):
        return full_name(fields["Num"], fields.get("Name", ""))
    return tidy_name(fields.get("Num Name") or fields.get("Designation") or fields.get("Name", ""))


def _comet_class(e: float) -> str:
    return "" if e < 1.0 else "HYP" if e > 1.0 else "PAR"
