# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``butler report-tno-search`` does."""

from __future__ import annotations

__all__ = ("report_search",)

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

import click

from ._candidates import match_candidates_with_orbits
from ._common import open_butler, show_progress

_LOG = logging.getLogger("lsst.meas.tno.report")


def report_search(
    repo: str,
    *,
    collection: Sequence[str],
    output: str,
    where: str,
    limit: int,
    max_rows: int,
    match: bool,
    match_radius: float,
    overwrite: bool,
) -> None:
    """Write the report of a search to a file, and print its size.

    Parameters
    ----------
    repo
        Path, URI or alias of the repository.
    collection
        Collections to search.
    output
        Path of the file.
    where
        Data query.
    limit
        Largest number of candidates with pictures.
    max_rows
        Largest number of candidates that are listed.
    match
        Look for the candidates among the objects of ``tno_orbits``.
    match_radius
        How far from where it is predicted a known object may be, arcsec.
    overwrite
        Replace the file if it exists.

    Raises
    ------
    click.ClickException
        Raised if there is nothing to report.
    """
    from .._output import replacing
    from ..report import make_report

    path = Path(output)
    if path.is_dir():
        raise click.ClickException(f"{path} is a folder; give the path of a file.")
    if path.exists() and not overwrite:
        raise click.ClickException(f"{path} exists; --overwrite replaces it.")
    with replacing(path) as temporary, open_butler(repo, collections=collection) as butler:
        find_known = functools.partial(
            match_candidates_with_orbits, butler, log=_LOG, orbits=None, radius=match_radius
        )
        page = make_report(
            butler,
            repo=repo,
            where=where,
            limit=limit,
            max_rows=max_rows,
            match=find_known if match else None,
            progress=functools.partial(show_progress, log=_LOG),
        )
        temporary.write_text(page, encoding="utf-8")
    click.echo(f"Wrote {path}, {path.stat().st_size / 1e6:.1f} MB. Open it in a browser.")
