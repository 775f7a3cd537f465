# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Orbits of JPL's Small-Body Database (SBDB): its exports, its query API."""

from __future__ import annotations

__all__ = (
    "SBDB_CLASSES",
    "SBDB_COLUMNS",
    "SBDB_URL",
    "NoSuchOrbitsError",
    "SbdbError",
    "fetch_sbdb",
    "parse_sbdb_json",
    "query_sbdb",
    "read_sbdb_csv",
    "read_sbdb_json",
)

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._output import replacing
from ._designations import full_name, tidy_name
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
from ._tables import csv_record, csv_rows
from ._times import jd_to_mjd, parse_date

if TYPE_CHECKING:
    from requests import Session

_LOG = logging.getLogger("lsst.meas.tno.orbits")

SBDB_URL = "https://ssd-api.jpl.nasa.gov/sbdb_query.api"
"""Address of the query API, see
https://ssd-api.jpl.nasa.gov/doc/sbdb_query.html
"""

SBDB_CLASSES = ("TNO", "HYA", "PAA", "HYP", "PAR")
"""Classes of orbits that reach beyond Neptune: trans-Neptunian objects,
hyperbolic and parabolic asteroids, hyperbolic and parabolic comets.
"""

SBDB_COLUMNS = frozenset(("e", "i", "om", "w"))
"""Columns that an export cannot be without."""

_FIELDS = ("full_name", "class", "epoch", "e", "q", "i", "om", "w", "tp", "H", "G", "M1", "K1")

_RETRY_STATUS = (429, 500, 502, 503, 504)


class SbdbError(RuntimeError):
    """JPL's database did not answer, or not with orbits."""


class NoSuchOrbitsError(SbdbError):
    """JPL's database has no orbits of a class."""


def read_sbdb_json(path: str | Path) -> OrbitCatalog:
    """Read an answer of the SBDB query API.

    Parameters
    ----------
    path
        Path of the JSON file.

    Returns
    -------
    catalog : `OrbitCatalog`
        The orbits; see `read_sbdb_csv` for what is derived. Rejected rows
        are numbered from 1 within ``data``.

    Raises
    ------
    OrbitFileError
        Raised if the file is no such answer, or has no orbits.
    """
    return parse_sbdb_json(load_text(path), path, f"JPL SBDB, {Path(path).name}")


def parse_sbdb_json(text: str, path: str | Path, source: str) -> OrbitCatalog:
    """Make a catalog of an answer of the SBDB query API.

    Parameters
    ----------
    text
        The answer.
    path
        Where it is from, for messages.
    source
        Value of the column ``source``.

    Returns
    -------
    catalog : `OrbitCatalog`
        The orbits.

    Raises
    ------
    OrbitFileError
        Raised if this is no such answer, or has no orbits.
    """
    try:
        answer = json.loads(text)
    except ValueError as error:
        raise OrbitFileError(f"{path} is not valid JSON: {error}") from error
    fields, data = _fields_and_data(answer)
    if not fields or not isinstance(data, list):
        raise OrbitFileError(f"{path} is no answer of the SBDB query API: it has no fields and data.")
    _check_columns(path, fields)
    return make_catalog(path, enumerate(data, 1), lambda row: _parse_row(row, fields, source))


def _fields_and_data(answer: Any) -> tuple[list[str], Any]:
    if not isinstance(answer, dict) or not isinstance(answer.get("fields"), list):
        return [], None
    return list(map(str, answer["fields"])), answer.get("data")


def _check_columns(path: str | Path, names: list[str]) -> None:
    if missing := sorted(SBDB_COLUMNS - {*names}):
        raise OrbitFileError(f"{path} lacks the columns {missing} of an SBDB export; it has {names}.")


def _parse_row(row: Any, fields: list[str], source: str) -> Orbit:
    if not isinstance(row, list) or len(row) != len(fields):
        raise RowError(f"The row is not a list of {len(fields)} values.")
    return _parse_record(dict(zip(fields, row, strict=True)), source)


def read_sbdb_csv(path: str | Path) -> OrbitCatalog:
    """Read a CSV export of the SBDB.

    Parameters
    ----------
    path
        Path of the file. ``epoch`` and ``tp`` are JD, ``epoch_mjd`` is MJD,
        ``tp_cal`` and ``epoch_cal`` are calendar dates, all of TDB.

    Returns
    -------
    catalog : `OrbitCatalog`
        The orbits. Where q is absent, it is a (1 - e); where tp is, it
        follows from the mean anomaly ``ma``, and is that nearest to the
        epoch; where the epoch is, as in web exports, it is taken to be tp,
        which is logged.

    Raises
    ------
    OrbitFileError
        Raised if the file lacks a column or has no orbits.
    """
    header, rows = csv_rows(load_text(path))
    _check_columns(path, header)
    if not {"epoch", "epoch_mjd", "epoch_cal"} & {*header}:
        _LOG.warning(
            "%s has no epochs. Each orbit is taken to be that of its time of perihelion, which is good near "
            "it only: export the epoch (epoch_mjd) too.",
            path,
        )
    source = f"JPL SBDB, {Path(path).name}"
    return make_catalog(path, rows, lambda line: _parse_record(csv_record(line, header), source))


