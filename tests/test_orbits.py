# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of catalogs of orbits."""

from __future__ import annotations

import csv
import gzip
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy import constants
from astropy import units as u
from astropy.table import Table
from astropy.time import Time
from builders import SHARED_DATA
from pyarrow import parquet

from lsst.daf.butler.formatters.parquet import astropy_to_arrow
from lsst.meas.tno import SCHEMAS, validate_table
from lsst.meas.tno.orbits import (
    ORBIT_FORMATS,
    OrbitCatalog,
    OrbitFileError,
    concatenate_orbits,
    detect_orbit_format,
    make_synthetic_orbits,
    read_orbits,
    write_orbits,
)
from lsst.meas.tno.orbits._times import perihelion_time

MPC_LINE = (
    "02060    5.8   0.15 K194R 165.05321  339.81611  209.21443    6.94670  0.3804488  0.01950263  13.6691201"
    "  0 MPO458849  2128  49 1895-2018 0.47 M-v 38h MPCLINUX   000A   (2060) Chiron             20181012"
)
JPL_HEADER = (
    "Num  Name                                     Epoch      q           e        i         w        Node"
    "          Tp       Ref\n"
    "------------------------------------------- ------- ----------- ---------- --------- --------- ---------"
    " -------------- ------------\n"
)
JPL_LINE = (
    "  1P/Halley                                   49400  0.58597811 0.96714291 162.26269 111.33249  58.42008"
    " 19860205.89532 JPL J863/77\n"
)
SBDB_HEADER = "full_name,epoch_mjd,q,a,e,i,om,w,tp,ma"
TABLE_HEADER = "name,epoch,q,e,i,node,peri,tp"
TABLE_ROW = "A,61000,40,0.1,5,10,20,60000"


def orbit_file(name: str, folder: str = "orbits") -> Path:
    """Return the path of a real catalog, or skip the test."""
    path = SHARED_DATA / folder / name
    if not path.exists():
        pytest.skip(f"{path} does not exist")
    return path


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: str) -> Path:
        path = tmp_path / "orbits.txt"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def row_of(catalog: OrbitCatalog, name: str) -> dict[str, float]:
    (index,) = np.flatnonzero(catalog.orbits["name"] == name)
    return dict(zip(catalog.orbits.colnames, catalog.orbits[index], strict=True))


def reasons(catalog: OrbitCatalog) -> list[tuple[int, str]]:
    return [(row.line, row.reason) for row in catalog.rejected]


@pytest.mark.parametrize(
    ("name", "format", "n", "n_rejected"),
    [
        ("sbdb_tno.csv", "sbdb-csv", 10, 0),
        ("sbdb_hyperbolic_asteroids.csv", "sbdb-csv", 3, 0),
        ("sbdb_query_response.json", "sbdb-json", 3, 0),
        ("sbdb_web_export_comets.csv", "sbdb-csv", 2223, 0),
        ("jpl_comets_2021.txt", "jpl-elements", 3633, 0),
        ("mpc_distant_2019.txt", "mpcorb", 2856, 0),
    ],
)
def test_real_catalogs_are_read_whole(name: str, format: str, n: int, n_rejected: int) -> None:
    path = orbit_file(name)
    assert detect_orbit_format(path) == format
    orbits, rejected = read_orbits(path)
    validate_table(orbits, SCHEMAS["tno_orbits"])
    assert (len(orbits), len(rejected)) == (n, n_rejected)
    assert len(set(orbits["name"])) == n
    assert np.all(orbits["q"] > 0)


def test_real_catalogs_have_objects_in_common() -> None:
    files = ("mpc_distant_2019.txt", "sbdb_tno.csv", "jpl_comets_2021.txt", "sbdb_web_export_comets.csv")
    catalogs = [read_orbits(orbit_file(name)) for name in files]
    orbits, rejected = concatenate_orbits(catalogs)
    # All ten TNOs are in the first file. 2173 comets of the last are in the
    # third, 50 are newer.
    assert len(rejected) == 10 + 2173
    assert len(orbits) == 2856 + 3633 + 50
    assert str(rejected[0]) == (
        "JPL SBDB, sbdb_tno.csv: 15760 Albion (1992 QB1) is already there from MPC, mpc_distant_2019.txt."
    )


