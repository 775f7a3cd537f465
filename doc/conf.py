# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Configuration of Sphinx."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "meas_tno"
author = "The meas_tno developers"
copyright = author
release = version = version_of("meas-tno")

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "tables_of_the_code"]
exclude_patterns = ["_ext", "_static"]
myst_heading_anchors = 2
default_role = "py:obj"

# Classes list their members once, on their own page.
numpydoc_show_class_members = False
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
# The docstrings add what annotations lack; the signatures stay readable.
autodoc_typehints = "none"

html_theme = "alabaster"
html_theme_options = {
    "description": "Finds slow-moving objects in LSST images.",
    "fixed_sidebar": True,
    "page_width": "1100px",
    "show_powered_by": False,
}
html_sidebars = {"**": ["about.html", "navigation.html", "searchbox.html"]}
html_show_sourcelink = False
# alabaster takes custom.css from here.
html_static_path = ["_static"]
