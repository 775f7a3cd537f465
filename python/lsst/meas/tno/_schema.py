# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The columns of every table that this package writes.

A column's dtype, unit and missing value are stated here and nowhere else.
"""

from __future__ import annotations

__all__ = (
    "CANDIDATE_COLUMNS",
    "CUTOUT_COLUMNS",
    "DETECTION_EFFICIENCY_COLUMNS",
    "EPHEMERIDES_COLUMNS",
    "INJECTION_COLUMNS",
    "ORBIT_COLUMNS",
    "SCHEMAS",
    "SCORE_COLUMNS",
    "SIMULATED_OBJECT_COLUMNS",
    "TRAINING_HISTORY_COLUMNS",
    "Column",
    "SchemaError",
    "validate_table",
)

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import Table

TEXT = "U"
"""dtype of a text column; its length is that of its longest value."""


class SchemaError(ValueError):
    """A table does not have the columns that it should."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    """Name of the column (`str`)."""

    dtype: str
    """NumPy dtype, or ``U`` for text (`str`)."""

    shape: tuple[str | int, ...] = ()
    """Shape of one row's value: numbers, or letters that stand for sizes fixed
    within a table (T images, H x W pixels, K x K pixels of the PSF, S steps).
    """

    unit: str | None = None
    """Unit, as astropy writes it (`str` or `None`)."""

    missing: Any = None
    """Value of an element that does not exist; `None` if it always does."""

    doc: str = ""
    """What the column holds (`str`)."""

    def full(self, n_rows: int, sizes: Mapping[str, int] | None = None) -> np.ndarray:
        """Return an array of missing values (zeros where none is defined).

        Parameters
        ----------
        n_rows
            Number of rows.
        sizes
            Value of each letter in `shape`.

        Returns
        -------
        array : `numpy.ndarray`
            Array of shape ``(n_rows, *shape)``.
        """
        shape = tuple(size if isinstance(size, int) else (sizes or {})[size] for size in self.shape)
        if self.dtype == TEXT:
            return np.full((n_rows, *shape), "", dtype="U1")
        fill = 0 if self.missing is None else self.missing
        return np.full((n_rows, *shape), fill, dtype=self.dtype)


_PATCH = (
    Column("tract", "int32", doc="Tract of the data ID."),
    Column("patch", "int32", doc="Patch of the data ID."),
    Column("sequence_id", "int64", doc="Unique within the data ID."),
    Column("split", "uint8", doc="0 training, 1 validation, 2 test; a hash of htm."),
)

_POSITION = (
    Column("ra", "float64", unit="deg", doc="ICRS right ascension the sequence is about."),
    Column("dec", "float64", unit="deg", doc="ICRS declination the sequence is about."),
    Column("htm", "int64", doc="HTM index of (ra, dec)."),
)

CUTOUT_COLUMNS = (
    *_PATCH,
    *_POSITION,
    Column("centre_ra", "float64", ("T",), "deg", np.nan, "ICRS right ascension of each cutout's centre."),
    Column("centre_dec", "float64", ("T",), "deg", np.nan, "ICRS declination of each cutout's centre."),
    Column("valid", "bool", ("T",), missing=False, doc="A real image, not padding."),
    Column("visit", "int64", ("T",), missing=-1, doc="Visit of each image."),
    Column("detector", "int32", ("T",), missing=-1, doc="Detector of each image."),
    Column("band", "uint8", ("T",), missing=255, doc="Index in 'ugrizy'."),
    Column("mjd", "float64", ("T",), "d", np.nan, "TAI MJD of mid-exposure."),
    Column("exposure_time", "float32", ("T",), "s", np.nan, "Exposure time."),
    Column("image", "float32", ("T", "H", "W"), "nJy", np.nan, "Flux per pixel."),
    Column("variance", "float32", ("T", "H", "W"), "nJy2", np.nan, "Variance of image."),
    Column(
        "noise_scale", "float32", ("T",), None, np.nan, "True over diagonal variance of a matched filter."
    ),
    Column("mask", "uint8", ("T", "H", "W"), None, 1, "Bits of MaskBit."),
    Column("psf", "float32", ("T", "K", "K"), None, np.nan, "PSF at the centre, sum 1, centred."),
    Column(
        "pixel_to_sky",
        "float64",
        ("T", 2, 3),
        "arcsec",
        np.nan,
        "Affine from cutout pixel (x, y, 1) to gnomonic (xi, eta) about the centre, xi east, eta north.",
    ),
)
"""Columns of ``tno_cutouts`` and ``tno_sequences``."""

_TRUTH = (
    Column("injected", "bool", doc="Whether the sequence holds an injected object."),
    Column("object_id", TEXT, missing="", doc="Name of the injected object."),
    Column("source_orbit", TEXT, missing="", doc="Catalog orbit the object's own was made from."),
    Column("distance", "float64", unit="AU", missing=np.nan, doc="Topocentric distance."),
    Column("distance_scale", "float64", missing=np.nan, doc="Factor on the catalog orbit's distance."),
    Column("mag", "float64", unit="mag", missing=np.nan, doc="AB magnitude in the reference band r."),
    Column("snr", "float64", missing=np.nan, doc="S/N of the perfect matched filter on native pixels."),
    Column("rate", "float64", unit="arcsec / h", missing=np.nan, doc="Rate of motion on the sky."),
    Column("position_angle", "float64", unit="deg", missing=np.nan, doc="Of the motion, east of north."),
)

INJECTION_COLUMNS = (
    *_TRUTH,
    Column("inj_x", "float64", ("T",), "pix", np.nan, "x of the object, centre of the lower left pixel 0."),
    Column("inj_y", "float64", ("T",), "pix", np.nan, "y of the object, centre of the lower left pixel 0."),
    Column("inj_flux", "float64", ("T",), "nJy", 0.0, "Flux of the object; 0 where it is outside."),
)
"""Columns that injection adds to those of `CUTOUT_COLUMNS`."""

_ABSOLUTE_MAGNITUDES = (
    Column("H", "float64", unit="mag", missing=np.nan, doc="Absolute magnitude in V, of the H, G system."),
    Column("G", "float64", missing=np.nan, doc="Slope parameter of the H, G system."),
    Column("M1", "float64", unit="mag", missing=np.nan, doc="Total absolute magnitude of a comet."),
    Column("K1", "float64", missing=np.nan, doc="Slope of a comet's total magnitude with log10(r)."),
)

ORBIT_COLUMNS = (
    Column("name", TEXT, doc="Designation, and the name if there is one; unique."),
    Column("orbit_class", TEXT, missing="", doc="Class of the orbit, as JPL abbreviates it."),
    Column("epoch", "float64", unit="d", doc="TDB MJD of osculation."),
    Column("q", "float64", unit="AU", doc="Perihelion distance."),
    Column("e", "float64", doc="Eccentricity."),
    Column("i", "float64", unit="deg", doc="Inclination to the ecliptic of J2000."),
    Column("node", "float64", unit="deg", doc="Longitude of the ascending node, ecliptic of J2000."),
    Column("peri", "float64", unit="deg", doc="Argument of perihelion."),
    Column("tp", "float64", unit="d", doc="TDB MJD of perihelion passage."),
    *_ABSOLUTE_MAGNITUDES,
    Column("source", TEXT, missing="", doc="Where the orbit is from."),
)
"""Columns of ``tno_orbits``; elements are heliocentric and osculating."""

EPHEMERIDES_COLUMNS = (
    Column("name", TEXT, doc="Name of the orbit in tno_orbits."),
    Column("mjd", "float64", ("S",), "d", doc="TDB MJD of each state."),
    Column("position", "float64", ("S", 3), "AU", doc="Barycentric ICRS position."),
    Column("velocity", "float64", ("S", 3), "AU / d", doc="Barycentric ICRS velocity."),
    *_ABSOLUTE_MAGNITUDES,
)
"""Columns of ``tno_ephemerides``."""

SCORE_COLUMNS = (
    *_PATCH,
    *_POSITION,
    Column("logit", "float32", doc="Output of the classifier; thresholds act on it."),
    Column("score", "float32", doc="Sigmoid of the logit."),
)
"""Columns of ``tno_scores``."""

CANDIDATE_COLUMNS = (
    *_PATCH,
    Column("logit", "float32", doc="Output of the classifier."),
    Column("score", "float32", doc="Sigmoid of the logit."),
    Column("mjd", "float64", unit="d", doc="TAI MJD of the position: mean of the valid images."),
    Column("ra", "float64", unit="deg", doc="ICRS right ascension at mjd."),
    Column("dec", "float64", unit="deg", doc="ICRS declination at mjd."),
    Column("rate_ra_cosdec", "float64", unit="arcsec / h", doc="Rate in right ascension times cos(dec)."),
    Column("rate_dec", "float64", unit="arcsec / h", doc="Rate in declination."),
    Column("rate", "float64", unit="arcsec / h", doc="Rate of motion on the sky."),
    Column("position_angle", "float64", unit="deg", doc="Of the motion, east of north."),
    Column("flux", "float64", unit="nJy", doc="Flux in the reference band."),
    Column("flux_err", "float64", unit="nJy", doc="Standard deviation of flux."),
    Column("mag", "float64", unit="mag", missing=np.nan, doc="AB magnitude in the reference band."),
    Column("snr", "float64", doc="S/N of the matched filter along the trajectory."),
    Column("n_images", "int32", doc="Images that the trajectory is on, with usable pixels."),
    Column(
        "covariance",
        "float64",
        (4, 4),
        None,
        np.nan,
        "Of ra * cos(dec) and dec, arcsec, and the two rates, arcsec / h; NaN if not determined.",
    ),
)
"""Columns of ``tno_candidates``."""

DETECTION_EFFICIENCY_COLUMNS = (
    Column("kind", TEXT, doc="What the row is; choose the rows by it."),
    Column("quantity", TEXT, missing="", doc="What the row is about: mag, snr, rate, m50, ..."),
    Column("low", "float64", missing=np.nan, doc="Lower edge of the bin of quantity, in its unit."),
    Column("high", "float64", missing=np.nan, doc="Upper edge of the bin."),
    Column("value", "float64", missing=np.nan, doc="The result; an efficiency, or a value of quantity."),
    Column("value_low", "float64", missing=np.nan, doc="Lower end of the 68.27 % interval of value."),
    Column("value_high", "float64", missing=np.nan, doc="Upper end of the 68.27 % interval of value."),
    Column("predicted", "float64", missing=np.nan, doc="Value that was predicted."),
    Column("false_positive_rate", "float64", missing=np.nan, doc="False positives a sequence."),
    Column("logit", "float64", missing=np.nan, doc="Threshold on the logit, or the logit of the sequence."),
    Column("n_injected", "int64", missing=-1, doc="Injected objects."),
    Column("n_found", "int64", missing=-1, doc="Injected objects that were found."),
    Column("n_clean", "int64", missing=-1, doc="Sequences without an object."),
    Column("n_false_positives", "int64", missing=-1, doc="Sequences without an object above the threshold."),
    Column("tract", "int32", missing=-1, doc="Tract of the sequence."),
    Column("patch", "int32", missing=-1, doc="Patch of the sequence."),
    Column("sequence_id", "int64", missing=-1, doc="Sequence, unique within tract and patch."),
    Column("object_id", TEXT, missing="", doc="Name of the injected object."),
    Column("reason", TEXT, missing="", doc="Why an object was missed, or there is no value."),
)
"""Columns of ``tno_detection_efficiency``, by kind of row:

