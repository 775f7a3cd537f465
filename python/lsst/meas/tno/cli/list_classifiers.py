# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``butler list-tno-classifiers`` does."""

from __future__ import annotations

__all__ = ("list_classifiers",)

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ._common import describe_error, open_butler

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef

DATASET_TYPE = "tno_classifier"

_TITLES = ("run", "architecture", "images", "pixels", "arcsec", "trained on", "ROC area")


def list_classifiers(repo: str, *, collections: Sequence[str], as_json: bool) -> None:
    """Print the classifiers of a repository.

    Parameters
    ----------
    repo
        Path, URI or alias of the repository.
    collections
        Collections to search; all if empty.
    as_json
        Print all that is known of them, as JSON.

    Raises
    ------
    click.ClickException
        Raised if there are none.
    """
    with open_butler(repo, collections=collections) as butler:
        refs = _find(butler, collections)
        if not refs:
            place = ", ".join(collections) or repo
            raise click.ClickException(f"There is no {DATASET_TYPE} in {place}.")
        described = [{"run": ref.run, "id": str(ref.id), **_describe(butler, ref)} for ref in refs]
    click.echo(json.dumps(described, indent=2) if as_json else _to_text(described))


def _find(butler: Butler, collections: Sequence[str]) -> list[DatasetRef]:
    from lsst.daf.butler import MissingDatasetTypeError

    try:
        refs = butler.query_datasets(
            DATASET_TYPE, collections=list(collections) or "*", find_first=False, explain=False, limit=None
        )
    except MissingDatasetTypeError:
        return []
    return sorted(refs, key=lambda ref: ref.run)


def _describe(butler: Butler, ref: DatasetRef) -> dict[str, Any]:
    """Return what is known of a classifier, or what is wrong with it.

    The tensors are not read, and torch is not loaded.
    """
    from ..nn.description import parse_description

    try:
        return parse_description(butler.get(ref.makeComponentRef("schema")))
    except (OSError, ValueError) as error:
        return {"error": describe_error(error)}


def _to_text(described: Sequence[Mapping[str, Any]]) -> str:
    rows: list[tuple[str, ...]] = [_TITLES]
    rows += [_to_row(classifier) for classifier in described]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _to_row(classifier: Mapping[str, Any]) -> tuple[str, ...]:
    if "error" in classifier:
        return (classifier["run"], f"cannot be read: {classifier['error']}", *[""] * 5)
    shape, counts = classifier["input_shape"], classifier["training"].get("counts", {})
    n_training = sum(counts.get(f"n_training_{kind}", 0) for kind in ("clean", "injected"))
    area = classifier["metrics"].get("test", {}).get("all", {}).get("roc_area")
    return (
        classifier["run"],
        classifier["architecture"]["name"],
        str(shape["n_times"]),
        f"{shape['width']} x {shape['height']}",
        f"{classifier['pixel_scale']:.3g}",
        str(n_training or "?"),
        "?" if area is None else f"{area:.4f}",
    )
