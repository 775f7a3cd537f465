# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a network is trained on: selection and reading of injected sequences.

Tables are read one at a time, and what the network is fed waits on disk, so
that the memory needed does not grow with the number of tables. So do the
pixels of the training sequences that get new objects.
"""

from __future__ import annotations

__all__ = ("ArrayStore", "TrainingSet", "TrainingSetError", "read_training_set")

import collections
import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from astropy.table import Table

from lsst.daf.butler import DataCoordinate
from lsst.utils.logging import LsstLogAdapter

from .._progress import log_waiting
from .._stored_tables import TableHandle, read_table
from ..geometry import pixel_area
from ..positions import SPLITS, split_of_orbits, straddles_split
from ._errors import TrainingSetError
from .architectures import Architecture, Shape
from .array_store import ArrayStore
from .inputs import PIXEL_COLUMNS, PIXEL_SCALE_TOLERANCE, has_usable_pixels, median_pixel_scale
from .reinjection import REINJECTION_COLUMNS, Reinjector
from .training_config import ReinjectionConfig

LABEL_COLUMNS = ("split", "ra", "dec", "htm", "valid", "pixel_to_sky", "injected", "source_orbit", "snr")
"""Columns that say whether, and as what, a sequence takes part."""


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """Sequences of all splits that take part in a training."""

    store: ArrayStore
    """What the network is fed, one row a sequence."""

    shape: Shape
    """Shape of the sequences."""

    pixel_scale: float
    """Median pixel scale of the tables, arcsec."""

    split: np.ndarray
    """Index of each sequence's split in `SPLITS`, uint8 ``(n,)``."""

    injected: np.ndarray
    """Whether each sequence holds an object, bool ``(n,)``."""

    snr: np.ndarray
    """S/N of the objects, ``(n,)``."""

    n_valid: np.ndarray
    """Number of images of each sequence, ``(n,)``."""

    sources: list[dict[str, Any]]
    """Data ID, content hash and number of sequences used of each table."""

    counts: dict[str, int]
    """Number of sequences used in each split and left out for each reason."""

    reinjector: Reinjector | None = None
    """The training sequences, in order, if they are to get new objects."""

    def rows(self, split: str) -> np.ndarray:
        """Return the indices of the sequences of a split.

        Parameters
        ----------
        split
            One of `SPLITS`.
        """
        return np.flatnonzero(self.split == SPLITS.index(split))


@dataclasses.dataclass(frozen=True)
class _Source:
    """One table, of which only the labels have been read."""

    handle: TableHandle
    data_id: dict[str, Any]
    labels: Table
    """Columns split, injected, snr and n_valid of all of its sequences."""

    pixel_scale: float
    """Median of its valid images, arcsec; NaN if there are none."""

    keep: np.ndarray
    digest: Any


def read_training_set(
    handles: Iterable[TableHandle],
    architecture: Architecture,
    store: ArrayStore,
    log: LsstLogAdapter,
    reinjection: ReinjectionConfig | None = None,
) -> TrainingSet:
    """Read the sequences that a network is trained on.

    Parameters
    ----------
    handles
        Handles of tables of injected image sequences. Their order does not
        matter.
    architecture
        Architecture of the network.
    store
        Empty store that takes what the network is fed.
    log
        Logger.
    reinjection
        Configuration of the objects that training injects itself, if it does.

    Returns
    -------
    training_set : `TrainingSet`
        The sequences.

    Raises
    ------
    TrainingSetError
        Raised if the tables do not fit together, or lack what a training
        needs. Nothing but the labels has been read then.

    Notes
    -----
    Left out of training and validation are sequences whose window reaches
    into trixels of another split. Left out of all splits are injected
    sequences whose ``source_orbit`` belongs to another split than their
    position, and sequences without any usable pixel.
    """
    ordered = sorted(handles, key=lambda handle: sorted(_data_id_of(handle).items()))
    shape = _common_shape(ordered)
    counts: collections.Counter[str] = collections.Counter()
    sources = [_read_labels(handle, shape, counts) for handle in ordered]
    _check_labels([source.labels[source.keep] for source in sources])
    pixel_scale = _common_pixel_scale(sources)
    reinjector = None
    if reinjection is not None:
        reinjector = Reinjector(store.child("reinjection"), architecture.columns, reinjection)
    kept = []
    for number, source in enumerate(sources, start=1):
        with log_waiting(log, f"Reading table {number} of {len(sources)} of sequences"):
            kept.append(_read_pixels(source, architecture, store, reinjector, counts))
    _check_labels(kept)
    if reinjector is not None:
        reinjector.report(log)
    records = [
        {"data_id": source.data_id, "sha256": source.digest.hexdigest(), "n_used": len(labels)}
        for source, labels in zip(sources, kept, strict=True)
    ]
    training_set = _assemble(kept, store, shape, pixel_scale, records, counts)
    return dataclasses.replace(training_set, reinjector=reinjector)


