# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Astrometry of candidates as the Minor Planet Center takes it.

The format is PSV of the Astrometry Data Exchange Standard (ADES), version
2022: https://github.com/IAU-ADES/ADES-Master.
"""

from __future__ import annotations

__all__ = ("BAND_CODES", "AdesContext", "designation_fields", "to_psv", "tracklet_names")

import dataclasses
import hashlib
import importlib.metadata
import re
from collections.abc import Sequence

import numpy as np

from ._clock import utc_iso
from ._sequences import BANDS
from .astrometry import Positions
from .candidates import Candidates
from .orbits import designation_key

BAND_CODES = {band: f"L{band}" for band in BANDS}
"""What the Minor Planet Center calls the bands of Rubin."""

STACKED = "K"
"""Note of the Minor Planet Center for positions in several images."""

MAX_CORRELATION = 0.999
"""Correlations of 1 are not allowed."""

_FIELDS = (
    *("permID", "provID", "trkSub", "obsSubID", "mode", "stn", "obsTime", "ra", "dec", "rmsRA", "rmsDec"),
    *("rmsCorr", "astCat", "mag", "rmsMag", "band", "logSNR", "seeing", "exp", "notes", "remarks"),
)
"""Fields of an optical observation, in the order of the standard."""

_NUMBER = re.compile(r"\d+([IPD](-[A-Z]{1,2})?)?")
_PROVISIONAL = re.compile(
    r"\d{4} [A-HJ-Y][A-HJ-Z]\d*|\d{4} (P-L|T-[123])|[ADCPX]/\d{4} [A-Z]{1,2}\d*(-[A-Z])?"
)
_BASE36 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdesContext:
    """Who observed with what; the header of a file."""

    submitter: str
    """Who sends the observations: initials and surname (`str`)."""

    measurers: Sequence[str]
    """Who measured them; at least one (`list` [`str`])."""

    observers: Sequence[str] = ()
    """Who observed (`list` [`str`])."""

    institution: str = ""
    """Institution of the submitter (`str`)."""

    station: str = "X05"
    """Code of the observatory; the default is Rubin's (`str`)."""

    telescope: str = "Simonyi Survey Telescope"
    """Name of the telescope (`str`)."""

    design: str = "Reflector"
    """Its design (`str`)."""

    aperture: str = "8.4"
    """Its aperture, m (`str`)."""

    detector: str = "CCD"
    """Its detector (`str`)."""

    astrometric_catalog: str = "Gaia3"
    """Catalog that the images' astrometry is from, as the Minor Planet Center
    calls it (`str`).
    """

    def __post_init__(self) -> None:
        if not self.measurers:
            raise ValueError("ADES needs the name of at least one measurer.")
        for name in (self.submitter, self.institution, *self.measurers, *self.observers):
            if "|" in name or "\n" in name or len(name) > 100:
                raise ValueError(f"ADES takes no name like {name!r}: up to 100 characters without |.")
        if not self.submitter.strip() or not all(name.strip() for name in self.measurers):
            raise ValueError("ADES needs the names of the submitter and the measurers.")
        if not re.fullmatch(r"\w{3,4}", self.station, re.ASCII):
            raise ValueError(f"{self.station!r} is no code of an observatory: 3 or 4 letters or digits.")
        if not re.fullmatch(r"[.\w]{1,8}", self.astrometric_catalog, re.ASCII):
            raise ValueError(f"{self.astrometric_catalog!r} is no code of a catalog: up to 8 characters.")


def to_psv(
    positions: Positions,
    candidates: Candidates,
    context: AdesContext,
    known_names: Sequence[str] | None = None,
) -> str:
    """Return positions as a PSV file.

    Parameters
    ----------
    positions
        Positions.
    candidates
        The candidates that they are of.
    context
        Who observed with what.
    known_names
        Name of the known object that each candidate is, or an empty text.

    Returns
    -------
    psv : `str`
        Content of the file. Every position is of one tracklet, the candidate.
    """
    names = tracklet_names(candidates)
    known = [""] * len(names) if known_names is None else list(known_names)
    rows: list[tuple[str, ...]] = [_FIELDS]
    for index, time in enumerate(utc_iso(positions.mjd, 3).tolist()):
        row = int(positions.candidate[index])
        fields = {
            **designation_fields(known[row]),
            "trkSub": names[row],
            "obsSubID": f"{positions.visit[index]}-{positions.detector[index]}",
            "mode": "CCD",
            "stn": context.station,
            "obsTime": f"{time}Z",
            **_position_fields(positions, index),
            "astCat": context.astrometric_catalog,
            **_photometry_fields(positions, index),
            "notes": STACKED if positions.n_images[index] > 1 else "",
            "remarks": _remark(candidates, row, known[row], int(positions.n_images[index])),
        }
        rows.append(tuple(fields.get(name, "") for name in _FIELDS))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_FIELDS))]
    lines = ["|".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*_header(context), *(line.rstrip() for line in lines), ""])


