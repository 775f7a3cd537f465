# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The notebook runs, and shows what it says."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).parents[1] / "doc" / "notebooks" / "tutorial.ipynb"
EXPECTED_ROC_AREA = 0.85
N_PICTURES = 5


@pytest.fixture(scope="module")
def outputs():
    """Run the notebook, and return what its cells put out."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def test_objects_are_told_from_none(outputs):
    text = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    assert float(re.search(r"ROC area ([0-9.]+)", text)[1]) > EXPECTED_ROC_AREA


def test_pictures_are_shown(outputs):
    n_pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    assert n_pictures == N_PICTURES


def test_the_notebook_is_kept_without_outputs():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert not any(cell.get("outputs") for cell in cells)
