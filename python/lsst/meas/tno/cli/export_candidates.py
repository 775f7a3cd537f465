# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``butler export-tno-candidates`` does."""

from __future__ import annotations

__all__ = ("SUFFIXES", "export_candidates")

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from ._candidates import match_candidates_with_orbits
from ._common import find_datasets, open_butler, show_progress

if TYPE_CHECKING:
    from astropy.table import Table

    from lsst.daf.butler import Butler, DatasetRef

    from ..ades import AdesContext
    from ..astrometry import Positions
    from ..candidates import Candidates
    from ..known_objects import KnownObjects

_LOG = logging.getLogger("lsst.meas.tno.export")

SUFFIXES = {
    ".psv": "psv",
    ".ecsv": "ecsv",
    ".vot": "votable",
    ".votable": "votable",
    ".xml": "votable",
    ".parquet": "parquet",
    ".parq": "parquet",
}
"""Format of files by their suffix."""


def export_candidates(
    repo: str,
    out: str,
    *,
    collections: Sequence[str],
    dataset_type: str,
    where: str,
    file_format: str | None,
    limit: int | None,
    min_logit: float | None,
    match: bool,
    orbits: str | None,
    match_radius: float,
    stack: int,
    submitter: str | None,
    institution: str,
    measurer: Sequence[str],
    observer: Sequence[str],
    station: str,
    catalog: str,
    overwrite: bool,
) -> None:
    """Write candidates to a file, and print how many.

    Parameters
    ----------
    repo
        Path, URI or alias of the repository.
    out
        Path of the file.
    collections
        Collections to search.
    dataset_type
        Dataset type of the candidates.
    where
        Data query.
    file_format
        Format, ``psv``, ``ecsv``, ``votable`` or ``parquet``; that of the
        file's suffix if `None`.
    limit
        Largest number of candidates; those of the highest logit.
    min_logit
        Lowest logit.
    match
        Look for the candidates among the objects of ``tno_orbits``.
    orbits
        Collection of these; ``collections`` if `None`.
    match_radius
        How far from where it is predicted a known object may be, arcsec.
    stack
        Number of images of a position of the Minor Planet Center's format.
    submitter, institution, measurer, observer, station, catalog
        Header of that format.
    overwrite
        Replace the file if it exists.

    Raises
    ------
    click.ClickException
        Raised if there is nothing to write.
    """
    from .._output import replacing
    from ..known_objects import KnownObjects

    path = Path(out)
    if path.is_dir():
        raise click.ClickException(f"{path} is a folder; give the path of a file.")
    file_format = file_format or SUFFIXES.get(path.suffix.lower())
    if file_format is None:
        raise click.ClickException(f"{path}: its suffix is none of {', '.join(SUFFIXES)}; give --format.")
    if path.exists() and not overwrite:
        raise click.ClickException(f"{path} exists; --overwrite replaces it.")
    context = None
    if file_format == "psv":
        context = _make_context(dataset_type, submitter, institution, measurer, observer, station, catalog)
    with replacing(path) as temporary, open_butler(repo, collections=collections) as butler:
        refs = find_datasets(butler, dataset_type, where)
        candidates = _read_candidates(butler, refs, limit, min_logit)
        known = KnownObjects.none(len(candidates))
        if match:
            known = match_candidates_with_orbits(butler, candidates, _LOG, orbits=orbits, radius=match_radius)
        if context is None:
            _write_table(temporary, _to_table(candidates, known), file_format)
            what = f"{len(candidates)} candidates"
        else:
            measured = _measure(butler, candidates, dataset_type, where, stack)
            what = _write_psv(temporary, candidates, context, known, *measured)
    click.echo(f"Wrote {what} to {path}; {np.count_nonzero(known.name != '')} are known objects.")


