# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports: a search as one page of HTML that needs nothing else."""

from __future__ import annotations

__all__ = ("Progress", "ReportError", "make_report")

import contextlib
import datetime
import importlib.metadata
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np

from ..known_objects import KnownObjects
from ._candidates import draw_portraits, make_rows
from ._figures import draw_curves, draw_map, draw_scores
from ._page import Page, describe_efficiency, make_patch_rows, make_tiles, render_page
from ._provenance import TaskRun, read_collections, read_software, read_task_runs
from ._search import ReportError, Search, read_search

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

    from ..candidates import Candidates

type Progress = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]
"""What shows the progress: given what is done and what is counted, it yields
what is to be called with how many are done, and of how many.
"""

type Match = Callable[[Candidates], KnownObjects]
"""What finds the known objects among candidates."""


def make_report(
    butler: Butler,
    *,
    repo: str,
    where: str = "",
    limit: int = 10,
    max_rows: int = 2000,
    match: Match | None = None,
    progress: Progress | None = None,
) -> str:
    """Return the report of a search.

    Parameters
    ----------
    butler
        The butler, with the collections of the search.
    repo
        What the page calls the repository.
    where
        Data query on skymap, tract and patch.
    limit
        Largest number of candidates with pictures; those of the highest
        logit.
    max_rows
        Largest number of candidates that are listed.
    match
        What finds the known objects among candidates; none are looked for if
        `None`.
    progress
        What shows the progress.

    Returns
    -------
    page : `str`
        HTML. Nothing is loaded from elsewhere.

    Raises
    ------
    ReportError
        Raised if the collections have nothing of a search, or several
        skymaps.
    """
    progress = _show_nothing if progress is None else progress
    with progress("Reading tables", "table") as advance:
        search = read_search(butler, where=where, advance=advance)
    contents = read_collections(butler)
    runs = [content.name for content in contents if content.is_ours and content.kind == "RUN"]
    with progress("Reading configurations", "task") as advance:
        tasks = read_task_runs(butler, runs, advance)
    candidates = search.candidates
    listed = None if candidates is None else candidates.select(np.arange(min(len(candidates), max_rows)))
    rows, portraits = [], {}
    if listed is not None:
        rows = make_rows(listed, KnownObjects.none(len(listed)) if match is None else match(listed))
        with progress("Drawing", "candidate") as advance:
            best = listed.select(slice(limit))
            drawn = draw_portraits(butler, best, where=where, advance=advance)
            portraits = {row + 1: drawn[row] for row in sorted(drawn)}
    return render_page(
        Page(
            title=f"Search for moving objects: {', '.join(butler.collections.defaults)}",
            repo=repo,
            collections=list(butler.collections.defaults),
            where=where,
            written=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
            version=importlib.metadata.version("meas-tno"),
            tiles=make_tiles(search),
            was_searched=candidates is not None,
            n_candidates=0 if candidates is None else len(candidates),
            rows=rows,
            portraits=portraits,
            sky_map=draw_map(*search.positions, candidates),
            scores=draw_scores(search.logits, _threshold(tasks)),
            curves=draw_curves(search.history, search.injected, search.efficiency),
            classifier=search.classifier,
            classifier_run=search.classifier_run,
            efficiency={} if search.efficiency is None else describe_efficiency(search.efficiency),
            patches=make_patch_rows(search),
            contents=contents,
            tasks=tasks,
            software=read_software(butler, runs),
        )
    )


def _show_nothing(title: str, unit: str) -> AbstractContextManager[Callable[[int, int], None]]:
    return contextlib.nullcontext(lambda done, total: None)


def _threshold(tasks: list[TaskRun]) -> float | None:
    """Return the lowest logit of a candidate, if all patches have the same."""
    # That of the last run, which the candidates are of.
    for task in reversed(tasks):
        if task.label == "findCandidates":
            with contextlib.suppress(KeyError, ValueError):
                return float(task.counts["threshold"])
    return None