def _data_id_of(handle: TableHandle) -> dict[str, Any]:
    data_id = handle.dataId
    return dict(data_id.required if isinstance(data_id, DataCoordinate) else data_id)


def _common_shape(handles: Sequence[TableHandle]) -> Shape:
    if not handles:
        raise TrainingSetError(
            "There are no tables of injected sequences to train on. Are the collections with them among the "
            "inputs?"
        )
    first: Shape | None = None
    for handle in handles:
        columns = handle.get(component="schema").schema
        missing = [name for name in (*LABEL_COLUMNS, *PIXEL_COLUMNS) if name not in columns.colnames]
        if missing:
            raise TrainingSetError(
                f"The table of sequences of {_data_id_of(handle)} lacks the columns {missing}. A classifier "
                "is trained on injected sequences."
            )
        shape = columns["image"].shape[1:]
        if first is None:
            first = shape
        elif shape != first:
            raise TrainingSetError(
                f"The sequences of {_data_id_of(handle)} have (n_times, height, width) = {shape}, those of "
                f"{_data_id_of(handles[0])} {first}. Train on collections that were made with one "
                "configuration."
            )
    assert first is not None
    return first


def _read_labels(handle: TableHandle, shape: Shape, counts: collections.Counter[str]) -> _Source:
    table = handle.get(parameters={"columns": list(LABEL_COLUMNS)})
    columns = {name: np.asarray(table[name]) for name in LABEL_COLUMNS}
    split, orbit = columns["split"], columns["source_orbit"].astype(str)
    straddles = (split < SPLITS.index("test")) & _straddles(columns, shape)
    other_orbit = (orbit != "") & (split_of_orbits(orbit) != split)
    counts["left_out_straddling_splits"] += int(np.count_nonzero(straddles))
    counts["left_out_orbit_of_other_split"] += int(np.count_nonzero(other_orbit & ~straddles))
    digest = hashlib.sha256()
    _update_digest(digest, columns)
    labels = Table({name: columns[name] for name in ("split", "injected", "snr")})
    labels["n_valid"] = columns["valid"].sum(axis=1)
    return _Source(
        handle=handle,
        data_id=_data_id_of(handle),
        labels=labels,
        pixel_scale=median_pixel_scale(columns),
        keep=~(straddles | other_orbit),
        digest=digest,
    )


def _common_pixel_scale(sources: Sequence[_Source]) -> float:
    known = [source for source in sources if np.isfinite(source.pixel_scale)]
    if not known:
        raise TrainingSetError(
            "No valid image of the tables of sequences has a finite pixel_to_sky. Make the tables again."
        )
    finest = min(known, key=lambda source: source.pixel_scale)
    coarsest = max(known, key=lambda source: source.pixel_scale)
    if coarsest.pixel_scale > (1 + PIXEL_SCALE_TOLERANCE) * finest.pixel_scale:
        raise TrainingSetError(
            f"The sequences of {coarsest.data_id} have pixels of {coarsest.pixel_scale:.4f} arcsec, those of "
            f"{finest.data_id} of {finest.pixel_scale:.4f} arcsec. Train on collections that were made with "
            "one configuration."
        )
    return float(np.median([source.pixel_scale for source in known]))


