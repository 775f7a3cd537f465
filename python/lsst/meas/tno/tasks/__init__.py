# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PipelineTasks, one a module.

A module is imported when something of it is first asked for: a quantum in a
process of its own needs one of them.

With the variable `PRELOAD` of the environment, the server that Python's
multiprocessing forks processes from (``pipetask --start-method forkserver``)
imports all of them, and what executes quanta, once and for all.
"""

import importlib
import multiprocessing
import os
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

PRELOAD = "MEAS_TNO_PRELOAD"
"""Variable of the environment that says whether to preload: any text but none.
It is not the default, since it is for all processes that are forked so.
"""

__all__ = [task + part for task in _TASKS for part in ("Config", "Connections", "Task")]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    task = re.sub("(Config|Connections|Task)$", "", name)
    return getattr(importlib.import_module(f".{_module_name(task)}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _module_name(task: str) -> str:
    return re.sub("(?<!^)(?=[A-Z])", "_", task).lower()


if os.environ.get(PRELOAD):
    multiprocessing.set_forkserver_preload(
        [
            "lsst.ctrl.mpexec.cli.pipetask",
            "lsst.daf.butler.direct_butler",
            *(f"{__name__}.{_module_name(task)}" for task in _TASKS),
        ]
    )
