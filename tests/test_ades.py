# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of astrometry for the Minor Planet Center, against the fields, types
and limits of submissions in ADES_Description.pdf and submit.xsd, version 2022,
of https://github.com/IAU-ADES/ADES-Master.
"""

from __future__ import annotations

import dataclasses
import re
from decimal import Decimal

import numpy as np
import pytest
from astropy.time import Time
from export_builders import found_candidates, injected_sequences

from lsst.meas.tno.ades import AdesContext, designation_fields, to_psv, tracklet_names
from lsst.meas.tno.astrometry import Positions, measure_positions
from lsst.meas.tno.candidates import Candidates

POSITIVE = r"(0|[1-9]\d*)(\.\d*)?"
SIGNED = r"[+-]?" + POSITIVE
PATTERNS = {
    "permID": r"\d+([IPD](-[A-Z]{1,2})?)?",
    "provID": r"\d{4} [A-HJ-Y][A-HJ-Z]\d*|\d{4} (P-L|T-[123])|[ADCPX]/\d{4} [A-Z]{1,2}\d*(-[A-Z])?",
    "trkSub": r"[-A-Za-z0-9_]{1,8}",
    "obsSubID": r"[^|]{1,25}",
    "mode": r"CCD",
    "stn": r"[A-Za-z0-9_]{3,4}",
    "obsTime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z",
    "ra": r"([1-3]\d{2}|[1-9]?\d)(\.\d{0,9})?",
    "dec": r"[+-]?([1-9]?\d)(\.\d{0,9})?",
    "rmsRA": r"(?=.{1,7}$)" + POSITIVE,
    "rmsDec": r"(?=.{1,7}$)" + POSITIVE,
    "rmsCorr": r"[+-]?[01](\.\d{0,11})?",
    "astCat": r"[.A-Za-z0-9_]{1,8}",
    "mag": r"(?=[+-]?.{1,7}$)" + SIGNED,
    "rmsMag": r"(?=.{1,6}$)" + POSITIVE,
    # The codes that the Minor Planet Center has for Rubin.
    "band": r"L[ugrizy]",
    "logSNR": r"(?=[+-]?.{1,5}$)" + SIGNED,
    "seeing": r"(?=.{1,6}$)" + POSITIVE,
    "exp": r"(?=.{1,6}$)" + POSITIVE,
    "notes": r"[A-Za-z0-9_]{1,6}",
    "remarks": r"[^|]{1,300}",
}
"""Formats of the fields, in the order that the standard has them in."""

REQUIRED = ("mode", "stn", "obsTime", "ra", "dec", "astCat")
POSITIVE_FIELDS = ("rmsRA", "rmsDec", "rmsMag", "seeing", "exp")
LIMITS = {"ra": (0, 360), "dec": (-90, 90), "rmsCorr": (-1, 1), "mag": (-5, 35)}

CONTEXT = AdesContext(
    submitter="A. Tester", institution="Institute of Tests", measurers=["A. Tester", "B. Checker"]
)


@pytest.fixture(scope="module")
def found() -> tuple[Positions, Candidates]:
    sequences = injected_sequences(np.random.default_rng(3), 3, n_times=12, flux=300.0)
    candidates = found_candidates(sequences)
    positions, _ = measure_positions(sequences, candidates, n_stack=2)
    return positions, candidates


def parse(psv: str) -> tuple[list[str], list[dict[str, str]]]:
    """Return the header and the observations, which must be well formed."""
    lines = psv.splitlines()
    assert lines[0] == "# version=2022"
    header = [line for line in lines if line.startswith(("#", "!"))]
    table = lines[len(header) :]
    names = [name.strip() for name in table[0].split("|")]
    assert names[0] == "permID"
    assert names == list(PATTERNS)
    rows = []
    for line in table[1:]:
        values = [value.strip() for value in line.split("|")]
        assert len(values) == len(names)
        rows.append({name: value for name, value in zip(names, values, strict=True) if value})
    return header, rows


def check(row: dict[str, str]) -> None:
    """Check an observation against the standard."""
    assert set(REQUIRED) <= set(row)
    assert row.keys() & {"permID", "provID", "trkSub"}
    assert ("mag" in row) == ("band" in row)
    assert "rmsMag" not in row or "mag" in row
    for name, value in row.items():
        assert re.fullmatch(PATTERNS[name], value), (name, value)
    for name, (low, high) in LIMITS.items():
        if name in row:
            assert low <= Decimal(row[name]) <= high
            assert Decimal(row[name]) < high or name in ("dec", "mag")
    for name in POSITIVE_FIELDS:
        assert name not in row or 0 < Decimal(row[name]) < 100_000


def test_observations(found: tuple[Positions, Candidates]) -> None:
    positions, candidates = found
    _, rows = parse(to_psv(positions, candidates, CONTEXT))
    assert len(rows) == len(positions) == 18
    for index, row in enumerate(rows):
        check(row)
        assert float(row["ra"]) == pytest.approx(positions.ra[index], abs=1e-7)
        assert float(row["dec"]) == pytest.approx(positions.dec[index], abs=1e-7)
        assert float(row["rmsRA"]) == pytest.approx(positions.rms_ra[index], abs=0.0005)
        time = Time(row["obsTime"].removesuffix("Z"), scale="utc")
        assert abs((time - Time(positions.mjd[index], format="mjd", scale="tai")).sec) < 1e-3
        assert (row["stn"], row["astCat"], row["band"], row["notes"]) == ("X05", "Gaia3", "Lr", "K")
        assert row["exp"] == "60"
        assert row["obsSubID"] == f"{positions.visit[index]}-0"
    assert len({row["trkSub"] for row in rows}) == 3


def test_header_has_what_is_required(found: tuple[Positions, Candidates]) -> None:
    header, _ = parse(to_psv(*found, dataclasses.replace(CONTEXT, observers=["C. Watcher"])))
    text = "\n".join(header)
    for block in (
        "# observatory\n! mpcCode X05",
        "# submitter\n! name A. Tester\n! institution Institute of Tests",
        "# observers\n! name C. Watcher",
        "# measurers\n! name A. Tester\n! name B. Checker",
        "# telescope\n! name Simonyi Survey Telescope\n! design Reflector\n! aperture 8.4\n! detector CCD",
    ):
        assert block in text
    assert all(len(line) <= 107 for line in header)


def test_limits_hold_for_any_position(found: tuple[Positions, Candidates]) -> None:
    positions, candidates = found
    extreme = positions.select(np.zeros(8, dtype=int))
    extreme.ra = np.array([0.0, 359.99999999, 1e-9, 180.0, 5.0, 99.99999996, 9.99999996, 10.0])
    extreme.dec = np.array([0.0, -1e-9, 89.99999999, -90.0, 90.0, -9.99999996, 10.0, -0.5])
    extreme.rms_ra = np.array([1e-9, 0.99, 1.0, 0.1, 0.1, 0.1, 0.0004, 0.0006])
    extreme.correlation = np.array([1.0, -1.0, 0.9999, -0.99999, 0.0, -0.0001, 0.5, -0.5])
    extreme.mag = np.array([np.nan, 25.0, 9.0, 30.0, np.nan, 27.0, 27.0, 27.0])
    extreme.mag_err = np.array([np.nan, 1e-5, 0.36, 0.1, np.nan, 0.1, 0.1, 0.1])
    extreme.snr = np.array([1e-3, 1e5, 1.0, 0.5, 2.0, 3.0, 4.0, 5.0])
    extreme.exposure_time = np.array([np.nan, 0.0, 30.0, 15.123456, 12345.678, 1e-2, 30.0, 300.0])
    extreme.fwhm = np.array([np.nan, 0.5, 0.7, 1.2, 2.0, 0.8, 0.8, 0.8])
    _, rows = parse(to_psv(extreme, candidates, CONTEXT))
    for row in rows:
        check(row)
    assert "mag" not in rows[0]
    assert "exp" not in rows[0]
    assert float(rows[1]["ra"]) == 0.0


def test_known_objects_are_named(found: tuple[Positions, Candidates]) -> None:
    positions, candidates = found
    names = ["15760 Albion (1992 QB1)", "2020 MQ53", "synthetic | 17"]
    _, rows = parse(to_psv(positions, candidates, CONTEXT, names))
    for row in rows:
        check(row)
    by_candidate = [rows[int(np.flatnonzero(positions.candidate == row)[0])] for row in range(3)]
    assert by_candidate[0]["permID"] == "15760"
    assert by_candidate[1]["provID"] == "2020 MQ53"
    assert not by_candidate[2].keys() & {"permID", "provID"}
    assert by_candidate[2]["remarks"].endswith("may be synthetic   17")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("2060 Chiron", {"permID": "2060"}),
        ("1P/Halley", {"permID": "1P"}),
        ("C/2002 T7 (LINEAR)", {"provID": "C/2002 T7"}),
        ("2040 P-L", {"provID": "2040 P-L"}),
        # Designations before 1925 are not for new submissions.
        ("A904 OA", {}),
        ("syn-000017", {}),
        ("", {}),
    ],
)
def test_designations(name: str, fields: dict[str, str]) -> None:
    assert designation_fields(name) == fields


def test_tracklets_have_names_of_their_own() -> None:
    candidates = Candidates.full(3000)
    candidates.sequence_id[:] = np.arange(3000)
    names = tracklet_names(candidates)
    assert len(set(names)) == 3000
    assert all(re.fullmatch(PATTERNS["trkSub"], name) for name in names)
    assert tracklet_names(candidates.select(np.array([5]))) == [names[5]]
    # The same sequence of another night.
    candidates.mjd[:] = 61000.0
    assert not set(tracklet_names(candidates)) & set(names)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("submitter", " "),
        ("submitter", "A|B"),
        ("institution", "x" * 101),
        ("measurers", []),
        ("measurers", ["A\nB"]),
        ("station", "X"),
        ("astrometric_catalog", "Gaia DR3"),
    ],
)
def test_impossible_headers_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"ADES|code"):
        dataclasses.replace(CONTEXT, **{field: value})
