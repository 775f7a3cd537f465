# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages that say how far a task is."""

from __future__ import annotations

__all__ = ("PROGRESS_INTERVAL", "log_progress", "log_waiting")

import contextlib
import threading
import time
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


@contextlib.contextmanager
def log_waiting(log: LsstLoggers, message: str) -> Iterator[None]:
    """Log now and then that something is not done yet, of which no part can
    be counted: numba compiles what it is needed for, for tens of seconds, when
    that is first used.

    Parameters
    ----------
    log
        Logger.
    message
        What is being done.
    """
    begin, done = time.monotonic(), threading.Event()

    def repeat() -> None:
        while not done.wait(PROGRESS_INTERVAL):
            log.info("%s, for %.0f s now.", message, time.monotonic() - begin)

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
