# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The data model: image sequences of one piece of sky each."""

from __future__ import annotations

__all__ = ("BANDS", "ImageSequences", "Injection", "MaskBit")

import dataclasses
import enum
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from astropy.table import Table

from ._columns import ColumnArrays, Index, make_table
from ._schema import CUTOUT_COLUMNS, INJECTION_COLUMNS, Column, SchemaError, validate_table

BANDS = "ugrizy"
"""Bands of Rubin; the ``band`` column is an index in it."""


class MaskBit(enum.IntFlag):
    """Bits of the ``mask`` column."""

    NO_DATA = 1
    BAD = 2
    SATURATED = 4
    DETECTED = 8
    INJECTED = 16


UNUSABLE = int(MaskBit.NO_DATA | MaskBit.BAD | MaskBit.SATURATED)
"""Bits of pixels that no measurement may use."""

BATCH_SIZE = 8_000_000
"""Bytes of a batch of rows of an Arrow table."""


@dataclasses.dataclass(kw_only=True, eq=False)
class Injection(ColumnArrays):
    """Truth of what was injected in each sequence.

    The attributes are the columns of the table, one row a sequence;
    `INJECTION_COLUMNS` has their units.
    """

    _schema = INJECTION_COLUMNS

    injected: np.ndarray
    object_id: np.ndarray
    source_orbit: np.ndarray
    distance: np.ndarray
    distance_scale: np.ndarray
    mag: np.ndarray
    snr: np.ndarray
    rate: np.ndarray
    position_angle: np.ndarray
    inj_x: np.ndarray
    inj_y: np.ndarray
    inj_flux: np.ndarray