def tracklet_names(candidates: Candidates) -> list[str]:
    """Return names of candidates that are unique in a file, and the same in
    every file.

    Parameters
    ----------
    candidates
        Candidates.

    Returns
    -------
    names : `list` [`str`]
        ``T`` and seven letters or digits each.
    """
    names: dict[str, None] = {}
    for row in range(len(candidates)):
        identity = (candidates.tract, candidates.patch, candidates.sequence_id, candidates.mjd)
        text = " ".join(str(column[row]) for column in identity)
        name = _short_name(text)
        while name in names:
            text += "'"
            name = _short_name(text)
        names[name] = None
    return list(names)


def designation_fields(name: str) -> dict[str, str]:
    """Return the fields that name a known object.

    Parameters
    ----------
    name
        Name, as a catalog of orbits has it.

    Returns
    -------
    fields : `dict` [`str`, `str`]
        ``permID`` or ``provID``; empty if the name is no designation of the
        Minor Planet Center.
    """
    key = designation_key(name)
    if _NUMBER.fullmatch(key):
        return {"permID": key}
    return {"provID": key} if _PROVISIONAL.fullmatch(key) else {}


def _short_name(text: str) -> str:
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    digits = []
    for _ in range(7):
        number, digit = divmod(number, 36)
        digits.append(_BASE36[digit])
    return "T" + "".join(digits)


def _header(context: AdesContext) -> list[str]:
    version = importlib.metadata.version("meas-tno")
    lines = ["# version=2022", "# observatory", f"! mpcCode {context.station}"]
    lines += ["# submitter", f"! name {context.submitter}"]
    if context.institution.strip():
        lines.append(f"! institution {context.institution}")
    for title, people in (("observers", context.observers), ("measurers", context.measurers)):
        if people:
            lines += [f"# {title}", *(f"! name {name}" for name in people)]
    lines += ["# telescope", f"! name {context.telescope}", f"! design {context.design}"]
    lines += [f"! aperture {context.aperture}", f"! detector {context.detector}"]
    lines += ["# software", "! astrometry LSST Science Pipelines", f"! objectDetection meas_tno {version}"]
    return [
        *lines,
        "# comment",
        "! line Found by shift-and-stack. Positions are steps from one trajectory, and independent.",
        "! line mag is that of all images in the band; logSNR is of the image or images of the position.",
    ]


def _position_fields(positions: Positions, index: int) -> dict[str, str]:
    correlation = np.clip(positions.correlation[index], -MAX_CORRELATION, MAX_CORRELATION)
    # Rounding must lead neither to 360 deg nor to an error of 0.
    return {
        "ra": f"{np.round(positions.ra[index], 7) % 360.0:.7f}",
        "dec": f"{positions.dec[index]:+.7f}",
        "rmsRA": f"{max(positions.rms_ra[index], 0.001):.3f}",
        "rmsDec": f"{max(positions.rms_dec[index], 0.001):.3f}",
        "rmsCorr": f"{correlation:.3f}",
    }


def _photometry_fields(positions: Positions, index: int) -> dict[str, str]:
    fields = {"logSNR": f"{np.log10(positions.snr[index]):.2f}"}
    if np.isfinite(positions.fwhm[index]):
        fields["seeing"] = f"{positions.fwhm[index]:.2f}"
    if positions.exposure_time[index] > 0:
        fields["exp"] = f"{positions.exposure_time[index]:.6g}"[:6]
    if np.isfinite(positions.mag[index]):
        fields |= {
            "mag": f"{positions.mag[index]:.2f}",
            "rmsMag": f"{max(positions.mag_err[index], 0.001):.3f}",
            "band": BAND_CODES[BANDS[positions.band[index]]],
        }
    return fields


def _remark(candidates: Candidates, row: int, known_name: str, n_images: int) -> str:
    remark = (
        f"tract {candidates.tract[row]} patch {candidates.patch[row]} "
        f"sequence {candidates.sequence_id[row]} S/N {candidates.snr[row]:.1f}"
    )
    if n_images > 1:
        remark += f"; {n_images} images"
    # What stands between pipes is no part of a field.
    return remark + (f"; may be {known_name.replace('|', ' ')[:100]}" if known_name else "")
