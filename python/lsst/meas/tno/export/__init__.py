# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Image sequences as files that other tools read."""

from __future__ import annotations

__all__ = (
    "ARRAY_FORMATS",
    "FORMATS",
    "SEQUENCE_FORMATS",
    "DifferentPixelsError",
    "require_zarr",
    "sequence_path",
    "to_arrays",
    "to_fits_cube",
    "to_fits_image",
    "write_arrays",
    "write_sequence",
)

import gzip
import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from .._output import replacing
from .._sequences import ImageSequences
from ..pictures import Marker, animate_sequence, draw_contact_sheet
from ._arrays import require_zarr, to_arrays, write_npz, write_zarr
from ._fits import DifferentPixelsError, to_fits_cube, to_fits_image

SEQUENCE_FORMATS: Mapping[str, str] = {"fits": ".fits", "png": ".png", "gif": ".gif", "tar": ".tar.gz"}
"""Suffix of the formats with a file for each sequence, by name."""

ARRAY_FORMATS: Mapping[str, Callable[[Path, ImageSequences], None]] = {"npz": write_npz, "zarr": write_zarr}
"""What writes the formats with many sequences in one, by name."""

FORMATS = (*SEQUENCE_FORMATS, *ARRAY_FORMATS)
"""Names of all formats."""


def sequence_path(
    folder: Path,
    file_format: str,
    tract: int,
    patch: int,
    sequence_id: int,
    *,
    one_file_per_image: bool = False,
) -> Path:
    """Return the path of a sequence's file.

    Parameters
    ----------
    folder
        Folder that it is in.
    file_format
        Format, of `SEQUENCE_FORMATS`.
    tract, patch, sequence_id
        The sequence.
    one_file_per_image
        Whether it is a folder with a FITS file for each image.
    """
    suffix = "" if one_file_per_image else SEQUENCE_FORMATS[file_format]
    return folder / f"{tract}_{patch}_{sequence_id:06d}{suffix}"


def write_sequence(
    path: Path,
    sequences: ImageSequences,
    row: int,
    *,
    file_format: str,
    markers: Sequence[Marker] = (),
    limits: tuple[float, float] | None = None,
    one_file_per_image: bool = False,
) -> None:
    """Write one sequence. The file, or folder, is complete or is not there.

    Parameters
    ----------
    path
        Path of the file, which is replaced if it exists.
    sequences
        Image sequences.
    row
        Row of the one to write.
    file_format
        Format, of `SEQUENCE_FORMATS`. ``tar`` is a compressed archive with the
        contact sheet, the animation, and a FITS file for each image.
    markers
        Objects to mark in pictures and to list in FITS cubes.
    limits
        Display range of pictures, nJy; robust if `None`.
    one_file_per_image
        Write a folder with a FITS file for each image, and no cube.

    Raises
    ------
    DifferentPixelsError
        Raised if the images are not on the same pixels, and make no cube.
    """
    with replacing(path) as temporary:
        match file_format:
            case "fits" if one_file_per_image:
                temporary.mkdir()
                for name, content in _image_files(sequences, row):
                    (temporary / name).write_bytes(content)
            case "fits":
                to_fits_cube(sequences, row, markers).writeto(temporary)
            case "png":
                temporary.write_bytes(draw_contact_sheet(sequences, row, markers=markers, limits=limits))
            case "gif":
                temporary.write_bytes(animate_sequence(sequences, row, markers=markers, limits=limits))
            case "tar":
                name = path.name.removesuffix(SEQUENCE_FORMATS["tar"])
                _write_archive(temporary, name, sequences, row, markers, limits)
            case _:
                raise ValueError(f"{file_format!r} is none of the formats {', '.join(SEQUENCE_FORMATS)}.")


def write_arrays(path: Path, sequences: ImageSequences, file_format: str) -> None:
    """Write sequences as arrays. The file, or folder, is complete or is not
    there.

    Parameters
    ----------
    path
        Path of the file, which is replaced if it exists.
    sequences
        Image sequences.
    file_format
        Format, of `ARRAY_FORMATS`.
    """
    with replacing(path) as temporary:
        ARRAY_FORMATS[file_format](temporary, sequences)


def _image_files(sequences: ImageSequences, row: int) -> list[tuple[str, bytes]]:
    """Return name and content of a FITS file for each image."""
    files = []
    for number, index in enumerate(np.flatnonzero(sequences.valid[row]).tolist()):
        output = io.BytesIO()
        to_fits_image(sequences, row, index).writeto(output)
        visit, detector = sequences.visit[row, index], sequences.detector[row, index]
        files.append((f"{number:03d}_{visit}_{detector}.fits", output.getvalue()))
    return files


def _write_archive(
    path: Path,
    name: str,
    sequences: ImageSequences,
    row: int,
    markers: Sequence[Marker],
    limits: tuple[float, float] | None,
) -> None:
    """Write all that there is of a sequence to a compressed archive."""
    files = {
        f"{name}.png": draw_contact_sheet(sequences, row, markers=markers, limits=limits),
        f"{name}.gif": animate_sequence(sequences, row, markers=markers, limits=limits),
        **{f"images/{file}": content for file, content in _image_files(sequences, row)},
    }
    output = io.BytesIO()
    # Neither the archive nor gzip knows the time, so that equal sequences give
    # equal bytes.
    with (
        gzip.GzipFile("", "wb", fileobj=output, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        for file, content in files.items():
            member = tarfile.TarInfo(f"{name}/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    # gzip fails again, with a traceback, when it closes a file on a full disk.
    path.write_bytes(output.getvalue())
