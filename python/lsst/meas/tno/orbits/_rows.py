# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What readers of orbit files have in common: rows in, a catalog out."""

from __future__ import annotations

__all__ = (
    "Orbit",
    "OrbitCatalog",
    "OrbitFileError",
    "RejectedRow",
    "RowError",
    "complete_elements",
    "concatenate_orbits",
    "load_bytes",
    "load_text",
    "make_catalog",
    "make_orbit_table",
    "number",
    "optional_number",
)

import dataclasses
import gzip
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.table import Column, Table

from .._schema import ORBIT_COLUMNS, TEXT
from ._designations import designation_key
from ._times import perihelion_time

MAX_EPOCH = 1e6
"""Largest distance of an epoch from MJD 0, days: a Julian Date is no MJD."""

_TEXT_LENGTH = 200
"""Characters of a row that are kept in a report."""

_MISSING = ("", "nan", "null", "none", "n.a.", "--")


class OrbitFileError(ValueError):
    """A file has no orbits."""


class RowError(ValueError):
    """A row is not an orbit."""


@dataclasses.dataclass(frozen=True)
class RejectedRow:
    """A row of a file that was left out."""

    line: int
    """Line of the file, or row of one without lines, from 1; 0 if it is the
    file's own orbit that another file has, too (`int`).
    """

    text: str
    """The row, shortened (`str`)."""

    reason: str
    """Why it was left out (`str`)."""

    path: str = ""
    """File, or source, that it is of (`str`)."""

    def __str__(self) -> str:
        return (
            f"{self.path}:{self.line}: {self.reason} {self.text!r}"
            if self.line
            else f"{self.path}: {self.reason}"
        )


class OrbitCatalog(NamedTuple):
    """Orbits, and what was not accepted as one."""

    orbits: Table
    """Table with the columns of `ORBIT_COLUMNS` (`astropy.table.Table`)."""

    rejected: list[RejectedRow]
    """Rows that were left out (`list` [`RejectedRow`])."""


class Orbit(NamedTuple):
    """One row of a catalog, in the order and units of `ORBIT_COLUMNS`."""

    name: str
    orbit_class: str
    epoch: float
    q: float
    e: float
    i: float
    node: float
    peri: float
    tp: float
    H: float = math.nan
    G: float = math.nan
    M1: float = math.nan
    K1: float = math.nan
    source: str = ""


def load_bytes(path: str | Path) -> bytes:
    """Return the content of a file, decompressed if it is gzipped.

    Parameters
    ----------
    path
        Path of the file.

    Raises
    ------
    OrbitFileError
        Raised if it cannot be read.
    """
    try:
        data = Path(path).read_bytes()
        return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except (OSError, EOFError, zlib.error) as error:
        raise OrbitFileError(f"{path} cannot be read: {error}") from error


def load_text(path: str | Path) -> str:
    """Return the text of a file in UTF-8 or, failing that, Latin-1.

    Parameters
    ----------
    path
        Path of the file.

    Raises
    ------
    OrbitFileError
        Raised if it cannot be read.
    """
    data = load_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def number(values: Mapping[str, Any], *names: str) -> float:
    """Return the first number that a row has under some names.

    Parameters
    ----------
    values
        Values of the row: numbers, strings or `None`.
    *names
        Names to look for.

    Raises
    ------
    RowError
        Raised if there is none, or something that is no finite number.
    """
    value = optional_number(values, *names)
    if math.isnan(value):
        raise RowError(f"{' or '.join(names)} is missing.")
    return value


def optional_number(values: Mapping[str, Any], *names: str) -> float:
    """Return the first number that a row has under some names, or NaN.

    Parameters
    ----------
    values
        Values of the row: numbers, strings or `None`.
    *names
        Names to look for.

    Raises
    ------
    RowError
        Raised if there is something that is no finite number.
    """
    for name in names:
        text = str(values.get(name, "")).strip()
        if text.lower() in _MISSING:
            continue
        try:
            value = float(text)
        except ValueError:
            raise RowError(f"{name} is not a number: {text!r}.") from None
        if not math.isfinite(value):
            raise RowError(f"{name} is not finite: {text!r}.")
        return value
    return math.nan


def complete_elements(
    *, e: float, q: float, a: float, epoch: float, mean_anomaly: float, tp: float
) -> dict[str, float]:
    """Derive q, epoch and tp from the elements that a catalog has.

    Parameters
    ----------
    e
        Eccentricity.
    q, a
        Perihelion distance and semimajor axis, au; one may be NaN.
    epoch
        Epoch, MJD; if it is NaN it is taken to be ``tp``.
    mean_anomaly
        Mean anomaly at the epoch, deg; it may be NaN if ``tp`` is not.
    tp
        Time of perihelion passage, MJD, or NaN.

    Returns
    -------
    elements : `dict` [`str`, `float`]
        ``q``, ``e``, ``epoch`` and ``tp``.

    Raises
    ------
    RowError
        Raised if something cannot be derived.
    """
    if math.isnan(q):
        if math.isnan(a) or e == 1.0:
            raise RowError("q is missing and does not follow from a and e.")
        q = a * (1.0 - e)
    if math.isnan(tp):
        if e == 1.0 or math.isnan(mean_anomaly) or math.isnan(epoch):
            raise RowError("tp is missing and does not follow from the mean anomaly and the epoch.")
        if math.isnan(a):
            a = q / (1.0 - e)
        if a == 0.0 or a * (1.0 - e) < 0.0:
            raise RowError(f"a={a:g} does not fit e={e:g}.")
        tp = perihelion_time(epoch, mean_anomaly, a)
    return {"q": q, "e": e, "epoch": tp if math.isnan(epoch) else epoch, "tp": tp}


