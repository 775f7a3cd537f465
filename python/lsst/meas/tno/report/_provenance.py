# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was run, on what, and with which configuration."""

from __future__ import annotations

__all__ = (
    "CollectionContent",
    "Setting",
    "TaskRun",
    "query_datasets",
    "read_collections",
    "read_software",
    "read_task_runs",
)

import dataclasses
import datetime
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._values import format_setting

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef

_PREFIX = "tno_"
"""Prefix of the dataset types of this package."""

_PROVENANCE = ("_config", "_log", "_metadata", "packages")
"""Ends of the dataset types that a run has of its own."""

_MAX_LISTED = 10
"""Dataset types of a collection that are listed."""

_OPTIONAL = (AssertionError, AttributeError, ImportError, OSError, ValueError)
"""Errors of a configuration whose task is another version, or is not
installed.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectionContent:
    """A collection of a chain, and what is in it."""

    name: str
    kind: str
    dataset_types: Sequence[str]
    """Dataset types, those of this package first."""

    n_others: int
    """Number of dataset types that are not listed."""

    is_ours: bool
    """Whether this package wrote to it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A field of a configuration that is not at its default."""

    name: str
    value: str
    default: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskRun:
    """A task that was run."""

    label: str
    task_config: str
    """Name of the class of its configuration."""

    run: str
    n_quanta: int
    begin: str
    """When the first quantum was begun, UTC; empty if it is not known."""

    seconds: float
    """Wall-clock time of all quanta, s."""

    max_memory: float
    """Largest resident set of a quantum, bytes; NaN if it is not known."""

    counts: Mapping[str, str]
    """What the task says of itself, the counts of all quanta added up."""

    changes: Sequence[Setting]
    """Fields that are not at their default."""

    config: str
    """The whole configuration, or why it cannot be read."""


def query_datasets(
    butler: Butler,
    dataset_type: str,
    *,
    where: str = "",
    collections: Sequence[str] | None = None,
) -> list[DatasetRef]:
    """Return the datasets of a type in the order of their data IDs.

    Parameters
    ----------
    butler
        The butler.
    dataset_type
        Name of the dataset type; there need not be one.
    where
        Data query.
    collections
        Collections to search; those of the butler if `None`.
    """
    from lsst.daf.butler import MissingDatasetTypeError

    try:
        refs = butler.query_datasets(
            dataset_type, collections=collections, where=where, explain=False, limit=None
        )
    except MissingDatasetTypeError:
        return []
    return sorted(refs, key=lambda ref: tuple(ref.dataId.required_values))


def read_collections(butler: Butler) -> list[CollectionContent]:
    """Return what is in the collections of the butler, chains flattened.

    Parameters
    ----------
    butler
        The butler.
    """
    infos = butler.collections.query_info(
        list(butler.collections.defaults), flatten_chains=True, include_summary=True
    )
    return [_describe(info) for info in infos]


def _describe(info: Any) -> CollectionContent:
    names = sorted(info.dataset_types or (), key=lambda name: (not name.startswith(_PREFIX), name))
    shown = [name for name in names if not name.endswith(_PROVENANCE)]
    return CollectionContent(
        name=info.name,
        kind=info.type.name,
        dataset_types=shown[:_MAX_LISTED],
        n_others=max(0, len(shown) - _MAX_LISTED),
        # What the ingestion of orbits and the simulation write has no tasks.
        is_ours=any(name.startswith(_PREFIX) for name in names),
    )


def read_task_runs(
    butler: Butler, runs: Sequence[str], advance: Callable[[int, int], None] = lambda done, total: None
) -> list[TaskRun]:
    """Return the tasks of some runs in the order in which they were begun.

    Parameters
    ----------
    butler
        The butler.
    runs
        RUN collections.
    advance
        To be called with how many tasks are read, and of how many.
    """
    found = []
    for info in butler.collections.query_info(list(runs), include_summary=True) if runs else []:
        names = sorted(name for name in info.dataset_types or () if name.endswith("_config"))
        found += [(name, info.name) for name in names]
    tasks = []
    for name, run in found:
        tasks += [_read_task_run(butler, ref) for ref in query_datasets(butler, name, collections=[run])]
        advance(len(tasks), len(found))
    return sorted(tasks, key=lambda task: (task.begin == "", task.begin, task.label))


def _read_task_run(butler: Butler, ref: DatasetRef) -> TaskRun:
    label = ref.datasetType.name.removesuffix("_config")
    refs = query_datasets(butler, f"{label}_metadata", collections=[ref.run])
    quanta = [butler.get(metadata_ref).to_dict() for metadata_ref in refs]
    times = [times for quantum in quanta if (times := _times(quantum)) is not None]
    memory = [value for quantum in quanta if (value := _last(quantum, "endMaxResidentSetSize")) is not None]
    task_config, changes, config = _read_config(butler, ref)
    return TaskRun(
        label=label,
        task_config=task_config,
        run=ref.run,
        n_quanta=len(quanta),
        begin=min((begin for begin, _ in times), default=""),
        seconds=sum(seconds for _, seconds in times),
        max_memory=float(max(memory, default=np.nan)),
        counts=_summarise([quantum.get(label, {}) for quantum in quanta]),
        changes=changes,
        config=config,
    )


def _last(quantum: Mapping[str, Any], name: str) -> Any:
    """Return a value of the execution; the last if there are several."""
    values = quantum.get("quantum", {}).get(name)
    return values[-1] if isinstance(values, list) and values else None


def _times(quantum: Mapping[str, Any]) -> tuple[str, float] | None:
    """Return when a quantum was begun, and how many seconds it took."""
    texts = [_last(quantum, name) for name in ("startUtc", "endUtc")]
    if None in texts:
        return None
    begin, end = (datetime.datetime.fromisoformat(text) for text in texts)
    return begin.strftime("%Y-%m-%d %H:%M:%S"), (end - begin).total_seconds()


def _summarise(quanta: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Add up the counts of quanta; of other values, give what they are."""
    names = dict.fromkeys(name for quantum in quanta for name in quantum)
    summary = {}
    for name in names:
        values = [quantum[name] for quantum in quanta if np.isscalar(quantum.get(name))]
        if not values:
            continue
        if name.startswith(("n_", "left_out")):
            summary[name] = f"{sum(values):,.0f}"
        elif all(isinstance(value, int | float) for value in values) and min(values) != max(values):
            summary[name] = f"{min(values):.4g} to {max(values):.4g}"
        else:
            summary[name] = ", ".join(dict.fromkeys(_to_text(value) for value in values))
    return summary