def test_sbdb_csv() -> None:
    path = orbit_file("sbdb_tno.csv")
    row = row_of(read_orbits(path), "15760 Albion (1992 QB1)")
    assert row["epoch"] == 60200.0
    assert row["q"] == 40.9393185793422
    assert row["tp"] == pytest.approx(2450373.987721415329 - 2400000.5, abs=1e-9)
    assert (row["node"], row["peri"]) == (359.3121796559913, 6.271386774828227)
    assert math.isnan(row["H"])


@pytest.mark.parametrize("name", ["sbdb_tno.csv", "sbdb_hyperbolic_asteroids.csv"])
def test_q_and_tp_follow_from_mean_anomaly_as_jpl_derives_them(name: str, write: Callable) -> None:
    path = orbit_file(name)
    expected = read_orbits(path).orbits
    rows = list(csv.DictReader(path.read_text().splitlines()))
    kept = ("full_name", "epoch_mjd", "a", "e", "i", "om", "w", "ma")
    lines = [",".join(f'"{row[key]}"' for key in kept) for row in rows]
    orbits = read_orbits(write(",".join(kept), *lines)).orbits
    np.testing.assert_allclose(orbits["q"], expected["q"], rtol=1e-9)
    # JPL's GM is another by less than 1e-11: of 26000 days 2e-7.
    np.testing.assert_allclose(orbits["tp"], expected["tp"], rtol=0, atol=2e-7)


def test_horizons_has_the_same_perihelion_times() -> None:
    path = orbit_file("horizons_elements_heliocentric_ecliptic.csv", "ephemerides")
    for row in csv.DictReader(path.read_text().splitlines()):
        tp = perihelion_time(float(row["mjd_tdb"]), float(row["M"]), float(row["a"]))
        assert tp == pytest.approx(float(row["tp_mjd"]), abs=2e-7)


def test_sbdb_json() -> None:
    catalog = read_orbits(orbit_file("sbdb_query_response.json"))
    row = row_of(catalog, "15788 (1993 SB)")
    a, e = 39.69309386030809, 0.3259380307335113
    assert row["epoch"] == 61200.0
    assert row["H"] == 7.96
    assert row["q"] == pytest.approx(a * (1 - e), rel=1e-14)
    period = 2 * np.pi * np.sqrt((a * u.au) ** 3 / constants.GM_sun).to_value("d")
    # 1e-8 of the 1200 days since perihelion.
    assert row["tp"] == pytest.approx(61200.0 - 4.903821038813498 / 360 * period, abs=2e-5)


def test_web_export_of_comets() -> None:
    catalog = read_orbits(orbit_file("sbdb_web_export_comets.csv"))
    orbits = catalog.orbits
    assert np.array_equal(orbits["epoch"], orbits["tp"])
    assert set(orbits["orbit_class"]) == {"HYP", "PAR"}
    row = row_of(catalog, "C/1993 A1 (Mueller)")
    assert row["tp"] == pytest.approx(Time("1994-01-12T21:36:00", scale="tdb").mjd, abs=1e-6)
    # The epochs that ELEMENTS.COMET has for these are their perihelia.
    assert row_of(catalog, "C/-146 P1")["tp"] == -732091.0
    assert row_of(catalog, "C/-43 K1")["tp"] == -694504.0


def test_jpl_comets() -> None:
    catalog = read_orbits(orbit_file("jpl_comets_2021.txt"))
    row = row_of(catalog, "1P/Halley")
    assert row["epoch"] == 49400.0
    assert (row["q"], row["e"], row["i"]) == (0.58597811, 0.96714291, 162.26269)
    assert (row["node"], row["peri"]) == (58.42008, 111.33249)
    assert row["tp"] == pytest.approx(Time("1986-02-05", scale="tdb").mjd + 0.89532, abs=1e-9)
    assert row_of(catalog, "3D/Biela")["epoch"] == -9480.0
    old = catalog.orbits[catalog.orbits["epoch"] < -110000]
    # Their epochs, MJD, are rounded perihelia: a check of the calendars.
    assert len(old) > 30
    assert np.all(np.abs(old["tp"] - old["epoch"])[old["e"] == 1.0] <= 1.0)
    assert {"51P/Harrington-A", "51P/Harrington-D"} <= {*catalog.orbits["name"]}


