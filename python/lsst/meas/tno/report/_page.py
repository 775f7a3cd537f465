# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page, filled from what was read."""

from __future__ import annotations

__all__ = ("Page", "PatchRow", "make_patch_rows", "make_tiles", "render_page")

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from astropy.table import Table

from .._clock import utc_iso
from .._sequences import BANDS
from ..candidates import Candidates
from ._candidates import CandidateRow, Portrait
from ._figures import Picture
from ._provenance import CollectionContent, TaskRun
from ._search import Search
from ._values import MISSING, format_duration, format_number, patch_anchor

_TEMPLATES = Path(__file__).parent / "templates"

COLUMNS = {
    "logit": "Logit",
    "snr": "S/N",
    "mag": "Magnitude",
    "rate": "Rate (″/h)",
    "position_angle": "Position angle (°)",
    "ra": "RA (°)",
    "dec": "Dec (°)",
    "mjd": "Time (UTC)",
    "n_images": "Images",
}
"""Titles of the columns of numbers of the table of candidates."""

_QUANTITIES = {
    ("fit", "m50"): "Magnitude at half of the highest efficiency",
    ("fit", "m50_plateau"): "Highest efficiency by magnitude",
    ("fit", "snr50"): "S/N at half of the highest efficiency",
    ("fit", "snr50_plateau"): "Highest efficiency by S/N",
    ("efficiency", "all"): "Part of all injected objects that is found",
    ("false_positives", "per_sequence"): "False positives a sequence",
    ("false_positives", "per_square_degree"): "False positives a square degree",
    ("threshold", "logit"): "Threshold (logit)",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchRow:
    """What the page says of a patch."""

    anchor: str
    data_id: str
    dataset: str
    """Dataset type and UUID of what was looked at."""

    run: str
    n_sequences: int
    n_candidates: int
    n_images: int
    bands: str
    times: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """All that a page shows."""

    title: str
    repo: str
    collections: Sequence[str]
    where: str
    written: str
    """When the page was written, UTC."""

    version: str
    tiles: Mapping[str, str]
    was_searched: bool
    """Whether candidates were looked for."""

    n_candidates: int
    rows: Sequence[CandidateRow]
    portraits: Mapping[int, Portrait]
    """Portraits, by number of the candidate."""

    sky_map: str | None
    scores: str | None
    curves: Mapping[str, Sequence[Picture]]
    classifier: Mapping[str, Any] | None
    classifier_run: str
    efficiency: Mapping[str, str]
    patches: Sequence[PatchRow]
    contents: Sequence[CollectionContent]
    tasks: Sequence[TaskRun]
    software: Mapping[str, str]


def render_page(page: Page) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    page
        What to show.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["duration"] = format_duration
    environment.filters["number"] = format_number
    environment.filters["memory"] = lambda size: f"{size / 1e9:.2f} GB" if np.isfinite(size) else MISSING
    return environment.get_template("report.html").render(page=page, columns=COLUMNS)


def make_tiles(search: Search) -> dict[str, str]:
    """Return the numbers that a page begins with, by what they are.

    Parameters
    ----------
    search
        What was looked at and found.
    """
    candidates, images = search.candidates, search.images
    tiles = {
        "Candidates": MISSING if candidates is None else f"{len(candidates):,}",
        "Sequences of the sky": f"{search.n_sequences:,}",
        "Patches": f"{len(search.patches):,}",
    }
    if len(images):
        tiles["Images"] = f"{len(images):,}"
        tiles["Bands"] = _bands(images)
        tiles["Observed"] = _times(images, 10)
    if search.efficiency is not None:
        numbers = describe_efficiency(search.efficiency)
        for name in (_QUANTITIES["fit", "m50"], _QUANTITIES["false_positives", "per_sequence"]):
            if name in numbers:
                tiles[name] = numbers[name]
    return tiles


def describe_efficiency(table: Table) -> dict[str, str]:
    """Return the numbers of a detection efficiency, by what they are.

    Parameters
    ----------
    table
        Table with the columns of `DETECTION_EFFICIENCY_COLUMNS`.
    """
    numbers = {}
    for row in table:
        title = _QUANTITIES.get((str(row["kind"]), str(row["quantity"])))
        if title is None:
            continue
        value = row["logit"] if row["kind"] == "threshold" else row["value"]
        if not np.isfinite(value):
            numbers[title] = (
                f"{MISSING} ({str(row['reason']).replace('_', ' ')})" if row["reason"] else MISSING
            )
        elif np.isfinite(row["value_low"]):
            low, high = (_to_text(row[name]) for name in ("value_low", "value_high"))
            numbers[title] = f"{_to_text(value)} ({low} to {high})"
        else:
            numbers[title] = _to_text(value)
    return numbers


def _to_text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def make_patch_rows(search: Search) -> list[PatchRow]:
    """Return what the page says of each patch.

    Parameters
    ----------
    search
        What was looked at and found.
    """
    counts = _count(search.candidates)
    return [
        PatchRow(
            anchor=patch_anchor(patch.tract, patch.patch),
            data_id=patch.data_id,
            dataset=f"{patch.ref.datasetType.name} {patch.ref.id}",
            run=patch.ref.run,
            n_sequences=len(patch.ra),
            n_candidates=counts.get((patch.tract, patch.patch), 0),
            n_images=len(patch.images),
            bands=_bands(patch.images),
            times=_times(patch.images, 16),
        )
        for patch in search.patches
    ]


def _count(candidates: Candidates | None) -> dict[tuple[int, int], int]:
    counts: dict[tuple[int, int], int] = {}
    if candidates is not None:
        for key in zip(candidates.tract.tolist(), candidates.patch.tolist(), strict=True):
            counts[key] = counts.get(key, 0) + 1
    return counts


def _bands(images: Table) -> str:
    return "".join(BANDS[index] for index in np.unique(np.asarray(images["band"]))) or MISSING


def _times(images: Table, length: int) -> str:
    """Return when images were taken, UTC, to some characters of the time."""
    if len(images) == 0:
        return MISSING
    ends = [
        str(text).replace("T", " ")[:length] for text in utc_iso([images["mjd"][0], images["mjd"][-1]], 0)
    ]
    return " to ".join(dict.fromkeys(ends))