def _straddles(columns: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
    areas = pixel_area(columns["pixel_to_sky"])
    if not np.any(np.isfinite(areas)):
        return np.zeros(len(areas), dtype=bool)
    size = float(np.sqrt(np.nanmax(areas))) * max(shape[1:])
    return straddles_split(columns["ra"], columns["dec"], columns["htm"], size)


def _read_pixels(
    source: _Source,
    architecture: Architecture,
    store: ArrayStore,
    reinjector: Reinjector | None,
    counts: collections.Counter[str],
) -> Table:
    further = () if reinjector is None else REINJECTION_COLUMNS
    names = list(dict.fromkeys((*PIXEL_COLUMNS, *architecture.columns, *further)))
    table = read_table(source.handle, names)
    columns = {name: np.asarray(table[name]) for name in names}
    _update_digest(source.digest, columns)
    usable = has_usable_pixels(columns)
    counts["left_out_without_usable_pixels"] += int(np.count_nonzero(source.keep & ~usable))
    used = source.keep & usable
    store.append(architecture.encode({name: columns[name][used] for name in architecture.columns}))
    if reinjector is not None:
        trained_on = used & (source.labels["split"] == SPLITS.index("training"))
        reinjector.append({name: column[trained_on] for name, column in columns.items()})
    return source.labels[used]


def _update_digest(digest: Any, columns: Mapping[str, np.ndarray]) -> None:
    for name, column in columns.items():
        if column.dtype.kind == "U":
            # The width of a text column depends on the other rows' values.
            content: Any = "\0".join(column).encode()
        else:
            content = np.ascontiguousarray(column).data
        digest.update(f"{name} {column.dtype.kind} {column.shape} ".encode())
        digest.update(content)


def _check_labels(tables: Sequence[Table]) -> None:
    split = _gather(tables, "split")
    injected = _gather(tables, "injected")
    numbers = {
        name: (
            int(np.count_nonzero((split == i) & injected)),
            int(np.count_nonzero((split == i) & ~injected)),
        )
        for i, name in enumerate(SPLITS)
    }
    found = "Usable sequences: " + ", ".join(
        f"{with_object} with and {without} without an object in {name}"
        for name, (with_object, without) in numbers.items()
    )
    advice = "Use more positions or patches: the splits are areas of sky of an HTM trixel each."
    if sum(numbers["training"]) == 0:
        raise TrainingSetError(f"There are no sequences to train on. {found}. {advice}")
    if 0 in numbers["training"]:
        raise TrainingSetError(
            f"All sequences to train on are of one class. {found}. Inject objects in some of the sequences, "
            "not in all."
        )
    if sum(numbers["validation"]) == 0:
        raise TrainingSetError(f"There are no sequences to validate on. {found}. {advice}")


def _assemble(
    kept: Sequence[Table],
    store: ArrayStore,
    shape: Shape,
    pixel_scale: float,
    records: list[dict[str, Any]],
    counts: collections.Counter[str],
) -> TrainingSet:
    split, injected = _gather(kept, "split"), _gather(kept, "injected")
    for i, name in enumerate(SPLITS):
        counts[f"n_{name}_injected"] = int(np.count_nonzero((split == i) & injected))
        counts[f"n_{name}_clean"] = int(np.count_nonzero((split == i) & ~injected))
    return TrainingSet(
        store=store,
        shape=shape,
        pixel_scale=pixel_scale,
        split=split,
        injected=injected,
        snr=_gather(kept, "snr"),
        n_valid=_gather(kept, "n_valid"),
        sources=records,
        counts=dict(counts),
    )


def _gather(tables: Sequence[Table], name: str) -> np.ndarray:
    return np.concatenate([np.asarray(table[name]) for table in tables])