def make_catalog[T](
    path: str | Path, rows: Iterable[tuple[int, T]], parse: Callable[[T], Orbit]
) -> OrbitCatalog:
    """Make a catalog of the rows of a file.

    Parameters
    ----------
    path
        Path of the file, for the report.
    rows
        Number and content of each row.
    parse
        Makes an orbit of a row, or raises `ValueError` with the reason.

    Returns
    -------
    catalog : `OrbitCatalog`
        The orbits in the order of the file.

    Raises
    ------
    OrbitFileError
        Raised if no row is left.
    """
    orbits: dict[str, Orbit] = {}
    lines: dict[str, int] = {}
    rejected: list[RejectedRow] = []
    for line, row in rows:
        try:
            orbit = parse(row)
            _check(orbit)
            key = designation_key(orbit.name)
            if key in orbits:
                raise RowError(f"{orbit.name} is a duplicate of line {lines[key]}.")
        except (ArithmeticError, ValueError) as error:
            reason = str(error) if isinstance(error, ValueError) else "The elements are out of range."
            rejected.append(RejectedRow(line, _show(row), reason, str(path)))
            continue
        orbits[key], lines[key] = orbit, line
    if not orbits:
        raise OrbitFileError(_nothing_left(path, rejected))
    return OrbitCatalog(make_orbit_table(orbits.values()), rejected)


def _check(orbit: Orbit) -> None:
    """Refuse what is not the orbit of anything."""
    if not orbit.name:
        raise RowError("The name is missing.")
    for name in ("epoch", "q", "e", "i", "node", "peri", "tp"):
        if not math.isfinite(value := getattr(orbit, name)):
            raise RowError(f"{name}={value} is not finite.")
    if orbit.q <= 0.0:
        raise RowError(f"q={orbit.q:g} au is not positive.")
    if orbit.e < 0.0:
        raise RowError(f"e={orbit.e:g} is negative.")
    if not 0.0 <= orbit.i <= 180.0:
        raise RowError(f"i={orbit.i:g} deg is not between 0 and 180.")
    if abs(orbit.epoch) > MAX_EPOCH:
        raise RowError(f"epoch={orbit.epoch:.1f} is not an MJD of this era; is it a JD?")


def _show(row: Any) -> str:
    if isinstance(row, Mapping):
        row = list(row.values())
    text = row if isinstance(row, str) else ",".join(map(str, row)) if isinstance(row, list) else str(row)
    return text if len(text) <= _TEXT_LENGTH else text[:_TEXT_LENGTH] + "..."


def _nothing_left(path: str | Path, rejected: list[RejectedRow]) -> str:
    if not rejected:
        return f"{path} has no rows of orbits."
    first = rejected[0]
    return f"{path} has no orbit among its {len(rejected)} rows; the first, line {first.line}: {first.reason}"


def make_orbit_table(orbits: Iterable[Orbit]) -> Table:
    """Make a table of orbits.

    Parameters
    ----------
    orbits
        The orbits; the angles node and peri are brought to [0, 360) deg.

    Returns
    -------
    table : `astropy.table.Table`
        Table with the columns of `ORBIT_COLUMNS`.
    """
    values = list(zip(*orbits, strict=True)) or [()] * len(ORBIT_COLUMNS)
    table = Table()
    for column, value in zip(ORBIT_COLUMNS, values, strict=True):
        array = np.array(value, dtype=str if column.dtype == TEXT else column.dtype)
        if column.name in ("node", "peri"):
            # The remainder of what is just below 0 rounds to 360.
            array = np.mod(np.mod(array, 360.0), 360.0)
        table[column.name] = Column(array, unit=column.unit, description=column.doc)
    return table


def concatenate_orbits(catalogs: Iterable[OrbitCatalog]) -> OrbitCatalog:
    """Put catalogs together.

    Of an object that several have, the orbit of the first is kept; a name
    stands for the same object if the number or, without one, the designation
    is the same.

    Parameters
    ----------
    catalogs
        Catalogs, at least one.

    Returns
    -------
    catalog : `OrbitCatalog`
        All orbits in order; duplicates are among the rejected rows.

    Raises
    ------
    ValueError
        Raised if there is no catalog.
    """
    catalogs = list(catalogs)
    if not catalogs:
        raise ValueError("There are no catalogs to put together.")
    found: dict[str, Orbit] = {}
    rejected = [row for catalog in catalogs for row in catalog.rejected]
    for catalog in catalogs:
        arrays = (catalog.orbits[column.name].tolist() for column in ORBIT_COLUMNS)
        for values in zip(*arrays, strict=True):
            orbit = Orbit(*values)
            first = found.setdefault(designation_key(orbit.name), orbit)
            if first is not orbit:
                reason = f"{orbit.name} is already there from {first.source}."
                rejected.append(RejectedRow(0, orbit.name, reason, orbit.source))
    return OrbitCatalog(make_orbit_table(found.values()), rejected)
