# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a search has looked at, and what it has found."""

from __future__ import annotations

__all__ = ("Patch", "ReportError", "Search", "read_search")

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table, vstack

from .._schema import CANDIDATE_COLUMNS, SchemaError, validate_table
from .._sequences import BANDS
from ..candidates import Candidates, unique_candidates
from ..nn.description import ClassifierError, parse_description
from ._provenance import query_datasets
from ._values import format_data_id

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef

_IMAGE_COLUMNS = ("ra", "dec", "valid", "visit", "detector", "band", "mjd")
_SCORE_COLUMNS = ("ra", "dec", "logit")
_INJECTED_COLUMNS = ("split", "logit", "injected", "snr")


class ReportError(ValueError):
    """There is nothing that a report could be of."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Patch:
    """What was looked at in a patch of the sky."""

    ref: DatasetRef
    """Its sequences, or its scores if it has none of the former."""

    data_id: str
    tract: int
    patch: int

    ra: np.ndarray
    """Positions of its sequences, deg."""

    dec: np.ndarray

    images: Table
    """Images of the sequences, each once: visit, detector, band and mjd."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """What a search has looked at, and what it has found."""

    patches: Sequence[Patch]

    candidates: Candidates | None
    """Candidates, each object once, the best first; `None` if none were
    looked for.
    """

    logits: np.ndarray
    """Logits of all sequences of the sky as it is."""

    injected: Table | None
    """Split, logit, injected and snr of sequences with injected objects."""

    classifier: Mapping[str, Any] | None
    """Description of the classifier."""

    classifier_run: str
    history: Table | None
    """Training history."""

    efficiency: Table | None
    """Detection efficiency."""

    @property
    def n_sequences(self) -> int:
        """Number of sequences (`int`)."""
        return sum(len(patch.ra) for patch in self.patches)

    @property
    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Right ascension and declination of the sequences, deg."""
        nothing = np.zeros(0)
        return (
            np.concatenate([nothing, *(patch.ra for patch in self.patches)]),
            np.concatenate([nothing, *(patch.dec for patch in self.patches)]),
        )

    @property
    def images(self) -> Table:
        """Images of all patches, each once (`astropy.table.Table`)."""
        return _unique_images([patch.images for patch in self.patches])