def _parse_record(record: Mapping[str, Any], source: str) -> Orbit:
    elements = complete_elements(
        e=number(record, "e"),
        q=optional_number(record, "q"),
        a=optional_number(record, "a"),
        epoch=_time(record, "epoch"),
        mean_anomaly=optional_number(record, "ma"),
        tp=_time(record, "tp"),
    )
    return Orbit(
        name=_name(record),
        orbit_class=str(record.get("class") or ""),
        i=number(record, "i"),
        node=number(record, "om"),
        peri=number(record, "w"),
        source=source,
        **{name: optional_number(record, name) for name in ("H", "G", "M1", "K1")},
        **elements,
    )


def _time(record: Mapping[str, Any], name: str) -> float:
    """Return a time in MJD, NaN where there is none."""
    mjd = optional_number(record, f"{name}_mjd")
    if math.isnan(mjd):
        mjd = jd_to_mjd(optional_number(record, name))
    if math.isnan(mjd) and (date := str(record.get(f"{name}_cal") or "").strip()):
        mjd = parse_date(date)
    return mjd


def _name(record: Mapping[str, Any]) -> str:
    if text := record.get("full_name"):
        return tidy_name(str(text))
    return full_name(str(record.get("pdes") or ""), str(record.get("name") or "")).strip()


def fetch_sbdb(
    orbit_class: str,
    *,
    session: Session | None = None,
    url: str = SBDB_URL,
    timeout: tuple[float, float] = (10.0, 180.0),
    retries: int = 4,
    backoff: float = 1.0,
) -> str:
    """Ask JPL's database for all orbits of a class.

    Parameters
    ----------
    orbit_class
        One of `SBDB_CLASSES`.
    session
        Session to use; it brings its own retries.
    url
        Address of the query API.
    timeout
        Time to connect in, and to wait for data, s.
    retries
        Further attempts after one that failed.
    backoff
        Time to wait before the second retry, s; it doubles with each.

    Returns
    -------
    answer : `str`
        The answer, JSON, as `read_sbdb_json` reads it from a file.

    Raises
    ------
    ValueError
        Raised if there is no such class.
    NoSuchOrbitsError
        Raised if there are no orbits of the class.
    SbdbError
        Raised if there is no answer that has them.
    """
    import requests

    if orbit_class not in SBDB_CLASSES:
        raise ValueError(f"{orbit_class!r} is none of the orbit classes {', '.join(SBDB_CLASSES)}.")
    query = {"fields": ",".join(_FIELDS), "sb-class": orbit_class, "full-prec": "true"}
    address = requests.Request("GET", url, params=query).prepare().url
    own = session or _make_session(retries, backoff)
    try:
        response = own.get(url, params=query, timeout=timeout)
        # JSON is UTF-8; requests would guess.
        text = response.content.decode("utf-8", errors="replace")
    except requests.RequestException as error:
        raise SbdbError(
            f"JPL's database cannot be reached ({_reason(error)}). Without a connection to it, download "
            f"{address} elsewhere and ingest it as FILE."
        ) from error
    finally:
        if session is None:
            own.close()
    _check_answer(text, response.status_code, orbit_class)
    return text


def _make_session(retries: int, backoff: float) -> Session:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util.retry import Retry

    policy = Retry(
        total=retries,
        backoff_factor=backoff,
        status_forcelist=_RETRY_STATUS,
        allowed_methods=("GET",),
        # The wait that a server asks for has no limit.
        respect_retry_after_header=False,
        raise_on_status=False,
    )
    session = requests.Session()
    for prefix in ("https://", "http://"):
        session.mount(prefix, HTTPAdapter(max_retries=policy))
    return session


def _reason(error: Exception) -> str:
    """Return the cause of a failure without the objects it is wrapped in."""
    reason = error.args[0] if error.args else error
    return str(getattr(reason, "reason", None) or reason).split(">: ")[-1].strip() or type(error).__name__


def _check_answer(text: str, status: int, orbit_class: str) -> None:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if status >= 400 or not isinstance(answer, dict):
        message = answer.get("message", "") if isinstance(answer, dict) else " ".join(text.split())[:200]
        raise SbdbError(f"JPL's database answered with status {status}, not with orbits: {message}")
    fields, data = _fields_and_data(answer)
    if not fields or not data:
        raise NoSuchOrbitsError(f"JPL's database has no orbits of class {orbit_class}: {text[:200]}")
    count = str(answer.get("count", ""))
    if count.isdecimal() and int(count) != len(data):
        raise SbdbError(f"JPL's database sent {len(data)} of {count} orbits of class {orbit_class}.")


def query_sbdb(orbit_class: str, *, save_as: str | Path | None = None, **options: Any) -> OrbitCatalog:
    """Query JPL's database for all orbits of a class.

    Parameters
    ----------
    orbit_class
        One of `SBDB_CLASSES`.
    save_as
        Path to save the answer at, which `read_sbdb_json` can read again.
    **options
        Further arguments of `fetch_sbdb`.

    Returns
    -------
    catalog : `OrbitCatalog`
        The orbits.

    Raises
    ------
    ValueError
        Raised if there is no such class.
    SbdbError
        Raised if there is no answer, or one without orbits.
    """
    text = fetch_sbdb(orbit_class, **options)
    if save_as is not None:
        with replacing(Path(save_as)) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return parse_sbdb_json(text, f"sbdb:{orbit_class}", f"JPL SBDB, class {orbit_class}")
