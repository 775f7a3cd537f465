# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trained networks, and the tables that keep them.

A table has one row a tensor; the description stands as JSON in the metadata of
its schema.
"""

from __future__ import annotations

__all__ = (
    "Classifier",
    "ClassifierError",
    "PixelScaleMismatchError",
    "ShapeMismatchError",
    "classifier_from_table",
    "classifier_to_table",
    "describe_classifier",
    "read_description",
)

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from .._progress import log_progress, log_waiting
from .architectures import Architecture, Shape, architectures
from .compute import compute_logits, resolve_device
from .description import METADATA_KEY, ClassifierError, parse_description
from .inputs import PIXEL_SCALE_TOLERANCE, has_usable_pixels, median_pixel_scale

_LOG = logging.getLogger(__name__)

FORMAT_VERSION = 1

SIZES = ("n_times", "height", "width")
"""Keys of the input shape."""

DTYPES = ("float32", "int64")
"""dtypes that tensors may have."""

SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("dtype", pa.string()),
        # Parquet calls the values of a list so.
        ("shape", pa.list_(pa.field("element", pa.int64()))),
        ("data", pa.large_binary()),
    ]
)


class ShapeMismatchError(ValueError):
    """A classifier was not made for sequences of this shape."""


class PixelScaleMismatchError(ValueError):
    """A classifier was not made for sequences of this pixel scale."""


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A trained network."""

    architecture: Architecture
    """What the network is fed."""

    network: nn.Module
    """The network."""

    description: dict[str, Any]
    """JSON data on what the classifier is and what it was made of."""

    @property
    def shape(self) -> Shape:
        """Shape of the sequences that it takes (`tuple` of `int`)."""
        n_times, height, width = (self.description["input_shape"][key] for key in SIZES)
        return n_times, height, width

    @property
    def pixel_scale(self) -> float:
        """Pixel scale of the sequences that it takes, arcsec (`float`)."""
        return self.description["pixel_scale"]

    def check_pixel_scale(self, columns: Mapping[str, np.ndarray]) -> None:
        """Check that the classifier was made for sequences of this pixel
        scale.

        Parameters
        ----------
        columns
            Arrays of `PIXEL_SCALE_COLUMNS`, ``(n, ...)``. Without any valid
            image there is nothing to check.

        Raises
        ------
        PixelScaleMismatchError
            Raised if the median pixel scale of the valid images differs by
            more than `PIXEL_SCALE_TOLERANCE`.
        """
        found = median_pixel_scale(columns)
        if abs(found / self.pixel_scale - 1) > PIXEL_SCALE_TOLERANCE:
            raise PixelScaleMismatchError(
                f"The sequences have pixels of {found:.4f} arcsec, the classifier was made for "
                f"{self.pixel_scale:.4f} arcsec. Train one on sequences of this pixel scale."
            )

    def compute_logits(
        self, columns: Mapping[str, np.ndarray], *, batch_size: int = 32, device: str = "auto"
    ) -> np.ndarray:
        """Return the logits of sequences.

        Parameters
        ----------
        columns
            Arrays of the columns that the architecture names and of
            `PIXEL_COLUMNS`, ``(n, ...)``.
        batch_size
            Number of sequences at a time.
        device
            ``auto``, ``cpu`` or ``cuda``.

        Returns
        -------
        logits : `numpy.ndarray`
            Logits, float32 ``(n,)``; minus infinity for a sequence without any
            usable pixel, in which there is nothing to find.

        Raises
        ------
        ShapeMismatchError
            Raised if the classifier was not made for such sequences.
        ClassifierError
            Raised if the network gives something that is not a finite number.
        """
        shape = columns["image"].shape[1:]
        if shape != self.shape:
            raise ShapeMismatchError(
                f"The sequences have (n_times, height, width) = {shape}, the classifier was made for "
                f"{self.shape}. Train one on sequences of this shape."
            )
        torch_device = resolve_device(device)
        usable = np.flatnonzero(has_usable_pixels(columns))
        encoded = self._encode(columns, usable, batch_size)
        batches = log_progress(_LOG, "Scored %d of %d sequences.", encoded, len(usable), size=batch_size)
        logits = np.full(len(columns["image"]), -np.inf, dtype=np.float32)
        logits[usable] = compute_logits(self.network.to(torch_device), batches, torch_device)
        if n_bad := np.count_nonzero(~np.isfinite(logits[usable])):
            raise ClassifierError(
                f"The classifier gives no finite logit for {n_bad} sequences. Its weights are unusable: "
                "train it again."
            )
        return logits

    def _encode(
        self, columns: Mapping[str, np.ndarray], rows: np.ndarray, batch_size: int
    ) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            # No batch takes that long, but numba may compile for the first.
            with log_waiting(_LOG, "Preparing sequences for the network"):
                arrays = self.architecture.encode(
                    {name: columns[name][batch] for name in self.architecture.columns}
                )
            yield arrays


