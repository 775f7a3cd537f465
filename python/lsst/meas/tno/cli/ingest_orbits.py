# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``butler ingest-tno-orbits`` does."""

from __future__ import annotations

__all__ = ("ingest_orbits",)

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._common import open_butler

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef

    from ..orbits import OrbitCatalog, RejectedRow

_LOG = logging.getLogger("lsst.meas.tno.orbits")

DATASET_TYPE = "tno_orbits"

_CATALOG_FILE = "tno_orbits.csv"

_MAX_REJECTED, _MAX_DUPLICATES = 1000, 20
"""Rows that are no orbits, and objects that are there twice, of which each is
logged.
"""


def ingest_orbits(
    repo: str,
    file: Sequence[str],
    *,
    file_format: str | None,
    sbdb: Sequence[str],
    synthetic: int | None,
    seed: int,
    run: str,
    replace: bool,
    save_dir: str,
) -> None:
    """Write a catalog of orbits to a repository, and print what was written.

    Nothing is written to the repository before everything has been read. What
    JPL answers is saved as it comes.

    Parameters
    ----------
    repo
        Path or URI of the repository.
    file
        Paths of files of orbits.
    file_format
        Name of their format in `ORBIT_FORMATS`; recognised if `None`.
    sbdb
        Orbit classes to query JPL's database for.
    synthetic
        Number of synthetic orbits, or `None`.
    seed
        Seed of the synthetic orbits.
    run
        RUN collection to write to.
    replace
        Replace the catalog that is in the run, and the files that are saved.
    save_dir
        Folder to save JPL's answers and the catalog in.

    Raises
    ------
    click.ClickException
        Raised if a catalog cannot be read, or not be written there.
    """
    from ..orbits import concatenate_orbits, write_orbits

    classes = list(dict.fromkeys(sbdb))
    if not file and not classes and synthetic is None:
        raise click.ClickException("There is nothing to ingest: give a FILE, --sbdb or --synthetic.")
    answer_paths = {name: Path(save_dir) / f"sbdb_{name}.json" for name in classes}
    catalog_path = Path(save_dir) / _CATALOG_FILE
    with open_butler(repo, writeable=True) as butler:
        old = _find_old(butler, run, replace)
        if classes:
            _check_files([*answer_paths.values(), catalog_path], replace)
        catalogs = [*_read_files(file, file_format)]
        catalogs += _query(answer_paths)
        catalogs += _make_synthetic(synthetic, seed)
        if not catalogs:
            raise click.ClickException(f"There are no orbits of the classes {', '.join(classes)}.")
        catalog = concatenate_orbits(catalogs)
        _log_rejected(catalog.rejected)
        if classes:
            write_orbits(catalog.orbits, catalog_path)
            saved = [str(path) for path in answer_paths.values() if path.exists()]
            click.echo(f"Saved {', '.join(saved)} and {catalog_path}.")
        _put(butler, catalog, run, old)
    click.echo(f"Wrote {len(catalog.orbits)} orbits to {repo}, rejected {len(catalog.rejected)} rows.")
    click.echo(f"Use them with: pipetask run -b {repo} -i {run},... ...")


def _find_old(butler: Butler, run: str, replace: bool) -> list[DatasetRef]:
    """Return the catalog that is to be replaced, if any."""
    from lsst.daf.butler import CollectionType, MissingCollectionError

    try:
        kind = butler.collections.get_info(run).type
    except MissingCollectionError:
        return []
    if kind is not CollectionType.RUN:
        raise click.ClickException(f"{run} is a {kind.name} collection, not a RUN; choose another --run.")
    if not butler.registry.queryDatasetTypes(DATASET_TYPE):
        return []
    old = butler.query_datasets(DATASET_TYPE, collections=run, find_first=False, explain=False)
    if old and not replace:
        raise click.ClickException(
            f"{DATASET_TYPE} already exists in {run}; choose another --run, or --replace it."
        )
    return old


def _check_files(paths: Sequence[Path], replace: bool) -> None:
    folder = paths[0].parent
    if not folder.is_dir():
        raise click.ClickException(f"--save-dir {folder} is not a folder.")
    if not replace and (existing := [str(path) for path in paths if path.exists()]):
        raise click.ClickException(
            f"{', '.join(existing)} would be overwritten; choose another --save-dir, or --replace."
        )


def _read_files(paths: Sequence[str], file_format: str | None) -> Iterator[OrbitCatalog]:
    from ..orbits import read_orbits

    for path in paths:
        catalog = read_orbits(path, format=file_format)
        _LOG.info("Read %d orbits from %s.", len(catalog.orbits), path)
        yield catalog


def _query(answer_paths: Mapping[str, Path]) -> Iterator[OrbitCatalog]:
    """Query JPL's database, and save each answer."""
    from ..orbits import NoSuchOrbitsError, query_sbdb

    for name, path in answer_paths.items():
        _LOG.info("Querying JPL's database for orbits of class %s.", name)
        try:
            yield query_sbdb(name, save_as=path)
        except NoSuchOrbitsError as error:
            _LOG.warning("%s", error)


def _make_synthetic(n: int | None, seed: int) -> Iterator[OrbitCatalog]:
    from ..orbits import OrbitCatalog, make_synthetic_orbits

    if n is not None:
        yield OrbitCatalog(make_synthetic_orbits(n, seed), [])


def _log_rejected(rejected: Sequence[RejectedRow]) -> None:
    """Log what was left out: rows that are no orbits, and then objects that
    another file has too, which have no line.
    """
    for rows, limit in (
        ([row for row in rejected if row.line > 0], _MAX_REJECTED),
        ([row for row in rejected if row.line == 0], _MAX_DUPLICATES),
    ):
        for row in rows[:limit]:
            _LOG.warning("Left out %s", row)
        if len(rows) > limit:
            _LOG.warning("Left out %d more rows.", len(rows) - limit)


def _put(butler: Butler, catalog: OrbitCatalog, run: str, old: Sequence[DatasetRef]) -> None:
    """Write the catalog, or leave the repository as it was."""
    from lsst.daf.butler import DatasetType

    dataset_type = DatasetType(DATASET_TYPE, (), "ArrowAstropy", universe=butler.dimensions)
    with contextlib.ExitStack() as undo:
        if butler.registry.registerDatasetType(dataset_type):
            undo.callback(butler.registry.removeDatasetType, DATASET_TYPE)
        if old:
            # What cannot be written, as on a full disk, replaces nothing.
            spare = f"{run}/replacement"
            undo.callback(butler.removeRuns, [spare], unlink_from_chains=True)
            if not butler.collections.register(spare):
                butler.removeRuns([spare], unlink_from_chains=True)
                butler.collections.register(spare)
            butler.put(catalog.orbits, dataset_type, run=spare)
            butler.pruneDatasets(old, disassociate=True, unstore=True, purge=True)
            butler.removeRuns([spare], unlink_from_chains=True)
            undo.pop_all()
        elif butler.collections.register(run):
            undo.callback(butler.collections.x_remove, run)
        butler.put(catalog.orbits, dataset_type, run=run)
        undo.pop_all()
