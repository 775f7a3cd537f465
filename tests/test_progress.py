# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages that say how far a task is."""

import logging
import time

import pytest

from lsst.meas.tno import _progress
from lsst.meas.tno._progress import log_progress, log_waiting

LOG = logging.getLogger("lsst.meas.tno.test_progress")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a clock that the test sets."""
    now = [100.0]
    monkeypatch.setattr("lsst.utils.logging.time.time", lambda: now[0])
    return now


def test_messages_come_at_intervals(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOG.name)
    interval = _progress.PROGRESS_INTERVAL
    for _ in log_progress(LOG, "Did %d of %d.", range(10), 10):
        clock[0] += 0.4 * interval
    assert caplog.messages == ["Did 3 of 10.", "Did 6 of 10.", "Did 9 of 10."]


def test_batches_count_what_is_in_them(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOG.name)
    for _ in log_progress(LOG, "Did %d of %d.", iter("abc"), 40, size=16):
        clock[0] += 2 * _progress.PROGRESS_INTERVAL
    assert caplog.messages == ["Did 16 of 40.", "Did 32 of 40.", "Did 40 of 40."]


def test_items_that_are_passed_over_count(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOG.name)
    for item in log_progress(LOG, "Did %d of %d.", range(3), 3):
        if item == 1:
            clock[0] += 2 * _progress.PROGRESS_INTERVAL
            continue
    assert caplog.messages == ["Did 2 of 3."]


def test_what_has_no_parts_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOG.name)
    monkeypatch.setattr(_progress, "PROGRESS_INTERVAL", 0.01)
    with log_waiting(LOG, "Compiling"):
        while not caplog.messages:
            time.sleep(0.01)
    assert caplog.messages[0].startswith("Compiling, for ")
    n_messages = len(caplog.messages)
    time.sleep(0.05)
    assert len(caplog.messages) == n_messages
