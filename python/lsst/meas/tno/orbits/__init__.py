# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Catalogs of orbits: read from files, queried from JPL, or synthetic.

A catalog is a table with the columns of `ORBIT_COLUMNS`: heliocentric
osculating elements, ecliptic and equinox of J2000, times in TDB.
"""

from __future__ import annotations

__all__ = (
    "ORBIT_FORMATS",
    "SBDB_CLASSES",
    "NoSuchOrbitsError",
    "OrbitCatalog",
    "OrbitFileError",
    "RejectedRow",
    "SbdbError",
    "concatenate_orbits",
    "designation_key",
    "detect_orbit_format",
    "fetch_sbdb",
    "make_synthetic_orbits",
    "offset_mean_anomaly",
    "parse_sbdb_json",
    "query_sbdb",
    "read_jpl_elements",
    "read_mpc_orbits",
    "read_orbit_table",
    "read_orbits",
    "read_sbdb_csv",
    "read_sbdb_json",
    "write_orbits",
)

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.table import Table

from .._output import replacing
from .._planets import GM_SUN
from .._schema import ORBIT_COLUMNS, validate_table
from ._designations import designation_key
from ._files import find_jpl_columns, is_mpc_line, read_jpl_elements, read_mpc_orbits
from ._rows import (
    OrbitCatalog,
    OrbitFileError,
    RejectedRow,
    concatenate_orbits,
    load_bytes,
)
from ._sbdb import (
    SBDB_CLASSES,
    SBDB_COLUMNS,
    NoSuchOrbitsError,
    SbdbError,
    fetch_sbdb,
    parse_sbdb_json,
    query_sbdb,
    read_sbdb_csv,
    read_sbdb_json,
)
from ._synthetic import make_synthetic_orbits
from ._tables import CSV_COLUMNS, csv_header, read_orbit_table

_TABLE_MAGIC = (b"PAR1", b"# %ECSV", b"SIMPLE  =", b"\x89HDF")

_MPC_LINES = 200
"""Lines among which one of MPCORB must be, below a header."""


class OrbitFormat(NamedTuple):
    """A format of files of orbits."""

    description: str
    """What it is, for messages (`str`)."""

    read: Callable[[str | Path], OrbitCatalog]
    """Reads a file."""


ORBIT_FORMATS: Mapping[str, OrbitFormat] = {
    "sbdb-json": OrbitFormat("answer of JPL's SBDB query API", read_sbdb_json),
    "sbdb-csv": OrbitFormat("CSV export of JPL's SBDB", read_sbdb_csv),
    "mpcorb": OrbitFormat("MPCORB or Distant lines of the Minor Planet Center", read_mpc_orbits),
    "jpl-elements": OrbitFormat("JPL's list ELEMENTS.COMET, .NUMBR or .UNNUM", read_jpl_elements),
    "table": OrbitFormat("CSV, ECSV or Parquet table with the columns of tno_orbits", read_orbit_table),
}
"""Formats that `read_orbits` knows, by name."""


def read_orbits(path: str | Path, *, format: str | None = None) -> OrbitCatalog:
    """Read a catalog of orbits.

    Parameters
    ----------
    path
        Path of the file; it may be gzipped.
    format
        Name of its format in `ORBIT_FORMATS`; by default it is recognised by
        the content.

    Returns
    -------
    catalog : `OrbitCatalog`
        The orbits and the rows that were left out. Of rows with the same
        designation, the first is kept.

    Raises
    ------
    OrbitFileError
        Raised if the format is not recognised, or the file has no orbits.
    ValueError
        Raised if there is no format of that name.

    Notes
    -----
    GM of the Sun is the square of the Gaussian constant,
    0.01720209895 au^1.5/day.
    """
    if format is not None and format not in ORBIT_FORMATS:
        raise ValueError(f"format={format!r} is none of {', '.join(ORBIT_FORMATS)}.")
    return ORBIT_FORMATS[format or detect_orbit_format(path)].read(path)


def detect_orbit_format(path: str | Path) -> str:
    """Recognise the format of a file of orbits by its content.

    Parameters
    ----------
    path
        Path of the file.

    Returns
    -------
    format : `str`
        Name of the format in `ORBIT_FORMATS`.

    Raises
    ------
    OrbitFileError
        Raised if it cannot be read, or is of none of them.
    """
    data = load_bytes(path)
    if data.startswith(_TABLE_MAGIC):
        return "table"
    text = data[:100_000].decode("utf-8-sig", errors="replace")
    if text.lstrip().startswith(("{", "[")):
        return "sbdb-json"
    header = csv_header(text)
    if CSV_COLUMNS <= header:
        return "table"
    if SBDB_COLUMNS <= header:
        return "sbdb-csv"
    lines = text.splitlines()[:_MPC_LINES]
    if find_jpl_columns(lines)[0]:
        return "jpl-elements"
    if any(is_mpc_line(line) for line in lines):
        return "mpcorb"
    known = "; ".join(f"{name} ({format.description})" for name, format in ORBIT_FORMATS.items())
    raise OrbitFileError(f"{path} is in no format of orbits that is recognised. Known are: {known}.")


def write_orbits(orbits: Table, path: str | Path) -> None:
    """Write orbits as a CSV file that `read_orbits` reads back exactly.

    Parameters
    ----------
    orbits
        Table with the columns of `ORBIT_COLUMNS`.
    path
        Path of the file; it is overwritten if it exists.

    Raises
    ------
    SchemaError
        Raised if the table has other columns.
    """
    validate_table(orbits, ORBIT_COLUMNS)
    with replacing(Path(path)) as temporary:
        orbits.write(temporary, format="ascii.csv")


def offset_mean_anomaly(orbits: Table, angle: float) -> Table:
    """Return orbits whose objects are elsewhere on them.

    Parameters
    ----------
    orbits
        Table with the columns of `ORBIT_COLUMNS`.
    angle
        What to add to the mean anomalies, deg. On parabolas and hyperbolas,
        which have no period, it is an angle in Barker's equation for the
        parabola of the same perihelion, sqrt(GM / (2 q^3)) (t - tp).

    Returns
    -------
    orbits : `astropy.table.Table`
        Copy of the table with other times of perihelion.
    """
    q, e = np.asarray(orbits["q"]), np.asarray(orbits["e"])
    shape = np.where(e < 1.0, np.abs(1.0 - e) ** 3, 0.5)
    rate = np.sqrt(GM_SUN * shape / q**3)
    moved = orbits.copy()
    moved["tp"] -= np.radians(angle) / rate
    return moved
