# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measuring of CPU time, and tables of what was measured."""

from __future__ import annotations

__all__ = ("cpu_times", "format_table")

import time
from collections.abc import Callable, Mapping, Sequence


def cpu_times(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the CPU time that each of some calls takes at least, s.

    They take turns, so that whatever slows the machine down slows all.

    Parameters
    ----------
    calls
        What to call, by name.
    repeats
        How often. What takes more than 10 s is called once.
    """
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            if 10.0 < best[name] < float("inf"):
                continue
            begin = time.process_time()
            call()
            best[name] = min(best[name], time.process_time() - begin)
    return best


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table, its first column on the left and others on the right.

    Parameters
    ----------
    header
        Names of the columns.
    rows
        Their values.
    """
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, ["-" * width for width in widths], *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)
