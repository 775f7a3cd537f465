# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the subcommands share: errors, the repository, and progress."""

from __future__ import annotations

__all__ = (
    "describe_error",
    "find_datasets",
    "list_collections",
    "one_line_errors",
    "open_butler",
    "show_progress",
    "stopping_in_order",
)

import contextlib
import logging
import shlex
import signal
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef

_MAX_LISTED = 8
"""Collections that are listed where one does not exist."""


@contextlib.contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """Turn every error into one line and an exit status that is not 0.

    Parameters
    ----------
    debug
        Print the traceback first.

    Raises
    ------
    click.ClickException
        Raised for any other exception.
    """
    try:
        yield
    except (click.exceptions.Exit, click.Abort):
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, click.ClickException):
            raise
        raise click.ClickException(describe_error(error)) from error


@contextlib.contextmanager
def stopping_in_order() -> Iterator[None]:
    """Let SIGTERM, by which batch systems end what they run, do what Ctrl-C
    does, so that nothing half-written stays behind.
    """
    is_default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not is_default or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def describe_error(error: BaseException) -> str:
    """Return one line about an error.

    Parameters
    ----------
    error
        The error. Those that a user can do nothing about get the name of
        their type, too.
    """
    from lsst.daf.butler import ButlerUserError, FileIntegrityError
    from lsst.daf.butler.registry import ConflictingDefinitionError

    # What the butler could not write for lack of space is a RuntimeError.
    if type(error) is RuntimeError and isinstance(error.__cause__, OSError):
        error = error.__cause__
    # SQLAlchemy adds the statement and a link to its own manual.
    error = getattr(error, "orig", None) or error
    # A KeyError puts its message in quotes.
    is_quoted = isinstance(error, KeyError) and error.args
    message = " ".join(str(error.args[0] if is_quoted else error).split())
    if isinstance(error, OSError) and error.strerror and error.filename:
        message = f"{error.filename}: {error.strerror}."
    elif isinstance(error, OSError) and error.strerror:
        message = f"{error.strerror}."
    from_butler = (ButlerUserError, ConflictingDefinitionError, FileIntegrityError)
    expected = (*from_butler, ImportError, OSError, ValueError, sqlite3.Error)
    is_ours = type(error).__module__.startswith("lsst.meas.tno.")
    if (is_ours or isinstance(error, expected)) and message:
        return message
    return f"{type(error).__name__}: {message or 'no message'} (--debug shows where)"


@contextlib.contextmanager
def open_butler(repo: str, *, writeable: bool = False, collections: Sequence[str] = ()) -> Iterator[Butler]:
    """Open a repository, and its collections if they exist.

    Parameters
    ----------
    repo
        Path, URI or alias of the repository.
    writeable
        Whether it is to be written to.
    collections
        Collections to search.

    Yields
    ------
    butler : `lsst.daf.butler.Butler`
        The butler.
    """
    from lsst.daf.butler import Butler

    try:
        butler = Butler.from_config(repo, writeable=writeable)
    except FileNotFoundError as error:
        message = f"{repo} is no butler repository, or it does not exist."
        raise click.ClickException(message) from error
    except Exception as error:
        if getattr(getattr(error, "orig", None), "sqlite_errorname", None) == "SQLITE_READONLY_ROLLBACK":
            code = f"from lsst.daf.butler import Butler; Butler.from_config({repo!r}, writeable=True)"
            reason = (
                "a process was killed while it wrote to the database, and what it began must be undone. "
                f"Open it for writing once: python -c {shlex.quote(code)}"
            )
        else:
            reason = describe_error(error)
        raise click.ClickException(f"{repo} cannot be opened as a butler repository: {reason}") from error
    with butler:
        if not collections:
            yield butler
            return
        existing = list_collections(butler)
        if unknown := [name for name in collections if name not in existing]:
            listed = ", ".join(existing[:_MAX_LISTED]) or "none"
            more = f" and {len(existing) - _MAX_LISTED} more" if len(existing) > _MAX_LISTED else ""
            raise click.ClickException(
                f"{repo} has no collection {', '.join(unknown)}; it has {listed}{more}."
            )
        yield butler.clone(collections=list(collections), inferDefaults=False)


def list_collections(butler: Butler) -> list[str]:
    """Return the names of all collections, CHAINED ones first.

    Parameters
    ----------
    butler
        The butler.
    """
    from lsst.daf.butler import CollectionType

    infos = butler.collections.query_info("*")
    infos = sorted(infos, key=lambda info: (info.type is not CollectionType.CHAINED, info.name))
    return [info.name for info in infos]


def find_datasets(butler: Butler, dataset_type: str, where: str = "") -> list[DatasetRef]:
    """Return the datasets of a type in the butler's collections.

    Parameters
    ----------
    butler
        The butler.
    dataset_type
        Name of the dataset type.
    where
        Data query.

    Returns
    -------
    refs : `list` [`lsst.daf.butler.DatasetRef`]
        The datasets, in the order of their data IDs; at least one.

    Raises
    ------
    click.ClickException
        Raised if there are none, they are no tables of patches, or the patches
        are of several skymaps.
    """
    from lsst.daf.butler import MissingDatasetTypeError

    with contextlib.suppress(MissingDatasetTypeError):
        definition = butler.get_dataset_type(dataset_type)
        if definition.storageClass_name != "ArrowAstropy" or "patch" not in definition.dimensions:
            raise click.ClickException(f"{dataset_type} is no table of a patch of the sky.")
        if refs := butler.query_datasets(dataset_type, where=where, explain=False, limit=None):
            skymaps = sorted({str(ref.dataId["skymap"]) for ref in refs})
            if len(skymaps) > 1:
                names = ", ".join(skymaps)
                raise click.ClickException(
                    f"There is {dataset_type} of several skymaps, {names}; choose one by --where."
                )
            return sorted(refs, key=lambda ref: tuple(ref.dataId.required_values))
    queried = f" for {where}" if where else ""
    collections = ", ".join(butler.collections.defaults)
    raise click.ClickException(f"There is no {dataset_type} in {collections}{queried}.")


@contextlib.contextmanager
def show_progress(title: str, unit: str, log: logging.Logger) -> Iterator[Callable[[int, int], None]]:
    """Show how far something is: a bar on a terminal, else messages.

    Parameters
    ----------
    title
        What is done, as in ``Drawing visits``.
    unit
        What is counted, as in ``visit``.
    log
        Logger of the messages.

    Yields
    ------
    advance : `~collections.abc.Callable`
        To be called with how many are done, and of how many.
    """
    if not sys.stderr.isatty():
        from lsst.utils.logging import PeriodicLogger

        from .._progress import PROGRESS_INTERVAL

        log.info("%s: begun.", title)
        logger = PeriodicLogger(log, interval=PROGRESS_INTERVAL)

        def log_progress(done: int, total: int) -> None:
            logger.log("%s: %d of %d.", title, done, total)

        yield log_progress
        return
    from tqdm import tqdm

    with tqdm(desc=title, unit=f" {unit}") as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance
