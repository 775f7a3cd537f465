# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages that say how far a task is."""

from __future__ import annotations

__all__ = ("PROGRESS_INTERVAL", "log_progress")

from collections.abc import Iterable, Iterator

from lsst.utils.logging import LsstLoggers, PeriodicLogger

PROGRESS_INTERVAL = 5.0
"""Seconds between messages. The parts of what takes long are no longer than
that, so that one message is at most 10 s after another.
"""


def log_progress[T](
    log: LsstLoggers, message: str, items: Iterable[T], total: int, *, size: int = 1
) -> Iterator[T]:
    """Iterate, and log now and then how much is done.

    Parameters
    ----------
    log
        Logger.
    message
        Message, with two ``%d``: how many are done, and of how many.
    items
        What to iterate over.
    total
        How many there are.
    size
        How many each item is, all but the last.

    Yields
    ------
    item
        Each of the items.
    """
    progress = PeriodicLogger(log, interval=PROGRESS_INTERVAL)
    for n_items, item in enumerate(items, start=1):
        yield item
        progress.log(message, min(n_items * size, total), total)
