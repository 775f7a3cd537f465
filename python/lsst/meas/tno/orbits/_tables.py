# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading tables of orbits: CSV by the line, all others through astropy."""

from __future__ import annotations

__all__ = ("CSV_COLUMNS", "csv_header", "csv_rows", "read_orbit_table", "split_csv")

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import Table

from .._schema import ORBIT_COLUMNS, TEXT
from ._designations import tidy_name
from ._rows import (
    Orbit,
    OrbitCatalog,
    OrbitFileError,
    RowError,
    load_bytes,
    load_text,
    make_catalog,
    number,
    optional_number,
)

CSV_COLUMNS = frozenset(("name", "epoch", "q", "e", "i", "node", "peri", "tp"))
"""Columns that a table of orbits cannot be without."""

_TEXT_COLUMNS = tuple(column.name for column in ORBIT_COLUMNS if column.dtype == TEXT)


def split_csv(line: str) -> list[str]:
    """Split one line of comma-separated values.

    Parameters
    ----------
    line
        The line; by itself, so that a quotation mark that is not closed
        cannot swallow those that follow.

    Raises
    ------
    RowError
        Raised if it cannot be split.
    """
    try:
        return [value.strip() for value in next(csv.reader([line], strict=True), [])]
    except csv.Error as error:
        raise RowError(f"The line is not of comma-separated values: {error}.") from error


def csv_header(text: str) -> frozenset[str]:
    """Return the names in the first line, none if it is not of a CSV file.

    Parameters
    ----------
    text
        Text of the file.
    """
    try:
        return frozenset(split_csv(next(iter(text.lstrip().splitlines()), "")))
    except RowError:
        return frozenset()


def csv_rows(text: str) -> tuple[list[str], Iterator[tuple[int, str]]]:
    """Return the names of the columns, and the numbered lines under them.

    Parameters
    ----------
    text
        Text of the file.

    Returns
    -------
    header : `list` [`str`]
        Names of the columns.
    rows : iterator over `tuple` [`int`, `str`]
        Number, from 1, and text of the lines that are not blank.
    """
    rows = ((i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip())
    return split_csv(next(rows, (0, ""))[1]), rows


def csv_record(line: str, header: list[str]) -> dict[str, str]:
    """Return the values of a line by column.

    Parameters
    ----------
    line
        The line.
    header
        Names of the columns.

    Raises
    ------
    RowError
        Raised if it has more or fewer values than there are columns.
    """
    values = split_csv(line)
    if len(values) != len(header):
        raise RowError(f"The line has {len(values)} values, not {len(header)}.")
    return dict(zip(header, values, strict=True))


def read_orbit_table(path: str | Path) -> OrbitCatalog:
    """Read a table that has the columns of `ORBIT_COLUMNS`.

    Parameters
    ----------
    path
        Path of a table in CSV, ECSV, Parquet or another format that astropy
        recognises. The columns H, G, M1, K1, orbit_class and source may be
        absent, others are ignored. Units are converted; a column without one
        has that of `ORBIT_COLUMNS`.

    Returns
    -------
    catalog : `OrbitCatalog`
        The orbits.

    Raises
    ------
    OrbitFileError
        Raised if the file cannot be read, lacks a column or has no orbits.
    """
    source = f"table {Path(path).name}"
    if not _is_csv(load_bytes(path)):
        table = _read_table(path)
        _check_columns(path, table.colnames)
        rows = enumerate(_table_records(path, table), 1)
        return make_catalog(path, rows, lambda record: _parse_record(record, source))
    header, lines = csv_rows(load_text(path))
    _check_columns(path, header)
    return make_catalog(path, lines, lambda line: _parse_record(csv_record(line, header), source))


def _is_csv(data: bytes) -> bool:
    return CSV_COLUMNS <= csv_header(data[:65536].decode("utf-8-sig", errors="replace"))


def _read_table(path: str | Path) -> Table:
    """Read what is not CSV, from memory if it had to be decompressed."""
    data = load_bytes(path)
    try:
        if data.startswith(b"PAR1"):
            return _read_parquet(data)
        if data.startswith(b"# %ECSV"):
            return Table.read(data.decode("utf-8"), format="ascii.ecsv")
        return Table.read(path)
    # Readers raise whatever the libraries under them do.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OrbitFileError(f"{path} cannot be read as a table: {reason}") from error


def _read_parquet(data: bytes) -> Table:
    """Read Parquet as the butler does; astropy would need pandas."""
    from pyarrow import parquet

    from lsst.daf.butler.formatters.parquet import arrow_to_astropy

    return arrow_to_astropy(parquet.read_table(io.BytesIO(data)))


def _check_columns(path: str | Path, names: list[str]) -> None:
    if missing := [column.name for column in ORBIT_COLUMNS if column.name in CSV_COLUMNS - {*names}]:
        raise OrbitFileError(f"{path} lacks the columns {missing} of a table of orbits; it has {names}.")


def _table_records(path: str | Path, table: Table) -> Iterator[dict[str, Any]]:
    arrays = {}
    for column in ORBIT_COLUMNS:
        if column.name not in table.colnames:
            continue
        values = table[column.name]
        try:
            if column.unit and values.unit:
                values = u.Quantity(np.ma.filled(values.astype(float), np.nan), values.unit)
                values = values.to_value(column.unit)
        except (TypeError, ValueError) as error:
            raise OrbitFileError(f"{path}: the column {column.name} has no {column.unit}: {error}") from error
        arrays[column.name] = [None if value is np.ma.masked else value for value in values]
    for row in zip(*arrays.values(), strict=True):
        yield dict(zip(arrays, row, strict=True))


def _parse_record(record: Mapping[str, Any], source: str) -> Orbit:
    text = {name: _to_text(record.get(name)) for name in _TEXT_COLUMNS}
    return Orbit(
        name=tidy_name(text["name"]),
        orbit_class=text["orbit_class"],
        source=text["source"] or source,
        **{name: number(record, name) for name in ("epoch", "q", "e", "i", "node", "peri", "tp")},
        **{name: optional_number(record, name) for name in ("H", "G", "M1", "K1")},
    )


def _to_text(value: Any) -> str:
    text = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
    return "" if value is None else text.strip()
