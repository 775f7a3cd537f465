# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Definition of the subcommand of ``butler`` that reports on a search."""

from __future__ import annotations

__all__ = ("report_tno_search",)

from typing import Any

import click

from lsst.daf.butler.cli.opt import repo_argument

from ._options import complete_collections, overwrite_option, subcommand, where_option

_EXAMPLE = """\b
Examples: the search of a collection; and pictures of the 50 best candidates of
one tract:
  butler report-tno-search REPO u/someone/tno -o report.html
  butler report-tno-search REPO u/someone/tno -o tract.html --limit 50 \\
    -d "skymap='NAME' AND tract=4"
"""


def _split_collections(context: click.Context, param: click.Parameter, value: str) -> list[str]:
    return value.split(",")


@subcommand(
    "report-tno-search",
    short_help="Write a search as one HTML page: what was found, by what, and how well.",
    example=_EXAMPLE,
)
@repo_argument(required=True, help="REPO is the path, URI or alias of a butler repository.")
@click.argument("collection", callback=_split_collections, shell_complete=complete_collections)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(),
    default="report.html",
    show_default=True,
    help="Page to write.",
)
@where_option
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Show pictures of the N candidates of the highest logit; about 1.5 MB each.",
)
@click.option(
    "--max-rows",
    metavar="N",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="List no more than the N candidates of the highest logit.",
)
@click.option(
    "--match/--no-match",
    default=True,
    show_default=True,
    help="Name the known objects among the candidates, from tno_orbits.",
)
@click.option(
    "--match-radius",
    metavar="ARCSEC",
    type=click.FloatRange(min=0.0, min_open=True),
    default=5.0,
    show_default=True,
    help="How far from where it is predicted a known object may be.",
)
@overwrite_option
def report_tno_search(repo: str, **kwargs: Any) -> None:  # numpydoc ignore=PR01
    """Write what was searched in COLLECTION, and what was found, to a page.

    COLLECTION is that of the search; several are separated by commas. The
    page has the candidates, the best of them with an animation, mean images
    and a light curve; a map of the sky; how the classifier was trained, and
    how much it finds; the data, and the configuration of all tasks. It can be
    sent to others, and read without a network.
    """
    from ..report_search import report_search

    report_search(repo, **kwargs)
