# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Definitions of the subcommands of ``butler``."""

from __future__ import annotations

__all__ = ("simulate_tno_survey",)

import os
from typing import Any

import click

from lsst.daf.butler.cli.opt import config_file_option, config_option, processes_option, repo_argument
from lsst.daf.butler.cli.utils import ButlerCommand

_EXAMPLE = """\b
Example, a survey of 24 visits in one band:
  butler simulate-tno-survey REPO -c n_visits=24 -c bands="[r]"
"""


@click.command(
    name="simulate-tno-survey",
    short_help="Make a repository of simulated visits with slowly moving objects.",
    cls=ButlerCommand,
    epilog=_EXAMPLE,
)
@repo_argument(
    required=True,
    help="REPO is the path or URI of the butler repository to write to; it is made if it does not exist.",
)
@config_option(help="Override of a field of lsst.meas.tno.simulation.SimulateSurveyConfig; may be repeated.")
@config_file_option(help="Path or URI of a file of overrides, applied before those of --config.")
@processes_option(
    default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    show_default=True,
    help="Number of processes to draw images in; the images do not depend on it.",
)
def simulate_tno_survey(**kwargs: Any) -> None:  # numpydoc ignore=PR01
    """Simulate a small survey of one field into a butler repository.

    It has visit images and difference images of one scene of stars and
    galaxies, a skymap, and moving objects with their true positions. The
    default is 96 visits of 30 s in one night, as Rubin observes a deep
    drilling field.
    """
    from ..simulate import simulate

    simulate(**kwargs)