def test_mpc_distant() -> None:
    catalog = read_orbits(orbit_file("mpc_distant_2019.txt"))
    row = row_of(catalog, "2060 Chiron")
    a, e, mean_anomaly = 13.6691201, 0.3804488, 165.05321
    assert (row["epoch"], row["H"], row["G"]) == (58600.0, 5.8, 0.15)
    assert row["q"] == pytest.approx(a * (1 - e), rel=1e-14)
    motion = 0.01950263  # deg/day, as the line has it, to 8 decimals
    assert row["tp"] == pytest.approx(58600.0 - mean_anomaly / motion, abs=0.01)
    assert row["orbit_class"] == "CEN"
    semimajor = catalog.orbits["q"] / (1 - catalog.orbits["e"])
    period = 365.25 * semimajor**1.5
    # Nearest to the epoch, to rounding of years.
    assert np.all(np.abs(catalog.orbits["tp"] - catalog.orbits["epoch"]) <= 0.5001 * period)
    assert np.all((catalog.orbits["orbit_class"] == "TNO") == (semimajor > 30.1))


def test_mpc_header_and_packed_names(write: Callable) -> None:
    unnamed = "K08K04V" + MPC_LINE[7:166]
    no_magnitude = "J92Q01B" + MPC_LINE[7:9] + " " * 10 + MPC_LINE[19:166] + "         1992 QB1"
    catalog = read_orbits(write("MINOR PLANETS", "", "-" * 160, unnamed, "", no_magnitude, MPC_LINE))
    assert catalog.rejected == []
    assert list(catalog.orbits["name"]) == ["2008 KV4", "1992 QB1", "2060 Chiron"]
    assert np.isnan(catalog.orbits["H"][1])
    assert np.isnan(catalog.orbits["G"][1])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda line: line[:95], "95 characters"),
        (lambda line: line[:30] + line[31:], "not in the columns"),
        (lambda line: line.replace("K194R", "K19DR"), "packed epoch"),
        (lambda line: line.replace("K194R", "K192U"), "no date 2019-02-30"),
        (lambda line: line.replace("0.3804488", "0.38x4488"), "e is not a number: '0.38x4488'"),
        (lambda line: line.replace("0.3804488", "         "), "e is missing"),
        (lambda line: line.replace("0.3804488", "      inf"), "e is not finite"),
        (lambda line: line.replace("0.3804488", "1.3804488"), "a=13.6691 does not fit e=1.38045"),
        (lambda line: line.replace("6.94670", "206.946"), "i=206.946 deg"),
        (lambda line: line.replace("13.6691201", "18.6691201"), "does not fit the mean motion"),
        (lambda line: "?" * 7 + line[7:166], "'???????' is not a packed designation"),
        (lambda line: line, "2060 Chiron is a duplicate of line 1"),
    ],
)
def test_damaged_mpc_lines_are_reported(damage: Callable, reason: str, write: Callable) -> None:
    catalog = read_orbits(write(MPC_LINE, damage(MPC_LINE)), format="mpcorb")
    assert len(catalog.orbits) == 1
    ((line, found),) = reasons(catalog)
    assert line == 2
    assert reason in found


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda line: line[:100], "100 characters"),
        (lambda line: line[1:], "not in the columns"),
        (lambda line: line.replace("19860205", "19861305"), "no date 1986-13-5.9"),
        (lambda line: line.replace("19860205", "-9860230"), "no date -986-02-30.9"),
        (lambda line: line.replace("0.58597811", "-0.5859781"), "q=-0.585978 au is not positive"),
        (lambda line: line.replace("1P/Halley", " " * 9), "name is missing"),
        (lambda line: line.replace("0.96714291", "-0.9671429"), "e=-0.967143 is negative"),
    ],
)
def test_damaged_jpl_lines_are_reported(damage: Callable, reason: str, write: Callable) -> None:
    catalog = read_orbits(write(JPL_HEADER + JPL_LINE + damage(JPL_LINE.rstrip())))
    assert len(catalog.orbits) == 1
    ((line, found),) = reasons(catalog)
    assert line == 4
    assert reason in found


