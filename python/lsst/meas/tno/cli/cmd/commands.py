# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Definitions of the subcommands of ``butler`` that fill a repository."""

from __future__ import annotations

__all__ = ("ingest_tno_orbits", "simulate_tno_survey")

import os
from typing import Any

import click

from lsst.daf.butler.cli.opt import config_file_option, config_option, processes_option, repo_argument
from lsst.daf.butler.cli.utils import split_commas

from ._options import complete_collections, subcommand

_EXAMPLE = """\b
Example, a survey of 24 visits in one band:
  butler simulate-tno-survey REPO -c n_visits=24 -c bands="[r]"
"""


@subcommand(
    "simulate-tno-survey",
    short_help="Make a repository of simulated visits with slowly moving objects.",
    example=_EXAMPLE,
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


_SBDB_CLASSES = ("TNO", "HYA", "PAA", "HYP", "PAR")


def _split_classes(context: click.Context, param: click.Option, values: tuple[str, ...]) -> tuple[str, ...]:
    classes = split_commas(context, param, values)
    if unknown := [name for name in classes if name not in _SBDB_CLASSES]:
        raise click.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(_SBDB_CLASSES)}.")
    return classes


_INGEST_EXAMPLE = """\b
Examples: a file of the Minor Planet Center; all that JPL has of what comes from
far away, saved as files too; and 10000 synthetic orbits:
  butler ingest-tno-orbits REPO Distant.txt
  butler ingest-tno-orbits REPO --sbdb TNO,HYA,PAA,HYP,PAR --run tno/orbits/jpl
  butler ingest-tno-orbits REPO --synthetic 10000 --run tno/orbits/synthetic
\b
Use them with: pipetask run -i tno/orbits,...
"""


@subcommand(
    "ingest-tno-orbits",
    short_help="Write a catalog of orbits of trans-Neptunian objects or comets.",
    example=_INGEST_EXAMPLE,
)
@repo_argument(required=True, help="REPO is the path or URI of a butler repository.")
@click.argument("file", nargs=-1, type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--format",
    "file_format",
    type=click.Choice(("sbdb-json", "sbdb-csv", "mpcorb", "jpl-elements", "table")),
    help="Format of the files, if it is not to be recognised by their content.",
)
@click.option(
    "--sbdb",
    metavar="CLASS,...",
    multiple=True,
    callback=_split_classes,
    help="Query JPL's Small-Body Database for the orbits of classes: TNO, HYA and PAA (hyperbolic and "
    "parabolic asteroids), HYP and PAR (such comets). May be repeated.",
)
@click.option("--synthetic", metavar="N", type=click.IntRange(min=1), help="Draw N synthetic orbits.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of --synthetic.")
@click.option(
    "--run",
    metavar="COLLECTION",
    default="tno/orbits",
    show_default=True,
    shell_complete=complete_collections,
    help="RUN collection to write tno_orbits to; give it to pipetask as an input: -i tno/orbits,...",
)
@click.option("--replace", is_flag=True, help="Replace the catalog of the run, and files that are saved.")
@click.option(
    "--save-dir",
    metavar="FOLDER",
    default=".",
    show_default=True,
    help="Folder in which --sbdb saves JPL's answers (sbdb_CLASS.json) and the whole catalog "
    "(tno_orbits.csv), each of which can be ingested as FILE.",
)
def ingest_tno_orbits(repo: str, file: tuple[str, ...], **kwargs: Any) -> None:  # numpydoc ignore=PR01
    """Write a catalog of orbits to a butler repository, as tno_orbits.

    FILE is a catalog of orbits; several are put together. Its format is
    recognised: JPL's Small-Body Database (answers of its query API, CSV
    exports), JPL's ELEMENTS.COMET, MPCORB lines of the Minor Planet Center,
    or a CSV, ECSV or Parquet table with the columns of tno_orbits. Of objects
    that are there twice the first is kept, and what is no orbit is left out;
    both are reported.
    """
    from ..ingest_orbits import ingest_orbits

    ingest_orbits(repo, file, **kwargs)