@dataclasses.dataclass(kw_only=True, eq=False)
class ImageSequences(ColumnArrays):
    """Image sequences: tens of images, in order of time, of one small piece
    of sky each.

    The attributes are the columns of the table, arrays with one row a
    sequence; `CUTOUT_COLUMNS` has their units. ``image``, ``variance`` and
    ``mask`` have the shape ``(n_sequences, n_times, height, width)``.
    Sequences with fewer than ``n_times`` images are padded at the end.
    """

    _schema = CUTOUT_COLUMNS

    tract: np.ndarray
    patch: np.ndarray
    sequence_id: np.ndarray
    split: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    htm: np.ndarray
    centre_ra: np.ndarray
    centre_dec: np.ndarray
    valid: np.ndarray
    visit: np.ndarray
    detector: np.ndarray
    band: np.ndarray
    mjd: np.ndarray
    exposure_time: np.ndarray
    image: np.ndarray
    variance: np.ndarray
    noise_scale: np.ndarray
    mask: np.ndarray
    psf: np.ndarray
    pixel_to_sky: np.ndarray
    injection: Injection | None = None

    def __len__(self) -> int:
        return len(self.ra)

    @property
    def n_times(self) -> int:
        """Number of images that a sequence has room for (`int`)."""
        return self.image.shape[1]

    @property
    def height(self) -> int:
        """Number of rows of an image (`int`)."""
        return self.image.shape[2]

    @property
    def width(self) -> int:
        """Number of columns of an image (`int`)."""
        return self.image.shape[3]

    @property
    def psf_size(self) -> int:
        """Width and height of the PSF images (`int`)."""
        return self.psf.shape[2]

    @property
    def usable(self) -> np.ndarray:
        """Pixels that a measurement may use (`numpy.ndarray` of `bool`,
        ``(n_sequences, n_times, height, width)``).
        """
        return (self.mask & UNUSABLE) == 0

    @property
    def mean_mjd(self) -> np.ndarray:
        """Mean TAI MJD of the valid images (`numpy.ndarray`, days)."""
        count = self.valid.sum(axis=1)
        total = np.where(self.valid, self.mjd, 0.0).sum(axis=1)
        return np.divide(total, count, out=np.full(len(self), np.nan), where=count > 0)

    def __getitem__(self, index: Index) -> ImageSequences:
        injection = None if self.injection is None else self.injection.select(index)
        return dataclasses.replace(self.select(index), injection=injection)

    def validate(self) -> None:
        """Check dtypes, shapes and what one column says of another.

        Raises
        ------
        SchemaError
            Raised if something is not as the data model says.
        """
        validate_table(self.to_table(), _schema_of(self.injection is not None))
        if np.any(self.valid[:, 1:] & ~self.valid[:, :-1]):
            raise SchemaError("Padding is not at the end of a sequence.")
        gap = np.diff(self.mjd, axis=1)
        if np.any(gap[self.valid[:, 1:]] < 0):
            raise SchemaError("The images of a sequence are not in order of time.")
        no_data = (self.mask & MaskBit.NO_DATA) != 0
        if not np.all(no_data[~self.valid]):
            raise SchemaError("Pixels of padding are not NO_DATA.")
        for name in ("image", "variance"):
            if not np.array_equal(np.isnan(getattr(self, name)), no_data):
                raise SchemaError(f"NO_DATA pixels and NaN pixels of {name} differ.")

    def to_table(self) -> Table:
        """Return an astropy table that shares the arrays."""
        return make_table(self._all_items())

    def to_arrow(self) -> pa.Table:
        """Return an Arrow table that shares the arrays.

        It reads back as the same astropy table as `to_table`, but consists of
        batches of some rows. Parquet needs 4 bytes more for each pixel of a
        batch while it writes it: some 60 MB, however large the table is.
        """
        from lsst.daf.butler.formatters.parquet import astropy_to_arrow

        schema = astropy_to_arrow(self.to_table()[:0]).schema
        metadata = {**schema.metadata, b"lsst::arrow::rowcount": str(len(self)).encode()}
        arrays = [
            _to_arrow_array(array, field.type)
            for (_, array), field in zip(self._all_items(), schema, strict=True)
        ]
        table = pa.Table.from_arrays(arrays, schema=schema.with_metadata(metadata))
        n_rows = max(1, BATCH_SIZE * len(self) // max(table.nbytes, 1))
        return pa.Table.from_batches(table.to_batches(max_chunksize=n_rows), table.schema)

    @classmethod
    def from_table(cls, table: Table) -> ImageSequences:
        """Return a view of a table.

        Parameters
        ----------
        table
            Table with the columns of `CUTOUT_COLUMNS`, and those of
            `INJECTION_COLUMNS` if objects were injected.

        Raises
        ------
        SchemaError
            Raised if the table has other columns than these.
        """
        is_injected = "injected" in table.colnames
        validate_table(table, _schema_of(is_injected))
        injection = Injection.from_arrays(table) if is_injected else None
        return dataclasses.replace(cls.from_arrays(table), injection=injection)

    @classmethod
    def concatenate(cls, parts: Sequence[ImageSequences]) -> ImageSequences:
        """Concatenate sets of image sequences.

        Parameters
        ----------
        parts
            Sets to concatenate, at least one. All of the same shape, and all
            with or all without injected objects.
        """
        injections = [part.injection for part in parts if part.injection is not None]
        if injections and len(injections) != len(parts):
            raise ValueError("Sequences with and without injection columns cannot be concatenated.")
        injection = Injection.stack(injections) if injections else None
        return dataclasses.replace(cls.stack(parts), injection=injection)

    def _all_items(self) -> Iterator[tuple[Column, np.ndarray]]:
        yield from self.items()
        if self.injection is not None:
            yield from self.injection.items()


def _schema_of(injected: bool) -> tuple[Column, ...]:
    return (*CUTOUT_COLUMNS, *INJECTION_COLUMNS) if injected else CUTOUT_COLUMNS


def _to_arrow_array(array: np.ndarray, arrow_type: pa.DataType) -> pa.Array:
    if not pa.types.is_fixed_size_list(arrow_type):
        return pa.array(array, type=arrow_type)
    values = pa.array(np.ascontiguousarray(array).reshape(-1), type=arrow_type.value_type)
    return pa.FixedSizeListArray.from_arrays(values, type=arrow_type)
