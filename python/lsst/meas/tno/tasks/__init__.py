# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PipelineTasks, one a module.

A module is imported when something of it is first asked for: a quantum in a
process of its own needs one of them.
"""

import importlib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compute_ephemerides import *
    from .extract_cutouts import *
    from .find_candidates import *
    from .inject_tnos import *
    from .measure_efficiency import *
    from .score_sequences import *
    from .train_classifier import *
    from .warp_cutouts import *

_TASKS = (
    "ComputeEphemerides",
    "ExtractCutouts",
    "FindCandidates",
    "InjectTnos",
    "MeasureEfficiency",
    "ScoreSequences",
    "TrainClassifier",
    "WarpCutouts",
)

__all__ = [task + part for task in _TASKS for part in ("Config", "Connections", "Task")]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    task = re.sub("(Config|Connections|Task)$", "", name)
    module = re.sub("(?<!^)(?=[A-Z])", "_", task).lower()
    return getattr(importlib.import_module(f".{module}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