def describe_classifier(
    name: str,
    architecture: Architecture,
    shape: Shape,
    pixel_scale: float,
    *,
    training: Mapping[str, Any],
    metrics: Mapping[str, Any],
    calibration: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the description of a classifier, as JSON data.

    Parameters
    ----------
    name
        Name of the architecture in the registry.
    architecture
        The architecture.
    shape
        Shape of the sequences that it takes.
    pixel_scale
        Pixel scale of the sequences that it takes, arcsec.
    training
        How it was trained, and on what.
    metrics
        How well it does.
    calibration
        What its logits mean, `ScoreCalibration.to_json`.
    """
    return {
        "format_version": FORMAT_VERSION,
        "architecture": {"name": name, "config": architecture.config.toDict()},
        "input_shape": dict(zip(SIZES, shape, strict=True)),
        "pixel_scale": pixel_scale,
        "inputs": dict(architecture.inputs),
        "normalisation": architecture.describe_normalisation(),
        "training": dict(training),
        "calibration": None if calibration is None else dict(calibration),
        "metrics": dict(metrics),
    }


def classifier_to_table(classifier: Classifier) -> pa.Table:
    """Return the table that keeps a classifier.

    Parameters
    ----------
    classifier
        The classifier. Equal ones give equal tables.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous().numpy()
        for name, tensor in classifier.network.state_dict().items()
    }
    description = json.dumps(classifier.description, sort_keys=True, allow_nan=False)
    return pa.Table.from_pydict(
        {
            "name": list(tensors),
            "dtype": [str(array.dtype) for array in tensors.values()],
            "shape": [list(array.shape) for array in tensors.values()],
            "data": [_to_bytes(array) for array in tensors.values()],
        },
        schema=SCHEMA.with_metadata({METADATA_KEY: description.encode()}),
    )


def classifier_from_table(table: pa.Table) -> Classifier:
    """Return the classifier that a table keeps.

    Parameters
    ----------
    table
        Table of `classifier_to_table`.

    Raises
    ------
    ClassifierError
        Raised if the table holds no classifier, one of another version, or not
        all of it.
    """
    description = read_description(table)
    _check_pixel_scale(description)
    architecture, shape = _read_architecture(description)
    network = architecture.build(shape)
    rows = table.to_pylist()
    found = {row["name"]: row for row in rows}
    if len(found) != len(rows):
        raise ClassifierError("The classifier has several tensors of one name.")
    expected = network.state_dict()
    if missing := [name for name in expected if name not in found]:
        raise ClassifierError(f"The classifier is truncated: the tensors {missing} are missing.")
    if unexpected := [name for name in found if name not in expected]:
        raise ClassifierError(
            f"The tensors {unexpected} do not belong to the architecture "
            f"{description['architecture']['name']!r}."
        )
    tensors = {name: _read_tensor(found[name], tuple(tensor.shape)) for name, tensor in expected.items()}
    network.load_state_dict(tensors)
    network.eval()
    return Classifier(architecture, network, description)


