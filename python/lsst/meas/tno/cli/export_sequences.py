# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``butler export-tno-sequences`` does."""

from __future__ import annotations

__all__ = ("export_sequences",)

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from ._common import find_datasets, open_butler, show_progress

if TYPE_CHECKING:
    from astropy.table import Table

    from lsst.daf.butler import Butler, DatasetRef

    from .._sequences import ImageSequences
    from ..candidates import Candidates

_LOG = logging.getLogger("lsst.meas.tno.export")

_IDENTITY = ["tract", "patch", "sequence_id"]

type Chosen = list[tuple["DatasetRef", np.ndarray]]
"""The datasets to read, and the ``sequence_id`` wanted of each."""


def export_sequences(
    repo: str,
    out: str,
    *,
    collections: Sequence[str],
    dataset_type: str,
    where: str,
    file_format: str,
    select: str,
    sequence_id: Sequence[int],
    limit: int | None,
    one_file_per_image: bool,
    display_range: tuple[float, float] | None,
    overwrite: bool,
) -> None:
    """Write image sequences to files, and print how many.

    Parameters
    ----------
    repo
        Path, URI or alias of the repository.
    out
        Folder to write to.
    collections
        Collections to search.
    dataset_type
        Dataset type of the sequences.
    where
        Data query.
    file_format
        Format, of `lsst.meas.tno.export.FORMATS`.
    select
        ``all``, ``injected`` or ``candidates``.
    sequence_id
        Sequences to write; all if empty.
    limit
        Largest number of sequences.
    one_file_per_image
        Write a FITS file for each image.
    display_range
        Display range of pictures, nJy.
    overwrite
        Replace files that exist.

    Raises
    ------
    click.ClickException
        Raised if there is nothing to write.
    """
    from .._output import making_folder
    from ..export import ARRAY_FORMATS, require_zarr

    if one_file_per_image and file_format != "fits":
        raise click.ClickException(f"--one-file-per-image is for --format fits, not {file_format}.")
    if display_range is not None and not display_range[0] < display_range[1]:
        raise click.ClickException(f"--range: {display_range[0]} is not below {display_range[1]}.")
    if file_format == "zarr":
        require_zarr()
    folder = Path(out)
    with open_butler(repo, collections=collections) as butler:
        refs = find_datasets(butler, dataset_type, where)
        # Arrays have no place for them.
        needed = select == "candidates" or file_format not in ARRAY_FORMATS
        candidates = _read_candidates(butler, refs) if needed else None
        chosen = _choose(butler, refs, candidates, select, sequence_id, limit)
        with making_folder(folder), show_progress("Exporting", "sequence", _LOG) as advance:
            exporter = _Exporter(
                butler=butler,
                candidates=candidates,
                folder=folder,
                file_format=file_format,
                display_range=display_range,
                one_file_per_image=one_file_per_image,
                overwrite=overwrite,
                advance=advance,
            )
            export = exporter.export_arrays if file_format in ARRAY_FORMATS else exporter.export_each
            counts = export(chosen)
    kept = f", kept {counts[1]} that exist (--overwrite replaces them)" if counts[1] else ""
    click.echo(f"Wrote {counts[0]} files to {folder}{kept}.")


def _read_candidates(butler: Butler, refs: Sequence[DatasetRef]) -> Candidates | None:
    """Return the candidates of the same patches, if there are any."""
    from lsst.daf.butler import MissingDatasetTypeError

    from ..candidates import Candidates

    name = refs[0].datasetType.name
    name = name.replace("tno_sequences", "tno_candidates").replace("tno_cutouts", "tno_candidates")
    if name == refs[0].datasetType.name:
        return None
    parts = []
    for ref in refs:
        try:
            found = butler.find_dataset(name, ref.dataId)
        except MissingDatasetTypeError:
            return None
        if found is not None:
            parts.append(Candidates.from_arrays(butler.get(found)))
    return Candidates.stack(parts) if parts else None


def _choose(
    butler: Butler,
    refs: Sequence[DatasetRef],
    candidates: Candidates | None,
    select: str,
    sequence_id: Sequence[int],
    limit: int | None,
) -> Chosen:
    """Choose the sequences to write."""
    chosen: Chosen = []
    best = _best_candidates(candidates, sequence_id, limit) if select == "candidates" else None
    for ref in refs:
        table = _read_identity(butler, ref, select)
        wanted = np.asarray(table["injected"]) if select == "injected" else np.ones(len(table), dtype=bool)
        if best is not None:
            keys = zip(*(table[name].tolist() for name in _IDENTITY), strict=True)
            wanted &= np.array([key in best for key in keys], dtype=bool)
        if sequence_id:
            wanted &= np.isin(table["sequence_id"], sequence_id)
        ids = np.asarray(table["sequence_id"])[wanted][:limit]
        if len(ids):
            chosen.append((ref, ids))
        if limit is not None:
            limit -= len(ids)
            if limit == 0:
                break
    if not chosen:
        what = {"all": "sequences", "injected": "injected objects"}.get(select, select)
        raise click.ClickException(f"There are no such {what} in {len(refs)} {refs[0].datasetType.name}.")
    return chosen


