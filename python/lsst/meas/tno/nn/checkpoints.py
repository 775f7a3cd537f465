# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""States of a training that was interrupted, without pickle."""

from __future__ import annotations

__all__ = ("Checkpoints", "TrainingState")

import dataclasses
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from lsst.utils.logging import LsstLogAdapter

FORMAT_VERSION = 1

PREFIX = "tno-training-"
"""What the names of the files begin with."""


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """What a training needs to go on as if it had not stopped."""

    arrays: dict[str, np.ndarray]
    """Tensors, by name."""

    values: dict[str, Any]
    """JSON data."""


class Checkpoints:
    """The file that keeps the latest state of one training.

    It is a file of `numpy.savez` without objects; the array ``header`` is
    JSON.

    Parameters
    ----------
    directory
        Directory of the file, that other trainings may use too.
    key
        Digest of all that the training depends on, hexadecimal.
    log
        Logger.
    """

    def __init__(self, directory: Path, key: str, log: LsstLogAdapter) -> None:
        self._path = directory / f"{PREFIX}{key[:16]}.npz"
        self._key = key
        self._log = log

    def save(self, state: TrainingState) -> None:
        """Replace the state that is kept, at once or not at all.

        Parameters
        ----------
        state
            State to keep.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        header = json.dumps({"version": FORMAT_VERSION, "key": self._key, "values": state.values})
        arrays = {f"array.{name}": array for name, array in state.arrays.items()}
        part = self._path.with_suffix(".part")
        with open(part, "wb") as stream:
            np.savez(
                stream, allow_pickle=False, header=np.frombuffer(header.encode(), dtype=np.uint8), **arrays
            )
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, self._path)

    def load(self) -> TrainingState | None:
        """Return the state that is kept, or `None` if there is none of this
        training.
        """
        self._report_others()
        if not self._path.exists():
            return None
        try:
            # numpy leaves a file that it cannot read open.
            with open(self._path, "rb") as stream, np.load(stream, allow_pickle=False) as content:
                header = json.loads(content["header"].tobytes())
                if (header["version"], header["key"]) != (FORMAT_VERSION, self._key):
                    self._log.warning("Ignoring %s: it is of another training.", self._path)
                    return None
                names = [name for name in content.files if name != "header"]
                arrays = {name.removeprefix("array."): content[name] for name in names}
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            self._log.warning("Ignoring %s, which is no checkpoint: %s", self._path, error)
            return None
        return TrainingState(arrays, header["values"])

    def remove(self) -> None:
        """Remove the state that is kept."""
        self._path.unlink(missing_ok=True)
        self._path.with_suffix(".part").unlink(missing_ok=True)

    def _report_others(self) -> None:
        others = [path for path in self._path.parent.glob(f"{PREFIX}*.npz") if path != self._path]
        if others:
            self._log.info(
                "Ignoring %d checkpoints in %s: they are of other configurations or other data.",
                len(others),
                self._path.parent,
            )
