# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Image sequences as files of arrays, for machine learning."""

from __future__ import annotations

__all__ = ("require_zarr", "to_arrays", "write_npz", "write_zarr")

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np

from .._schema import CUTOUT_COLUMNS, INJECTION_COLUMNS
from .._sequences import BANDS, ImageSequences

MAX_CHUNK = 2**24
"""Largest size of a chunk of a Zarr array, bytes."""


def to_arrays(sequences: ImageSequences) -> dict[str, np.ndarray]:
    """Return sequences as arrays by name.

    Parameters
    ----------
    sequences
        Image sequences.

    Returns
    -------
    arrays : `dict` [`str`, `numpy.ndarray`]
        The columns of `CUTOUT_COLUMNS`, and of `INJECTION_COLUMNS` if objects
        were injected, with their names, dtypes and units; the first axis is
        that of the sequences. ``bands`` has the names that ``band`` is an
        index of. Text is Unicode, and nothing is a Python object.
    """
    arrays = {column.name: array for column, array in sequences.items()}
    if sequences.injection is not None:
        arrays |= {column.name: array for column, array in sequences.injection.items()}
    return {**arrays, "bands": np.array(list(BANDS))}


def write_npz(path: Path, sequences: ImageSequences) -> None:
    """Write sequences as a NumPy archive.

    Parameters
    ----------
    path
        Path of the file.
    sequences
        Image sequences.
    """
    # numpy would add its suffix to a name that has another.
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **to_arrays(sequences))


def write_zarr(path: Path, sequences: ImageSequences) -> None:
    """Write sequences as a Zarr group.

    Parameters
    ----------
    path
        Path of the folder.
    sequences
        Image sequences.

    Raises
    ------
    ModuleNotFoundError
        Raised if there is no package zarr, 3 or newer.
    """
    zarr = require_zarr()
    group = zarr.open_group(str(path), mode="w")
    columns = {column.name: column for column in (*CUTOUT_COLUMNS, *INJECTION_COLUMNS)}
    for name, array in to_arrays(sequences).items():
        rows = max(1, MAX_CHUNK // max(1, array[:1].nbytes))
        chunks = (max(1, min(len(array), rows)), *array.shape[1:])
        stored = group.create_array(name, shape=array.shape, dtype=array.dtype, chunks=chunks)
        stored[...] = array
        if name in columns:
            stored.attrs.update({"unit": columns[name].unit or "", "description": columns[name].doc})


def require_zarr() -> ModuleType:
    """Return the package zarr.

    Raises
    ------
    ModuleNotFoundError
        Raised if it is not installed.
    """
    try:
        return importlib.import_module("zarr")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Zarr needs the package zarr, which is not installed: pip install 'zarr>=3', or choose npz."
        ) from error
