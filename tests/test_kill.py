# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that are killed at random moments, and run again as documented.

For more than three moments, and more than one process::

    TNO_KILLS=20 TNO_PROCESSES=2 pytest tests/test_kill.py
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_builders import (
    assert_consistent,
    assert_equal_contents,
    execute,
    make_survey,
    pipetask_command,
    read_contents,
    serialized,
)

from lsst.daf.butler import Butler

pytestmark = pytest.mark.slow

N_KILLS = int(os.environ.get("TNO_KILLS", "3"))
N_PROCESSES = os.environ.get("TNO_PROCESSES", "1")
REFERENCE = "u/test/reference"
AGAIN = ("--extend-run", "--skip-existing", "--clobber-outputs")


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return make_survey(tmp_path_factory.mktemp("survey") / "repo")


def test_killed_runs_are_completed(survey, capsys):
    process, begin = _start(survey, REFERENCE)
    assert process.wait() == 0
    duration = time.monotonic() - begin
    expected = read_contents(survey, REFERENCE)
    rng = np.random.default_rng()
    states = [_kill(survey, f"u/test/kill{i}", duration * rng.random(), expected) for i in range(N_KILLS)]
    with capsys.disabled():
        print("\ndatasets that killed runs had, of", len(expected), states, end=" ")
    assert any(0 < state < len(expected) for state in states)


def _start(survey, run):
    """Start a run, and return it and when it began to write."""
    command = [
        str(Path(sys.executable).parent / "pipetask"),
        *pipetask_command(survey, run, "-j", N_PROCESSES),
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, start_new_session=True, **quiet)
    while not (survey / run).exists() and process.poll() is None:
        time.sleep(0.01)
    return process, time.monotonic()


def _kill(survey, run, seconds, expected):
    """Kill a run and all its processes, complete it, and return how many
    datasets it had.
    """
    process, begin = _start(survey, run)
    time.sleep(max(begin + seconds - time.monotonic(), 0.0))
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # It was faster than the one before it.
    process.wait()
    Butler.from_config(str(survey), writeable=True).close()  # A reader cannot undo a transaction.
    found = read_contents(survey, run, skip_unreadable=True)
    assert_consistent(found, expected)
    _check_files(survey, run)
    lost = _lost_logs(found, expected)
    assert len(lost) <= int(N_PROCESSES)
    expected = {key: content for key, content in expected.items() if key not in lost}
    result = execute("pipetask", *pipetask_command(survey, run, *AGAIN), status=None)
    assert result.returncode == 0 or (found.keys() == expected.keys() and "empty" in result.stderr)
    assert_equal_contents(read_contents(survey, run), expected)
    return len(found)


def _lost_logs(found, expected):
    """Return the logs of quanta that were killed between their metadata, which
    say that all else is there, and their log.
    """
    return {
        (name, data_id)
        for name, data_id in expected.keys() - found.keys()
        if name.endswith("_log") and (name.removesuffix("_log") + "_metadata", data_id) in found
    }


def _check_files(survey, run):
    """Check all files that have the name of a table, whether the butler knows
    them or not. Their metadata name the run.
    """
    for path in (survey / run).rglob("*.parq"):
        if path.name.endswith(".tmp.parq"):
            continue  # The butler renames it once it is written.
        name = path.name.replace(run.replace("/", "_"), REFERENCE.replace("/", "_"))
        reference = survey / REFERENCE / path.parent.relative_to(survey / run) / name
        try:
            table = pq.read_table(path)
        except pa.ArrowInvalid:
            continue  # Half of it was written, and no one takes it for all.
        tables = (value.replace_schema_metadata() for value in (table, pq.read_table(reference)))
        assert len(set(map(serialized, tables))) == 1, path
