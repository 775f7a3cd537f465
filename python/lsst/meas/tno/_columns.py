# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Typed views of tables: dataclasses whose fields are columns."""

from __future__ import annotations

__all__ = ("ColumnArrays", "Index", "make_table")

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from astropy.table import Column as AstropyColumn
from astropy.table import Table

from ._schema import Column

type Index = slice | np.ndarray


class ColumnArrays:
    """Base of the dataclasses whose fields are the columns of a table, arrays
    with one row each.
    """

    _schema: tuple[Column, ...]

    @classmethod
    def full(cls, n_rows: int, **sizes: int) -> Self:
        """Return rows in which every value is missing.

        Parameters
        ----------
        n_rows
            Number of rows.
        **sizes
            Value of each letter in the shapes of the columns.
        """
        return cls(**{column.name: column.full(n_rows, sizes) for column in cls._schema})

    @classmethod
    def from_arrays(cls, arrays: Any) -> Self:
        """Take the columns out of a mapping of arrays, or a table.

        Parameters
        ----------
        arrays
            Mapping from column name to array.
        """
        return cls(**{column.name: np.asarray(arrays[column.name]) for column in cls._schema})

    def items(self) -> Iterator[tuple[Column, np.ndarray]]:
        """Iterate over the columns and their arrays."""
        for column in self._schema:
            yield column, getattr(self, column.name)

    def select(self, index: Index) -> Self:
        """Return some of the rows; views of them if the index is a slice.

        Parameters
        ----------
        index
            Slice, boolean mask or integer indices.
        """
        return type(self)(**{column.name: array[index] for column, array in self.items()})

    @classmethod
    def stack(cls, parts: Sequence[Self]) -> Self:
        """Concatenate along the rows.

        Parameters
        ----------
        parts
            What to concatenate, at least one.
        """
        return cls(
            **{
                column.name: np.concatenate([getattr(part, column.name) for part in parts])
                for column in cls._schema
            }
        )


def make_table(columns: Iterable[tuple[Column, np.ndarray]]) -> Table:
    """Return an astropy table that shares arrays.

    Parameters
    ----------
    columns
        Description and array of each column.
    """
    return Table(
        [
            AstropyColumn(array, name=column.name, unit=column.unit, description=column.doc, copy=False)
            for column, array in columns
        ],
        copy=False,
    )
