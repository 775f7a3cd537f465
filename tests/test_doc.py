# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation leaves no task out."""

from __future__ import annotations

from pathlib import Path

import pytest

from lsst.meas.tno import tasks
from lsst.pipe.base import Pipeline

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("page", "kind"), [("tasks.rst", "Task"), ("configuration.rst", "Config")])
def test_every_task_has_an_entry(page, kind):
    text = (ROOT / "doc" / page).read_text()
    names = [name for name in tasks.__all__ if name.endswith(kind)]
    assert [name for name in names if f":: lsst.meas.tno.tasks.{name}\n" not in text] == []


def test_every_label_is_named():
    pipeline = Pipeline.from_uri(str(ROOT / "pipelines" / "Tno.yaml"))
    drawing = (ROOT / "doc" / "images" / "data_flow.svg").read_text()
    text = (ROOT / "doc" / "tasks.rst").read_text()
    for label in pipeline.task_labels:
        assert label in text
        assert f">{label}</text>" in drawing
