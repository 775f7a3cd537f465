# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Candidates as a page shows them: rows of a table, and portraits."""

from __future__ import annotations

__all__ = ("CandidateRow", "Cell", "Image", "Portrait", "draw_portraits", "make_rows")

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .._clock import utc_iso
from .._sequences import BANDS, ImageSequences
from ..astrometry import measure_light_curve
from ..candidates import Candidates
from ..pictures import animate_sequence
from ..plotting import plot_coadds
from ..tracks import candidate_positions, find_markers, match_candidates
from ._figures import draw_light_curve, to_png
from ._provenance import query_datasets
from ._values import (
    MISSING,
    data_uri,
    format_number,
    format_position,
    format_with_error,
    patch_anchor,
)

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

    from ..known_objects import KnownObjects

_MAG_PER_SNR = 2.5 / np.log(10.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """A number of a table."""

    text: str

    value: str = ""
    """What the table is sorted by; empty if there is no value."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CandidateRow:
    """What the table of candidates says of one of them."""

    number: int
    """Rank, from 1."""

    name: str
    """Its tract, patch and sequence."""

    anchor: str
    """Where the page describes the patch."""

    cells: Mapping[str, Cell]
    """Numbers, by the keys of the columns of the table."""

    details: Mapping[str, str]
    """All that is measured of it, by what it is."""

    known_name: str
    """Known object that it is; empty if there is none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image:
    """An image of a candidate."""

    time: str
    visit: int
    detector: int
    band: str
    flux: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Portrait:
    """Pictures of a candidate, as addresses that hold them."""

    animation: str
    coadds: str
    light_curve: str
    data_id: str
    images: Sequence[Image]


def make_rows(candidates: Candidates, known: KnownObjects) -> list[CandidateRow]:
    """Return the rows of the table of candidates.

    Parameters
    ----------
    candidates
        Candidates, the best first.
    known
        The known objects that they are.
    """
    times = utc_iso(candidates.mjd, 0).tolist() if len(candidates) else []
    return [_make_row(candidates, row, time, known) for row, time in enumerate(times)]


def _make_row(candidates: Candidates, row: int, time: str, known: KnownObjects) -> CandidateRow:
    value = {name: float(getattr(candidates, name)[row]) for name in _NUMBERS}
    error = _errors(candidates, row)
    known_name = str(known.name[row])
    details = {
        "Position (ICRS, at the time)": format_position(value["ra"], value["dec"]),
        "Right ascension": f"{format_number(value['ra'], 6)}° ± {format_number(error['ra'], 3)}″",
        "Declination": f"{format_number(value['dec'], 6)}° ± {format_number(error['dec'], 3)}″",
        "Time": f"{time.replace('T', ' ')} UTC (MJD {value['mjd']:.6f} TAI)",
        "Rate": f"{format_with_error(value['rate'], error['rate'])} ″/hour",
        "Position angle": f"{format_with_error(value['position_angle'], error['position_angle'])}°",
        "Flux": f"{format_with_error(value['flux'], value['flux_err'])} nJy",
        "Magnitude (AB, reference band)": format_with_error(value["mag"], error["mag"]),
        "S/N": format_number(value["snr"], 1),
        "Logit": format_number(value["logit"], 2),
        "Score": format_number(value["score"], 5),
        "Images": f"{int(value['n_images'])}",
        "Known object": _describe_known(known, row) if known_name else "none",
    }
    return CandidateRow(
        number=row + 1,
        name=" / ".join(str(getattr(candidates, name)[row]) for name in ("tract", "patch", "sequence_id")),
        anchor=patch_anchor(candidates.tract[row], candidates.patch[row]),
        cells={name: _cell(value[name], decimals) for name, decimals in _DECIMALS.items()}
        | {"mjd": Cell(text=time.replace("T", " "), value=repr(value["mjd"]))},
        details=details,
        known_name=known_name,
    )


_DECIMALS = {
    "logit": 2,
    "snr": 1,
    "mag": 2,
    "rate": 2,
    "position_angle": 0,
    "ra": 5,
    "dec": 5,
    "n_images": 0,
}
"""Decimals of the numbers of the table."""

_NUMBERS = (*_DECIMALS, "mjd", "flux", "flux_err", "score")


def _cell(value: float, decimals: int) -> Cell:
    return Cell(text=format_number(value, decimals), value=repr(value) if np.isfinite(value) else "")


def _errors(candidates: Candidates, row: int) -> dict[str, float]:
    """Return standard deviations, arcsec, arcsec/hour, deg and mag."""
    covariance = candidates.covariance[row]
    rates = np.array([candidates.rate_ra_cosdec[row], candidates.rate_dec[row]])
    rate = np.hypot(*rates)
    with np.errstate(divide="ignore", invalid="ignore"):
        along, across = rates / rate, np.array([rates[1], -rates[0]]) / rate
        return {
            "ra": float(np.sqrt(covariance[0, 0])),
            "dec": float(np.sqrt(covariance[1, 1])),
            "rate": float(np.sqrt(along @ covariance[2:, 2:] @ along)),
            "position_angle": float(np.degrees(np.sqrt(across @ covariance[2:, 2:] @ across) / rate)),
            "mag": float(_MAG_PER_SNR * candidates.flux_err[row] / candidates.flux[row]),
        }


def _describe_known(known: KnownObjects, row: int) -> str:
    mag = known.mag[row]
    predicted = f", V = {mag:.1f} predicted" if np.isfinite(mag) else ""
    return f"{known.name[row]}, {known.separation[row]:.2f}″ from where it is predicted{predicted}"


def draw_portraits(
    butler: Butler,
    candidates: Candidates,
    *,
    where: str = "",
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> dict[int, Portrait]:
    """Draw candidates, as far as there are sequences of them.

    Parameters
    ----------
    butler
        The butler, with the collections of the sequences.
    candidates
        Candidates.
    where
        Data query.
    advance
        To be called with how many candidates are drawn, and of how many.

    Returns
    -------
    portraits : `dict` [`int`, `Portrait`]
        Portraits, by row of the candidate.
    """
    portraits: dict[int, Portrait] = {}
    wanted = set(zip(candidates.tract.tolist(), candidates.patch.tolist(), strict=True))
    refs = query_datasets(butler, "tno_sequences", where=where) if wanted else []
    for ref in refs:
        if (ref.dataId["tract"], ref.dataId["patch"]) not in wanted:
            continue
        sequences = ImageSequences.from_table(butler.get(ref))
        index = match_candidates(sequences, candidates)
        chosen, rows = sequences[index >= 0], index[index >= 0]
        data_id = ", ".join(f"{name}={value!r}" for name, value in ref.dataId.required.items())
        for number, row in enumerate(rows.tolist()):
            portraits[row] = _draw_portrait(
                chosen[np.array([number])], candidates.select(np.array([row])), data_id
            )
            advance(len(portraits), len(candidates))
    return portraits


def _draw_portrait(sequence: ImageSequences, candidate: Candidates, data_id: str) -> Portrait:
    """Draw the one candidate of the one sequence."""
    flux, flux_err = (values[0] for values in measure_light_curve(sequence, candidate))
    x, y = candidate_positions(sequence, candidate)
    valid = np.flatnonzero(sequence.valid[0])
    times = utc_iso(sequence.mjd[0, valid], 0)
    return Portrait(
        animation=data_uri(
            animate_sequence(sequence, 0, markers=find_markers(sequence, candidate)[0]), "image/gif"
        ),
        coadds=to_png(plot_coadds(sequence, 0, x[0], y[0])),
        light_curve=draw_light_curve(
            sequence.mjd[0, valid], sequence.band[0, valid], flux[valid], flux_err[valid]
        ),
        data_id=data_id,
        images=[
            Image(
                time=str(time).replace("T", " "),
                visit=int(sequence.visit[0, index]),
                detector=int(sequence.detector[0, index]),
                band=BANDS[sequence.band[0, index]],
                flux=format_with_error(flux[index], flux_err[index]) if np.isfinite(flux[index]) else MISSING,
            )
            for index, time in zip(valid, times, strict=True)
        ],
    )
