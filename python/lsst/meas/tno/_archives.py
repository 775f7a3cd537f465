# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening of the files that lsst.images writes, wherever they are."""

from __future__ import annotations

__all__ = ("open_image", "read_tile_shape")

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lsst.images import VisitImage
from lsst.images.serialization import ArchiveReadError, open_archive
from lsst.resources import ResourcePath

METADATA_PAGE = 2880 * 50
"""Bytes that are asked of a remote store at a time where only metadata are
read. For pixels, lsst.images asks for 16 times as much.
"""

HEADER_CHUNK, MAX_HEADER = 2880 * 12, 2880 * 1000
"""Bytes of headers to read at a time, and to give up after."""


@contextmanager
def open_image(uri: ResourcePath, *, metadata_only: bool) -> Iterator[tuple[Any, ResourcePath]]:
    """Open an image for partial reads.

    Parameters
    ----------
    uri
        Where it is. What cannot be read in parts there, for want of a file
        system of fsspec, is fetched as a whole.
    metadata_only
        Whether no pixels will be read; it makes no difference to local files.

    Yields
    ------
    reader : `lsst.images.serialization.Reader`
        Reader of the image.
    uri : `lsst.resources.ResourcePath`
        Where it is read from.

    Raises
    ------
    lsst.images.serialization.ArchiveReadError
        Raised if lsst.images did not write it.
    """
    with ExitStack() as stack:
        if not (uri.isLocal or _has_file_system(uri)):
            uri = stack.enter_context(uri.as_local())
        pages: dict[str, Any] = {}
        if metadata_only and not uri.isLocal and uri.getExtension() == ".fits":
            pages["page_size"] = METADATA_PAGE
        try:
            reader = stack.enter_context(open_archive(uri, cls=VisitImage, partial=True, **pages))
        except ArchiveReadError as error:
            raise ArchiveReadError(
                f"{error} If lsst.afw wrote it, the storage class to read it with is ExposureF."
            ) from error
        yield reader, uri


def read_tile_shape(uri: ResourcePath) -> tuple[int, int] | None:
    """Return the shape of the tiles that an image is compressed in.

    Parameters
    ----------
    uri
        Where it is.

    Returns
    -------
    shape : `tuple` [`int`] or `None`
        Height and width of the tiles of the first plane that is compressed;
        `None` if that is not among the first two parts of a FITS file.
    """
    if uri.getExtension() != ".fits":
        return None
    file_system, path = uri.to_fsspec()
    header, n_ends = b"", 0
    while len(header) < MAX_HEADER and n_ends < 2:
        chunk = file_system.cat_file(path, len(header), len(header) + HEADER_CHUNK)
        if not chunk:
            break
        header += chunk
        n_ends = sum(card.startswith(b"END     ") for card in _cards(header))
    values = {card[:8].rstrip(): card[10:].split(b"/")[0].strip() for card in _cards(header)}
    if b"ZTILE1" in values and b"ZTILE2" in values:
        return int(values[b"ZTILE2"]), int(values[b"ZTILE1"])
    return None


def _cards(header: bytes) -> list[bytes]:
    return [header[start : start + 80] for start in range(0, len(header), 80)]


def _has_file_system(uri: ResourcePath) -> bool:
    try:
        uri.to_fsspec()
    except (ImportError, NotImplementedError):
        return False
    return True