def _read_identity(butler: Butler, ref: DatasetRef, select: str) -> Table:
    """Return the columns that tell which sequences to write."""
    if select != "injected":
        return butler.get(ref, parameters={"columns": _IDENTITY})
    try:
        return butler.get(ref, parameters={"columns": [*_IDENTITY, "injected"]})
    except ValueError as error:
        name = ref.datasetType.name
        message = f"{name} has no injected objects; try --dataset-type {name}_injected."
        raise click.ClickException(message) from error


def _best_candidates(
    candidates: Candidates | None, sequence_id: Sequence[int], limit: int | None
) -> set[tuple[int, int, int]]:
    """Return the sequences of the candidates of the highest logit, each object
    once.
    """
    from .._columns import make_table
    from ..candidates import Candidates, unique_candidates

    if candidates is None:
        raise click.ClickException("There are no candidates in these collections, of which to choose.")
    if sequence_id:
        candidates = candidates.select(np.isin(candidates.sequence_id, sequence_id))
    unique = Candidates.from_arrays(unique_candidates([make_table(candidates.items())]))
    best = unique.select(np.argsort(-unique.logit, kind="stable")[:limit])
    return set(zip(*(getattr(best, name).tolist() for name in _IDENTITY), strict=True))


def _read(butler: Butler, ref: DatasetRef, ids: np.ndarray) -> ImageSequences:
    """Return some sequences of a dataset."""
    from .._sequences import ImageSequences

    sequences = ImageSequences.from_table(butler.get(ref))
    return sequences[np.isin(sequences.sequence_id, ids)]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Exporter:
    """Writes the sequences that are chosen, and counts the files written and
    those kept.
    """

    butler: Butler
    candidates: Candidates | None
    folder: Path
    file_format: str
    display_range: tuple[float, float] | None
    one_file_per_image: bool
    overwrite: bool
    advance: Callable[[int, int], None]

    def export_each(self, chosen: Chosen) -> tuple[int, int]:
        """Write each sequence to a file of its own.

        Parameters
        ----------
        chosen
            The sequences to write.
        """
        total = sum(len(ids) for _, ids in chosen)
        written = kept = 0
        for ref, ids in chosen:
            missing = np.array([self._is_missing(self._path(ref, i)) for i in ids], dtype=bool)
            kept += int(np.sum(~missing))
            self.advance(written + kept, total)
            for _ in self._write(ref, ids[missing]):
                written += 1
                self.advance(written + kept, total)
        return written, kept

    def export_arrays(self, chosen: Chosen) -> tuple[int, int]:
        """Write a file of arrays for each dataset.

        Parameters
        ----------
        chosen
            The sequences to write.
        """
        from ..export import write_arrays

        total = sum(len(ids) for _, ids in chosen)
        written = kept = done = 0
        for ref, ids in chosen:
            name = f"{ref.datasetType.name}_{ref.dataId['tract']}_{ref.dataId['patch']}"
            path = self.folder / f"{name}.{self.file_format}"
            if self._is_missing(path):
                write_arrays(path, _read(self.butler, ref, ids), self.file_format)
                written += 1
            else:
                kept += 1
            done += len(ids)
            self.advance(done, total)
        return written, kept

    def _write(self, ref: DatasetRef, ids: np.ndarray) -> Iterator[None]:
        from ..export import write_sequence
        from ..tracks import find_markers

        if len(ids) == 0:
            return
        sequences = _read(self.butler, ref, ids)
        for row, markers in enumerate(find_markers(sequences, self.candidates)):
            write_sequence(
                self._path(ref, sequences.sequence_id[row]),
                sequences,
                row,
                file_format=self.file_format,
                markers=markers,
                limits=self.display_range,
                one_file_per_image=self.one_file_per_image,
            )
            yield

    def _is_missing(self, path: Path) -> bool:
        return self.overwrite or not path.exists()

    def _path(self, ref: DatasetRef, sequence_id: int) -> Path:
        from ..export import sequence_path

        return sequence_path(
            self.folder,
            self.file_format,
            int(ref.dataId["tract"]),
            int(ref.dataId["patch"]),
            sequence_id,
            one_file_per_image=self.one_file_per_image,
        )
