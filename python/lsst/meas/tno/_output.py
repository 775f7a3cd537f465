# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are either there as a whole, or not at all."""

from __future__ import annotations

__all__ = ("filling_folder", "making_folder", "replacing")

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write a file or a folder to, and give it its
    name once it is complete. If that fails, nothing of it stays behind.

    Parameters
    ----------
    path
        Path that the file or folder is to have. What has it now is replaced;
        of a link, what it leads to.

    Yields
    ------
    temporary : `pathlib.Path`
        Path of the same name in a temporary folder beside it.

    Raises
    ------
    FileExistsError
        Raised if it is neither a file nor a folder, but a device or a pipe.
    """
    target = path.resolve()
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise FileExistsError(errno.EEXIST, "It exists, and is no regular file", str(path))
    try:
        directory = tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent)
    except OSError as error:
        # It would name a file that nobody knows.
        raise type(error)(error.errno, error.strerror, str(path)) from error
    with directory as folder:
        temporary = Path(folder, path.name)
        try:
            yield temporary
        except OSError as error:
            # A full disk names no file, other errors the temporary one.
            is_full = error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            if is_full or Path(str(error.filename)).is_relative_to(folder):
                error.filename = str(path)
            raise
        if target.is_dir():
            shutil.rmtree(target)
        temporary.replace(target)


@contextlib.contextmanager
def making_folder(path: Path) -> Iterator[None]:
    """Make a folder, and remove it again if it was made for nothing.

    Parameters
    ----------
    path
        Path of the folder; those that it is in are made, too.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            # Only folders that are empty can be removed like this.
            for folder in made:
                folder.rmdir()


@contextlib.contextmanager
def filling_folder(path: Path) -> Iterator[None]:
    """Fill a folder that is empty, and empty it again if that fails.

    Parameters
    ----------
    path
        Path of the folder, which may be a link or where a disk is mounted.

    Raises
    ------
    PermissionError
        Raised if nothing can be written there.
    """
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    try:
        yield
    except BaseException:
        for child in path.iterdir():
            if child.is_dir():
                shutil.rmtree(child)
            else:
                child.unlink()
        raise
