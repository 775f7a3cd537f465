# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading tables of image sequences without a second copy of them.

``butler.get`` decodes a whole table, and makes an astropy table of that: three
times the memory of the table. Here some rows are decoded at a time.
"""

from __future__ import annotations

__all__ = ("TableHandle", "read_parts", "read_table")

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import Column, Table

from lsst.daf.butler import DeferredDatasetHandle
from lsst.pipe.base import InMemoryDatasetHandle

type TableHandle = DeferredDatasetHandle | InMemoryDatasetHandle
"""What a connection with ``deferLoad`` gives."""

PART_SIZE = 8_000_000
"""Bytes of the rows that are decoded at a time. Smaller parts take longer,
larger ones more memory that nobody has used before, which is slow.
"""

BUFFER_SIZE = 1_000_000
"""Bytes of each column that are read from the file at a time."""


def read_parts(handle: TableHandle) -> Iterator[Table]:
    """Read a table of this package in parts of about `PART_SIZE`.

    Parameters
    ----------
    handle
        Handle of the table.

    Yields
    ------
    part : `astropy.table.Table`
        Rows that follow those of the part before, at least one. A table
        without rows is one part.

    Notes
    -----
    What is not a Parquet file on a file system is read as a whole, as the
    butler gives it.
    """
    with _open(handle) as file:
        if file is None:
            table = handle.get()
            n_rows = _rows_in_part(table)
            yield from (table[start : start + n_rows] for start in range(0, max(len(table), 1), n_rows))
        else:
            yield from _parts_of(file)


def read_table(handle: TableHandle, columns: Iterable[str] | None = None) -> Table:
    """Read a table of this package, in the memory that it needs.

    Parameters
    ----------
    handle
        Handle of the table.
    columns
        Names of the columns to read; by default all.

    Returns
    -------
    table : `astropy.table.Table`
        What ``handle.get`` would return.
    """
    with _open(handle) as file:
        if file is None:
            return handle.get(
                parameters=None if columns is None else {"columns": list(dict.fromkeys(columns))}
            )
        n_rows, start, table = file.metadata.num_rows, 0, None
        for part in _parts_of(file, columns):
            if len(part) == n_rows:
                return part
            if table is None:
                table = _like(part, n_rows)
            for name in part.colnames:
                table[name][start : start + len(part)] = part[name]
            start += len(part)
        return table


@contextmanager
def _open(handle: TableHandle) -> Iterator[pq.ParquetFile | None]:
    """Open the file of a table, if it has one to itself on a file system."""
    if isinstance(handle, InMemoryDatasetHandle):
        yield None
        return
    uri = handle.butler.getURI(handle.ref)
    if not uri.isLocal or uri.fragment or uri.getExtension() not in (".parq", ".parquet"):
        yield None
        return
    # The butler looks whether the file is what was stored.
    handle.get(component="rowcount")
    try:
        with pq.ParquetFile(uri.ospath, buffer_size=BUFFER_SIZE) as file:
            yield file
    except (pa.ArrowException, OSError, KeyError) as error:
        error.add_note(f"This was while reading {handle.ref} from {uri.ospath}.")
        raise


def _like(part: Table, n_rows: int) -> Table:
    """Return a table of some rows, whose values are not set."""
    columns = []
    for column in part.itercols():
        values = np.empty((n_rows, *column.shape[1:]), column.dtype)
        new = Column(values, column.name, unit=column.unit, description=column.description, copy=False)
        columns.append(new)
    return Table(columns, meta=part.meta, copy=False)


def _parts_of(file: pq.ParquetFile, columns: Iterable[str] | None = None) -> Iterator[Table]:
    from lsst.daf.butler.formatters.parquet import arrow_to_astropy

    stored = file.schema_arrow
    # Shapes and units are in the metadata twice. The butler, too, leaves the
    # YAML alone: for each part it would take as long to read as the pixels.
    metadata = {key: value for key, value in (stored.metadata or {}).items() if key != b"table_meta_yaml"}
    names = stored.names if columns is None else dict.fromkeys(columns)
    schema = pa.schema([stored.field(name) for name in names], metadata=metadata)
    empty = arrow_to_astropy(schema.empty_table())
    if file.metadata.num_rows == 0:
        yield empty
    for batch in file.iter_batches(_rows_in_part(empty), columns=schema.names, use_threads=False):
        yield arrow_to_astropy(pa.Table.from_batches([batch]).select(schema.names).cast(schema))


def _rows_in_part(table: Table) -> int:
    """Return the number of a table's rows that are read at a time."""
    row_size = sum(math.prod(column.shape[1:]) * column.dtype.itemsize for column in table.itercols())
    return max(1, int(PART_SIZE // max(row_size, 1)))