def _make_context(
    dataset_type: str,
    submitter: str | None,
    institution: str,
    measurers: Sequence[str],
    observers: Sequence[str],
    station: str,
    catalog: str,
) -> AdesContext:
    """Return the header of a file for the Minor Planet Center."""
    from ..ades import AdesContext

    if dataset_type.endswith("_injected"):
        raise click.ClickException(f"{dataset_type} are of injected objects, which nobody can observe.")
    if submitter is None:
        raise click.ClickException("The Minor Planet Center wants to know who you are: give --submitter.")
    return AdesContext(
        submitter=submitter,
        institution=institution,
        measurers=measurers or [submitter],
        observers=observers,
        station=station,
        astrometric_catalog=catalog,
    )


def _read_candidates(
    butler: Butler, refs: Sequence[DatasetRef], limit: int | None, min_logit: float | None
) -> Candidates:
    """Return the candidates, each object once, the best first."""
    from .._schema import CANDIDATE_COLUMNS, SchemaError, validate_table
    from ..candidates import Candidates, unique_candidates

    tables = [butler.get(ref) for ref in refs]
    try:
        for table in tables:
            validate_table(table, CANDIDATE_COLUMNS)
    except SchemaError as error:
        raise click.ClickException(f"{refs[0].datasetType.name} has no candidates: {error}") from error
    candidates = Candidates.from_arrays(unique_candidates(tables))
    if min_logit is not None:
        candidates = candidates.select(candidates.logit >= min_logit)
    return candidates.select(np.argsort(-candidates.logit, kind="stable")[:limit])


def _to_table(candidates: Candidates, known: KnownObjects) -> Table:
    from .._columns import make_table

    table = make_table(candidates.items())
    known.add_to(table)
    return table


def _write_table(path: Path, table: Table, file_format: str) -> None:
    match file_format:
        case "ecsv":
            table.write(path, format="ascii.ecsv")
        case "votable":
            table.write(path, format="votable")
        case _:
            import pyarrow.parquet

            from lsst.daf.butler.formatters.parquet import astropy_to_arrow

            pyarrow.parquet.write_table(astropy_to_arrow(table), path)


def _write_psv(
    path: Path,
    candidates: Candidates,
    context: AdesContext,
    known: KnownObjects,
    positions: Positions,
    n_left_out: int,
) -> str:
    """Write positions for the Minor Planet Center; return what they are."""
    from ..ades import to_psv

    if n_left_out:
        _LOG.warning(
            "Left out %d positions that are less certain than the PSF is wide; --stack measures a position "
            "in several images.",
            n_left_out,
        )
    if len(positions) == 0:
        raise click.ClickException("There is no position that is certain enough; try --stack 10.")
    path.write_text(to_psv(positions, candidates, context, known.name.tolist()), encoding="utf-8")
    return f"{len(positions)} positions of {len(np.unique(positions.candidate))} candidates"


def _measure(
    butler: Butler, candidates: Candidates, dataset_type: str, where: str, stack: int
) -> tuple[Positions, int]:
    """Measure the positions of candidates, patch by patch."""
    from .._sequences import ImageSequences
    from ..astrometry import Positions, measure_positions
    from ..tracks import match_candidates

    if len(candidates) == 0:
        raise click.ClickException("There are no candidates to measure.")
    parts = []
    n_left_out = done = 0
    patches = np.unique(np.column_stack([candidates.tract, candidates.patch]), axis=0)
    with show_progress("Measuring", "candidate", _LOG) as advance:
        for ref in find_datasets(butler, dataset_type.replace("tno_candidates", "tno_sequences"), where):
            if [ref.dataId["tract"], ref.dataId["patch"]] not in patches.tolist():
                continue
            sequences = ImageSequences.from_table(butler.get(ref))
            index = match_candidates(sequences, candidates)
            rows = index[index >= 0]
            found, n_uncertain = measure_positions(
                sequences[index >= 0], candidates.select(rows), n_stack=stack
            )
            found.candidate = rows[found.candidate]
            parts.append(found)
            n_left_out += n_uncertain
            done += len(rows)
            advance(done, len(candidates))
    if not parts:
        raise click.ClickException("There are no sequences of these candidates.")
    return Positions.concatenate(parts), n_left_out
