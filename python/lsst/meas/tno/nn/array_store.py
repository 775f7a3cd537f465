# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Arrays that wait on disk."""

from __future__ import annotations

__all__ = ("ArrayStore",)

from collections.abc import Mapping
from pathlib import Path

import numpy as np


class ArrayStore:
    """Arrays with one row a sequence, in files.

    Parameters
    ----------
    directory
        Empty directory for the files.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._types: dict[str, np.dtype] = {}
        """dtype of a row of each array, its shape included."""

    def append(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Append rows.

        Parameters
        ----------
        arrays
            Rows to append to the array of each name. All rows of a name have
            the dtype and the shape of the first.

        Raises
        ------
        ValueError
            Raised if rows have another shape than those before.
        """
        for name, array in arrays.items():
            row = self._types.setdefault(name, np.dtype((array.dtype, array.shape[1:])))
            if array.shape[1:] != row.shape:
                raise ValueError(f"Rows of {name!r} have the shape {array.shape[1:]}, others {row.shape}.")
            with open(self._directory / name, "ab") as stream:
                stream.write(np.ascontiguousarray(array, dtype=row.base).data)

    def load(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return copies of rows.

        Parameters
        ----------
        rows
            Indices of the rows.
        """
        arrays = {}
        for name, row in self._types.items():
            stored = np.memmap(self._directory / name, dtype=row.base, mode="r").reshape(-1, *row.shape)
            arrays[name] = stored[rows]
        return arrays

    def child(self, name: str) -> ArrayStore:
        """Return an empty store in a new directory within this one's.

        Parameters
        ----------
        name
            Name of the directory; no array may have it.
        """
        directory = self._directory / name
        directory.mkdir()
        return ArrayStore(directory)