``threshold``
    ``logit``, ``false_positive_rate`` that the calibration expects at it,
    ``reason`` ``extrapolated`` if no sequence of the calibration tells of it,
    or ``below`` the smallest rate that it tells of, and there is none.
``efficiency``
    ``value`` = ``n_found`` / ``n_injected``, with ``quantity`` ``all``, or of
    the objects whose ``mag``, ``snr`` or ``rate`` (arcsec/hour) is from
    ``low`` to ``high``.
``fit``
    ``value`` and its standard deviation either way; ``quantity``: ``m50``,
    ``m50_width`` (mag) and ``m50_plateau``, or ``snr50``, ``snr50_width`` and
    ``snr50_plateau`` of the curve that `fit_efficiency` describes. ``reason``
    where there is no fit.
``false_positives``
    ``value`` at the threshold, ``quantity``: ``per_sequence`` or
    ``per_square_degree``, with ``n_clean`` and ``n_false_positives``.
``roc``
    ``value`` is the efficiency at ``false_positive_rate`` and ``logit``.
``calibration``
    ``value`` is the fraction of sequences with an object of those whose
    ``quantity``, ``probability`` (calibrated) or ``score``, is from ``low`` to
    ``high``, and ``predicted`` the mean of it.
``missed``
    An object that was not found: ``value`` is its S/N (``quantity`` ``snr``),
    ``logit`` that of its sequence, ``reason`` one of ``outside`` of the window
    in half of the images, ``masked`` in half of those, ``below_threshold``, or
    ``merged`` with the candidate of another sequence (or not measurable).