def test_damaged_csv_lines_are_reported(write: Callable) -> None:
    good = "a,60200,40,,0.1,5,10,20,2460000.5,"
    catalog = read_orbits(
        write(
            SBDB_HEADER,
            good,
            good.replace("a", "b").replace("40", "4O"),
            '"c' + good[1:],
            "d" + good[1:-1],
            good.replace("a", "e").replace("2460000.5", ""),
            good.replace("a", "f").replace(",40,,", ",,,"),
            good.replace("a", "g").replace("60200", "2460200.5"),
            good.replace("a", "h").replace(",5,", ",-0.1,"),
            "i,60200,,1e300,0.1,5,10,20,,5",
        )
    )
    assert list(catalog.orbits["name"]) == ["a"]
    found = reasons(catalog)
    assert [line for line, _ in found] == [3, 4, 5, 6, 7, 8, 9, 10]
    parts = (
        *("q is not a number: '4O'", "comma-separated", "9 values, not 10", "tp is missing"),
        *("q is missing", "is it a JD?", "i=-0.1 deg", "out of range"),
    )
    assert all(part in reason for part, (_, reason) in zip(parts, found, strict=True))


def test_damaged_json_rows_are_reported(tmp_path: Path) -> None:
    fields = ["full_name", "epoch", "e", "q", "i", "om", "w", "tp", "H", "class"]
    good = ["A", "2460200.5", ".1", 40, "5", "10", "20", "2460000.5", None, "TNO"]
    data = [good, good[:-1], None, ["B", *good[1:6], None, *good[7:]], [" ", *good[1:]]]
    path = tmp_path / "answer.json"
    path.write_text(json.dumps({"fields": fields, "data": data}))
    catalog = read_orbits(path)
    assert (catalog.orbits["epoch"][0], catalog.orbits["tp"][0]) == (60200.0, 60000.0)
    assert catalog.orbits["orbit_class"][0] == "TNO"
    found = reasons(catalog)
    assert [line for line, _ in found] == [2, 3, 4, 5]
    assert found[2][1] == "w is missing."


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("far perihelion", "61000,60,0.99,5,0,0,-4000000"),
        ("parabola", "61000,5,1,5,0,0,61000"),
        ("nearly elliptic", "61000,5,1.000000001,5,0,0,61000"),
        ("nearly parabolic", "61000,5,0.999999999,5,0,0,61000"),
        ("sungrazer", "61000,0.01,1,180,0,0,61000"),
        ("circle", "61000,40,0,0,360,-10,61000"),
    ],
)
def test_unusual_orbits_are_accepted(name: str, values: str, write: Callable) -> None:
    orbits, rejected = read_orbits(write(TABLE_HEADER, f"{name},{values}"))
    assert rejected == []
    epoch, q, e, i, node, peri, tp = map(float, values.split(","))
    row = orbits[0]
    assert (row["epoch"], row["q"], row["e"], row["i"], row["tp"]) == (epoch, q, e, i, tp)
    assert (row["node"], row["peri"]) == (node % 360, peri % 360)


@pytest.mark.parametrize("suffix", [".csv", ".ecsv", ".parquet"])
def test_tables_are_read_back_exactly(suffix: str, tmp_path: Path) -> None:
    orbits = make_synthetic_orbits(50, 3)
    orbits["H"][:5] = np.nan
    path = tmp_path / f"orbits{suffix}"
    orbits.write(path)
    again, rejected = read_orbits(path)
    assert rejected == []
    validate_table(again, SCHEMAS["tno_orbits"])
    for name in orbits.colnames:
        np.testing.assert_array_equal(again[name], orbits[name])


def test_write_orbits(tmp_path: Path) -> None:
    orbits = make_synthetic_orbits(5, 3)
    path = tmp_path / "orbits.csv"
    write_orbits(orbits, path)
    again = read_orbits(path).orbits
    assert all(
        np.array_equal(again[name], orbits[name], equal_nan=name in "HGM1K1") for name in orbits.colnames
    )