def read_search(
    butler: Butler,
    *,
    where: str = "",
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Search:
    """Read what a search has looked at, and what it has found.

    Parameters
    ----------
    butler
        The butler, with the collections of the search.
    where
        Data query on skymap, tract and patch.
    advance
        To be called with how many datasets are read, and of how many.

    Raises
    ------
    ReportError
        Raised if the collections have nothing of a search, or several
        skymaps.
    """
    refs = {
        name: query_datasets(butler, name, where=where)
        for name in ("tno_sequences", "tno_scores", "tno_scores_injected", "tno_candidates")
    }
    single = {
        name: query_datasets(butler, name)
        for name in ("tno_classifier", "tno_training_history", "tno_detection_efficiency")
    }
    _check([ref for found in (*refs.values(), *single.values()) for ref in found], butler, where)
    reader = _Reader(butler, advance, sum(len(found) for found in refs.values()))
    patches = reader.read_patches(refs["tno_sequences"] or refs["tno_scores"])
    classifier = single["tno_classifier"]
    return Search(
        patches=patches,
        candidates=reader.read_candidates(refs["tno_candidates"]),
        logits=reader.read_logits(refs["tno_scores"]),
        injected=reader.read_injected(refs["tno_scores_injected"]),
        classifier=_describe_classifier(butler, classifier[0]) if classifier else None,
        classifier_run=classifier[0].run if classifier else "",
        history=_get_first(butler, single["tno_training_history"]),
        efficiency=_get_first(butler, single["tno_detection_efficiency"]),
    )


def _check(refs: Sequence[DatasetRef], butler: Butler, where: str) -> None:
    collections = ", ".join(butler.collections.defaults)
    if not refs:
        queried = f" for {where}" if where else ""
        raise ReportError(
            f"There is nothing to report in {collections}{queried}: no sequences, scores, candidates, "
            "classifier or detection efficiency."
        )
    skymaps = sorted({str(ref.dataId["skymap"]) for ref in refs if "skymap" in ref.dimensions})
    if len(skymaps) > 1:
        raise ReportError(f"{collections} has patches of several skymaps: {', '.join(skymaps)}.")


def _get_first(butler: Butler, refs: Sequence[DatasetRef]) -> Table | None:
    return butler.get(refs[0]) if refs else None


def _describe_classifier(butler: Butler, ref: DatasetRef) -> Mapping[str, Any]:
    """Return the description of a classifier, whose tensors are not read."""
    try:
        return parse_description(butler.get(ref.makeComponentRef("schema")))
    except ClassifierError as error:
        raise ReportError(f"The tno_classifier in {ref.run} is no classifier.") from error


def _unique_images(parts: Sequence[Table]) -> Table:
    """Return images in order of time, each once."""
    images = Table({name: np.array([], dtype=int) for name in ("visit", "detector", "band")})
    images["mjd"] = np.array([], dtype=float)
    images = vstack([images, *parts])
    _, first = np.unique(np.column_stack([images["visit"], images["detector"]]), axis=0, return_index=True)
    images = images[first]
    return images[np.argsort(images["mjd"], kind="stable")]


class _Reader:
    """Reads the tables of patches, and counts them."""

    def __init__(self, butler: Butler, advance: Callable[[int, int], None], n_datasets: int) -> None:
        self._butler = butler
        self._advance = advance
        self._n_datasets = n_datasets
        self._done = 0

    def read_patches(self, refs: Sequence[DatasetRef]) -> list[Patch]:
        """Read what the sequences of patches are.

        Parameters
        ----------
        refs
            Sequences, or scores.
        """
        return [self._read_patch(ref) for ref in refs]

    def read_candidates(self, refs: Sequence[DatasetRef]) -> Candidates | None:
        """Read the candidates of all patches.

        Parameters
        ----------
        refs
            Candidates.
        """
        tables = []
        for ref in refs:
            table = self._get(ref)
            try:
                validate_table(table, CANDIDATE_COLUMNS)
            except SchemaError as error:
                raise ReportError(f"{ref.datasetType.name} has no candidates: {error}") from error
            tables.append(table)
        if not tables:
            return None
        candidates = Candidates.from_arrays(unique_candidates(tables))
        return candidates.select(np.argsort(-candidates.logit, kind="stable"))

    def read_logits(self, refs: Sequence[DatasetRef]) -> np.ndarray:
        """Read the logits of all patches.

        Parameters
        ----------
        refs
            Scores.
        """
        return np.concatenate(
            [np.zeros(0), *(np.asarray(self._get(ref, ["logit"])["logit"]) for ref in refs)]
        )

    def read_injected(self, refs: Sequence[DatasetRef]) -> Table | None:
        """Read how sequences with injected objects were scored.

        Parameters
        ----------
        refs
            Scores of sequences with injected objects.
        """
        tables = [self._get(ref, _INJECTED_COLUMNS) for ref in refs]
        return vstack(tables, metadata_conflicts="silent") if tables else None

    def _read_patch(self, ref: DatasetRef) -> Patch:
        has_images = ref.datasetType.name == "tno_sequences"
        table = self._get(ref, _IMAGE_COLUMNS if has_images else _SCORE_COLUMNS)
        images: list[Table] = []
        if has_images:
            valid = np.asarray(table["valid"])
            columns = {name: np.asarray(table[name])[valid] for name in ("visit", "detector", "band", "mjd")}
            known = columns["band"] < len(BANDS)
            images.append(Table({name: values[known] for name, values in columns.items()}))
        return Patch(
            ref=ref,
            data_id=format_data_id(ref.dataId.required),
            tract=int(ref.dataId["tract"]),
            patch=int(ref.dataId["patch"]),
            ra=np.asarray(table["ra"]),
            dec=np.asarray(table["dec"]),
            images=_unique_images(images),
        )

    def _get(self, ref: DatasetRef, columns: Sequence[str] = ()) -> Table:
        table = self._butler.get(ref, parameters={"columns": list(columns)} if columns else None)
        self._done += 1
        self._advance(min(self._done, self._n_datasets), self._n_datasets)
        return table
