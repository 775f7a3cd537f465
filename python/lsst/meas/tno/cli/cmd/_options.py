# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the definitions of the subcommands share."""

from __future__ import annotations

__all__ = ("collections_option", "complete_collections", "overwrite_option", "subcommand", "where_option")

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import split_arg_string

from lsst.daf.butler.cli.utils import ButlerCommand, split_commas

_STATUS = """\b
Status: 0 if all went well, 1 if not, with one line that says why, 2 if an
option or an argument is wrong.
"""


def subcommand(name: str, *, short_help: str, example: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make a subcommand of ``butler`` of a function.

    Its errors are one line, unless ``--debug`` asks for the traceback, too.

    Parameters
    ----------
    name
        Name of the subcommand.
    short_help
        What ``butler --help`` says of it.
    example
        What ``--help`` ends with.

    Returns
    -------
    decorate : `~collections.abc.Callable`
        Decorator.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def run(*, debug: bool, **kwargs: Any) -> None:
            from .._common import one_line_errors, stopping_in_order

            # That pandas is not installed is nothing that a user must know,
            # and what fails is said in the one line.
            logging.getLogger("lsst.daf.butler._storage_class").setLevel(logging.ERROR)
            logging.getLogger("lsst.daf.butler.direct_butler._direct_butler").setLevel(logging.CRITICAL)
            with one_line_errors(debug), stopping_in_order():
                function(**kwargs)

        command = click.command(
            name=name, cls=ButlerCommand, short_help=short_help, epilog=f"{example}\n\n{_STATUS}"
        )
        return command(click.option("--debug", is_flag=True, help="Show the traceback of an error.")(run))

    return decorate


def complete_collections(context: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the collections that begin as what was typed, after a comma, too.

    Parameters
    ----------
    context
        Context of the command, with the repository.
    param
        The option.
    incomplete
        What was typed.
    """
    from .._common import list_collections, open_butler

    before, comma, last = incomplete.rpartition(",")
    try:
        with open_butler(context.params.get("repo") or _typed_repo(context)) as butler:
            names = list_collections(butler)
    except Exception:
        # Nothing to offer: a message would end up between the user's words.
        return []
    return [before + comma + name for name in names if name.startswith(last)]


def _typed_repo(context: click.Context) -> str:
    """Return the repository that was typed.

    Where an option lacks its value, as while that is completed, click gives no
    arguments at all.
    """
    words = split_arg_string(os.environ["COMP_WORDS"])
    typed = words[words.index(str(context.info_name)) + 1 :]
    return next(word for word in typed if not word.startswith("-"))


def collections_option(*, required: bool = True, help: str) -> Callable[..., Any]:
    """Return the option for the collections to search.

    Parameters
    ----------
    required
        Whether it must be given.
    help
        Help.
    """
    return click.option(
        "-i",
        "--collections",
        metavar="COLLECTION,...",
        multiple=True,
        required=required,
        callback=split_commas,
        shell_complete=complete_collections,
        help=help,
    )


where_option = click.option(
    "-d", "--where", metavar="QUERY", default="", help="Data query, as in \"skymap='NAME' AND tract=0\"."
)

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files that exist.")