@pytest.mark.parametrize("suffix", [".ecsv", ".parquet"])
def test_units_are_converted_and_columns_may_be_absent(suffix: str, tmp_path: Path) -> None:
    orbits = make_synthetic_orbits(3, 3)
    table = orbits.copy()
    table.remove_columns(["H", "G", "M1", "K1", "orbit_class", "source"])
    table["i"] = orbits["i"].quantity.to("rad")
    table["q"] = orbits["q"].quantity.to("km")
    table["remark"] = "ignored"
    table = Table(table, masked=True)
    table["e"].mask[2] = True
    path = tmp_path / f"orbits{suffix}"
    if suffix == ".parquet":
        parquet.write_table(astropy_to_arrow(table), path)
    else:
        table.write(path)
    again, rejected = read_orbits(path)
    np.testing.assert_allclose(again["i"], orbits["i"][:2], rtol=1e-14)
    np.testing.assert_allclose(again["q"], orbits["q"][:2], rtol=1e-14)
    assert np.all(np.isnan(again["H"]))
    assert again["source"][0] == f"table orbits{suffix}"
    assert [(row.line, row.reason) for row in rejected] == [(3, "e is missing.")]


def test_wrong_unit_is_an_error(tmp_path: Path) -> None:
    table = make_synthetic_orbits(3, 3)
    table["q"].unit = "deg"
    table.write(tmp_path / "orbits.ecsv")
    with pytest.raises(OrbitFileError, match="column q has no AU"):
        read_orbits(tmp_path / "orbits.ecsv")


def test_compressed_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "Distant.txt.gz"
    path.write_bytes(gzip.compress(MPC_LINE.encode()))
    assert list(read_orbits(path).orbits["name"]) == ["2060 Chiron"]
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(OrbitFileError, match="cannot be read"):
        read_orbits(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no format of orbits"),
        (b"\x00\xff\xfe binary", "no format of orbits"),
        (b"name,ra,dec\na,1,2\n", "table .CSV, ECSV or Parquet"),
        (b"{", "not valid JSON"),
        (b'{"message": "no"}', "no answer of the SBDB query API"),
        (b'{"fields": ["e"], "data": []}', "lacks the columns"),
        (b"PAR1 and nothing more", "cannot be read as a table"),
        (b"# %ECSV 1.0\n# ---\nbroken", "cannot be read as a table"),
        (SBDB_HEADER.encode(), "has no rows of orbits"),
        ((SBDB_HEADER + "\na,b").encode(), "no orbit among its 1 rows; the first, line 2: The line has 2"),
    ],
)
def test_files_without_orbits_are_errors(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(OrbitFileError, match=message) as info:
        read_orbits(path)
    assert str(path) in str(info.value)


def test_missing_file_and_unknown_format(tmp_path: Path, write: Callable) -> None:
    with pytest.raises(OrbitFileError, match="cannot be read"):
        read_orbits(tmp_path / "none")
    with pytest.raises(ValueError, match="is none of sbdb-json"):
        read_orbits(write(MPC_LINE), format="xml")
    for format in set(ORBIT_FORMATS) - {"mpcorb"}:
        with pytest.raises(OrbitFileError):
            read_orbits(write(MPC_LINE), format=format)


def test_concatenate_keeps_the_first(write: Callable) -> None:
    first = read_orbits(write(TABLE_HEADER, TABLE_ROW, TABLE_ROW))
    second = read_orbits(write(TABLE_HEADER, TABLE_ROW.replace("40", "41"), TABLE_ROW.replace("A", "B")))
    orbits, rejected = concatenate_orbits([first, second])
    assert list(orbits["name"]) == ["A", "B"]
    assert list(orbits["q"]) == [40.0, 40.0]
    assert [row.line for row in rejected] == [3, 0]
    with pytest.raises(ValueError, match="no catalogs"):
        concatenate_orbits([])


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import sys; import lsst.meas.tno.orbits; "
        "print([m for m in ('torch', 'requests', 'lsst.afw') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "[]"