def _to_text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _read_config(butler: Butler, ref: DatasetRef) -> tuple[str, list[Setting], str]:
    """Return the class of a configuration, what is not at its default, and
    all of it.
    """
    try:
        config = butler.get(ref)
        default = dict(_flatten(type(config)().toDict()))
    except _OPTIONAL as error:
        return "", [], f"The configuration cannot be read: {error}"
    changes = [
        Setting(name=name, value=format_setting(value), default=format_setting(default.get(name)))
        for name, value in _flatten(config.toDict())
        if default.get(name) != value
    ]
    text = io.StringIO()
    config.saveToStream(text)
    return f"{type(config).__module__}.{type(config).__name__}", changes, text.getvalue()


def _flatten(fields: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def read_software(butler: Butler, runs: Sequence[str]) -> dict[str, str]:
    """Return the versions of the software that was used.

    Parameters
    ----------
    butler
        The butler.
    runs
        RUN collections.

    Returns
    -------
    versions : `dict` [`str`, `str`]
        Version of each package, or versions, if the runs' are not the same.
    """
    versions: dict[str, dict[str, None]] = {}
    for run in runs:
        for ref in query_datasets(butler, "packages", collections=[run]):
            for name, version in dict(butler.get(ref)).items():
                versions.setdefault(name, {})[str(version).split(" ")[0]] = None
    return {name: ", ".join(found) for name, found in sorted(versions.items())}
