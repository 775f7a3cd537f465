# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Definitions of the subcommands of ``butler`` that take something out of a
repository.
"""

from __future__ import annotations

__all__ = ("export_tno_candidates", "export_tno_sequences", "list_tno_classifiers")

from typing import Any

import click

from lsst.daf.butler.cli.opt import repo_argument

from ._options import collections_option, overwrite_option, subcommand, where_option

_repo = repo_argument(required=True, help="REPO is the path, URI or alias of a butler repository.")

_SEQUENCES_EXAMPLE = """\b
Examples: animations of the ten best candidates; all sequences of a patch as FITS
cubes; and arrays for machine learning:
  butler export-tno-sequences REPO gif -i u/someone/tno --format gif \\
    --select candidates --limit 10
  butler export-tno-sequences REPO cubes -i u/someone/tno \\
    -d "skymap='NAME' AND tract=0 AND patch=4"
  butler export-tno-sequences REPO arrays -i u/someone/tno --format npz \\
    --dataset-type tno_sequences_injected
"""


@subcommand(
    "export-tno-sequences",
    short_help="Write image sequences to FITS files, pictures, animations or arrays.",
    example=_SEQUENCES_EXAMPLE,
)
@_repo
@click.argument("out", type=click.Path(file_okay=False))
@collections_option(help="Collections to search, first to last.")
@click.option(
    "--dataset-type",
    metavar="NAME",
    default="tno_sequences",
    show_default=True,
    help="Dataset type of the sequences: tno_sequences, tno_sequences_injected, tno_cutouts or "
    "tno_cutouts_injected, unless the pipeline called them otherwise.",
)
@where_option
@click.option(
    "--format",
    "file_format",
    type=click.Choice(("fits", "png", "gif", "tar", "npz", "zarr")),
    default="fits",
    show_default=True,
    help="fits: a cube each, with variance, mask, PSF and a table of the images. png: all images on a sheet. "
    "gif: an animation. tar: sheet, animation and a FITS file for each image, compressed. npz, zarr: the "
    "columns of the table as arrays, one file a patch; zarr needs the package of that name.",
)
@click.option(
    "--select",
    type=click.Choice(("all", "injected", "candidates")),
    default="all",
    show_default=True,
    help="Sequences to write: those with an injected object, or those of candidates, each object once.",
)
@click.option(
    "--sequence-id", metavar="ID", type=int, multiple=True, help="Sequence to write; may be repeated."
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    help="Write no more than N sequences: the first, or the candidates of the highest logit.",
)
@click.option("--one-file-per-image", is_flag=True, help="Write a folder of FITS images instead of a cube.")
@click.option(
    "--range",
    "display_range",
    metavar="LOW HIGH",
    type=float,
    nargs=2,
    help="Values that are white and black in pictures, nJy; otherwise those around the noise.",
)
@overwrite_option
def export_tno_sequences(repo: str, out: str, **kwargs: Any) -> None:  # numpydoc ignore=PR01
    """Write image sequences to files in the folder OUT.

    The files are called TRACT_PATCH_SEQUENCE; those that exist are kept.
    Injected objects are marked in pictures by a red circle, and candidates of
    the same collections by a blue one.
    """
    from ..export_sequences import export_sequences

    export_sequences(repo, out, **kwargs)


_CANDIDATES_EXAMPLE = """\b
Examples: a table; and astrometry for the Minor Planet Center, each position
measured in ten images:
  butler export-tno-candidates REPO candidates.ecsv -i u/someone/tno
  butler export-tno-candidates REPO candidates.psv -i u/someone/tno \\
    --submitter "A. Someone" --stack 10
"""


@subcommand(
    "export-tno-candidates",
    short_help="Write candidates to a table, or as astrometry for the Minor Planet Center.",
    example=_CANDIDATES_EXAMPLE,
)
@_repo
@click.argument("out", type=click.Path())
@collections_option(help="Collections to search, first to last.")
@click.option(
    "--dataset-type",
    metavar="NAME",
    default="tno_candidates",
    show_default=True,
    help="Dataset type of the candidates.",
)
@where_option
@click.option(
    "--format",
    "file_format",
    type=click.Choice(("psv", "ecsv", "votable", "parquet")),
    help="psv is that of the Minor Planet Center (ADES). By default the suffix of OUT says it: .psv, .ecsv, "
    ".vot or .xml, .parquet.",
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    help="Write the N candidates of the highest logit only.",
)
@click.option("--min-logit", metavar="LOGIT", type=float, help="Write those of this logit or more only.")
@click.option(
    "--match/--no-match",
    default=True,
    show_default=True,
    help="Name the known objects among them, from tno_orbits.",
)
@click.option(
    "--orbits",
    metavar="COLLECTION",
    help="Collection of tno_orbits, if it is not among --collections.",
)
@click.option(
    "--match-radius",
    metavar="ARCSEC",
    type=click.FloatRange(min=0.0, min_open=True),
    default=5.0,
    show_default=True,
    help="How far from where it is predicted a known object may be.",
)
@click.option(
    "--stack",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="psv: number of images of one band that a position is measured in.",
)
@click.option("--submitter", metavar="NAME", help='psv: who sends them in, as in "A. Someone"; needed.')
@click.option("--institution", metavar="NAME", default="", help="psv: institution of the submitter.")
@click.option(
    "--measurer", metavar="NAME", multiple=True, help="psv: who measured; the submitter, if not given."
)
@click.option("--observer", metavar="NAME", multiple=True, help="psv: who observed.")
@click.option(
    "--station",
    metavar="CODE",
    default="X05",
    show_default=True,
    help="psv: code of the observatory. Telescope and bands are Rubin's, whatever it is.",
)
@click.option(
    "--catalog",
    metavar="CODE",
    default="Gaia3",
    show_default=True,
    help="psv: code of the catalog that the astrometry is from.",
)
@overwrite_option
def export_tno_candidates(repo: str, out: str, **kwargs: Any) -> None:  # numpydoc ignore=PR01
    """Write candidates to the file OUT, each object once, the best first.

    In a table, known_name is the object of tno_orbits that a candidate is
    nearest to, if that is predicted to be there and to move like it.

    For the Minor Planet Center (psv), positions are measured in single images.
    Their errors are those of the noise; the astrometry of the images has its
    own.
    """
    from ..export_candidates import export_candidates

    export_candidates(repo, out, **kwargs)


_CLASSIFIERS_EXAMPLE = """\b
Examples: all of a repository; and everything that is known of one:
  butler list-tno-classifiers REPO
  butler list-tno-classifiers REPO -i u/someone/tno --json
"""


@subcommand(
    "list-tno-classifiers",
    short_help="List the trained classifiers of a repository.",
    example=_CLASSIFIERS_EXAMPLE,
)
@_repo
@collections_option(required=False, help="Collections to search; all by default.")
@click.option("--json", "as_json", is_flag=True, help="Print all that is known of them, as JSON.")
def list_tno_classifiers(repo: str, **kwargs: Any) -> None:  # numpydoc ignore=PR01
    """List trained classifiers: the run that each is in, its architecture,
    the images, pixels and pixel scale of the sequences that it takes, how many
    it was trained on, and the area under its ROC curve on the test split.
    """
    from ..list_classifiers import list_classifiers

    list_classifiers(repo, **kwargs)