"""

TRAINING_HISTORY_COLUMNS = (
    Column("epoch", "int32", doc="Epoch, from 0."),
    Column("learning_rate", "float64", doc="Learning rate of the epoch."),
    Column("training_loss", "float64", doc="Mean loss over the training sequences."),
    Column("validation_loss", "float64", doc="Mean loss over the validation sequences."),
    Column("validation_roc_area", "float64", missing=np.nan, doc="Area under the validation ROC curve."),
    Column("seconds", "float64", unit="s", doc="Wall-clock time of the epoch."),
)
"""Columns of ``tno_training_history``."""

SIMULATED_OBJECT_COLUMNS = (
    Column("object_id", TEXT, doc="Name of the simulated object."),
    Column("visit", "int64", doc="Visit."),
    Column("detector", "int32", doc="Detector the object falls on."),
    Column("band", "uint8", doc="Index in 'ugrizy'."),
    Column("mjd", "float64", unit="d", doc="TAI MJD of mid-exposure."),
    Column("ra", "float64", unit="deg", doc="ICRS right ascension at mjd."),
    Column("dec", "float64", unit="deg", doc="ICRS declination at mjd."),
    Column("x", "float64", unit="pix", doc="Detector x, centre of the lower left pixel (0, 0)."),
    Column("y", "float64", unit="pix", doc="Detector y, centre of the lower left pixel (0, 0)."),
    Column("flux", "float64", unit="nJy", doc="Flux put into the pixels."),
    Column("mag", "float64", unit="mag", doc="AB magnitude in the image's band."),
    Column("rate", "float64", unit="arcsec / h", doc="Rate of motion on the sky."),
    Column("position_angle", "float64", unit="deg", doc="Of the motion, east of north."),
)
"""Columns of ``tno_simulated_objects``, the truth of a simulated survey."""

SCHEMAS: Mapping[str, tuple[Column, ...]] = {
    "tno_orbits": ORBIT_COLUMNS,
    "tno_ephemerides": EPHEMERIDES_COLUMNS,
    "tno_cutouts": CUTOUT_COLUMNS,
    "tno_cutouts_injected": (*CUTOUT_COLUMNS, *INJECTION_COLUMNS),
    "tno_sequences": CUTOUT_COLUMNS,
    "tno_sequences_injected": (*CUTOUT_COLUMNS, *INJECTION_COLUMNS),
    "tno_scores": SCORE_COLUMNS,
    "tno_scores_injected": (*SCORE_COLUMNS, *_TRUTH),
    "tno_candidates": CANDIDATE_COLUMNS,
    "tno_candidates_injected": CANDIDATE_COLUMNS,
    "tno_detection_efficiency": DETECTION_EFFICIENCY_COLUMNS,
    "tno_training_history": TRAINING_HISTORY_COLUMNS,
    "tno_simulated_objects": SIMULATED_OBJECT_COLUMNS,
}
"""Columns of each table, by dataset type."""


def validate_table(table: Table, columns: Iterable[Column]) -> dict[str, int]:
    """Check the columns, dtypes, shapes and units of a table.

    Parameters
    ----------
    table
        Table to check.
    columns
        Columns that it should have; it may have no others.

    Returns
    -------
    sizes : `dict` [`str`, `int`]
        The size that each letter in the columns' shapes stands for.

    Raises
    ------
    SchemaError
        Raised if a column is missing, unexpected or not as described.
    """
    columns = tuple(columns)
    names = [column.name for column in columns]
    if missing := [name for name in names if name not in table.colnames]:
        raise SchemaError(f"Columns are missing from the table: {missing}.")
    if unexpected := [name for name in table.colnames if name not in names]:
        raise SchemaError(f"The table has columns that its schema does not: {unexpected}.")
    sizes: dict[str, int] = {}
    for column in columns:
        _validate_column(table, column, sizes)
    return sizes


def _validate_column(table: Table, column: Column, sizes: dict[str, int]) -> None:
    found = table[column.name]
    kind_matches = found.dtype.kind == "U" if column.dtype == TEXT else found.dtype == np.dtype(column.dtype)
    if not kind_matches:
        raise SchemaError(f"Column {column.name!r} has dtype {found.dtype}, not {column.dtype}.")
    shape = found.shape[1:]
    expected = tuple(
        size if isinstance(size, int) else sizes.setdefault(size, found_size)
        for size, found_size in zip(column.shape, shape, strict=False)
    )
    if len(shape) != len(column.shape) or shape != expected:
        raise SchemaError(f"Column {column.name!r} has row shape {shape}, not {column.shape} with {sizes}.")
    unit = None if column.unit is None else u.Unit(column.unit)
    if (found.unit or None) != unit:
        raise SchemaError(f"Column {column.name!r} has unit {found.unit}, not {column.unit}.")