def read_description(table: pa.Table) -> dict[str, Any]:
    """Return the description of the classifier that a table keeps.

    Parameters
    ----------
    table
        Table of `classifier_to_table`.

    Raises
    ------
    ClassifierError
        Raised if the table holds no classifier, or one of another version.
    """
    description = parse_description(table.schema)
    if not table.schema.equals(SCHEMA):
        columns = [f"{field.name} ({field.type})" for field in table.schema]
        raise ClassifierError(f"The table holds no classifier of meas_tno: it has the columns {columns}.")
    if any(column.null_count for column in table.columns):
        raise ClassifierError("The classifier is truncated: its table has nulls.")
    version = description.get("format_version") if isinstance(description, dict) else None
    if version != FORMAT_VERSION:
        raise ClassifierError(
            f"The classifier has format version {version}, this version of meas_tno reads {FORMAT_VERSION}. "
            "Use the version of meas_tno that it was trained with, or train it again."
        )
    return description


def _to_bytes(array: np.ndarray) -> bytes:
    if str(array.dtype) not in DTYPES:
        raise TypeError(f"Tensors of dtype {array.dtype} are not supported, only {DTYPES}.")
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def _check_pixel_scale(description: Mapping[str, Any]) -> None:
    pixel_scale = description.get("pixel_scale")
    if not isinstance(pixel_scale, float) or not 0 < pixel_scale < float("inf"):
        raise ClassifierError(
            f"The description of the classifier has pixel_scale={pixel_scale!r}, not a size in arcsec. Train "
            "it again."
        )


def _read_architecture(description: Mapping[str, Any]) -> tuple[Architecture, Shape]:
    try:
        name = description["architecture"]["name"]
        fields = description["architecture"]["config"]
        n_times, height, width = (description["input_shape"][key] for key in SIZES)
    except (KeyError, TypeError) as error:
        raise ClassifierError(f"The description of the classifier lacks {error}.") from error
    if not all(type(size) is int and size > 0 for size in (n_times, height, width)):
        raise ClassifierError(
            f"The description of the classifier has the input shape {description['input_shape']}, which is "
            "no number of images and pixels."
        )
    if name not in list(architectures):
        raise ClassifierError(
            f"The classifier has the architecture {name!r}, which is not among {sorted(architectures)}. "
            "Import the module that defines it."
        )
    config = architectures[name].ConfigClass()
    try:
        config.update(**fields)
        config.validate()
    except (KeyError, TypeError, ValueError) as error:
        raise ClassifierError(
            f"The description of the classifier does not fit the architecture {name!r}: {error}"
        ) from error
    architecture = architectures[name](config)
    if (fed := description.get("normalisation")) != architecture.describe_normalisation():
        raise ClassifierError(
            f"The classifier was made when the architecture {name!r} was fed with {fed}; in this version of "
            f"meas_tno it is fed otherwise, {architecture.describe_normalisation()}. Train it again."
        )
    return architecture, (n_times, height, width)


def _read_tensor(row: Mapping[str, Any], shape: tuple[int, ...]) -> torch.Tensor:
    name = row["name"]
    if row["dtype"] not in DTYPES:
        raise ClassifierError(f"Tensor {name!r} has dtype {row['dtype']!r}, not one of {DTYPES}.")
    if tuple(row["shape"]) != shape:
        raise ClassifierError(f"Tensor {name!r} has shape {tuple(row['shape'])}, not {shape}.")
    dtype = np.dtype(row["dtype"]).newbyteorder("<")
    n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(row["data"]) != n_bytes:
        raise ClassifierError(
            f"The classifier is truncated: tensor {name!r} has {len(row['data'])} bytes, not {n_bytes}."
        )
    array = np.frombuffer(row["data"], dtype=dtype).astype(dtype.newbyteorder("="))
    if not np.all(np.isfinite(array)):
        raise ClassifierError(f"Tensor {name!r} has values that are not finite numbers. Train it again.")
    return torch.from_numpy(array.reshape(shape))
