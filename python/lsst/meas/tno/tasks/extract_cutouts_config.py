# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections and configuration of the task that extracts cutouts."""

from __future__ import annotations

__all__ = ("ExtractCutoutsConfig", "ExtractCutoutsConnections")

import dataclasses

import numpy as np
from astropy.time import Time

from lsst.pex.config import ChoiceField, Field, ListField, RangeField
from lsst.pipe.base import PipelineTaskConfig, PipelineTaskConnections, connectionTypes

from .._sequences import BANDS
from ..extraction import bytes_per_sequence

GIGABYTE = 1e9


class ExtractCutoutsConnections(
    PipelineTaskConnections,
    dimensions=("skymap", "tract", "patch"),
    defaultTemplates={"inputImage": "visit_image"},
):
    """Connections of `ExtractCutoutsTask`."""

    visit_images = connectionTypes.Input(
        doc="Calibrated visit images, or difference images.",
        name="{inputImage}",
        storageClass="VisitImage",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    catalog = connectionTypes.PrerequisiteInput(
        doc="Positions to look at, with the columns ra and dec (ICRS, deg).",
        name="tno_positions",
        storageClass="ArrowAstropy",
        dimensions=(),
    )
    cutouts = connectionTypes.Output(
        doc="Image sequences on the images' own pixels.",
        name="tno_cutouts",
        storageClass="ArrowAstropy",
        dimensions=("skymap", "tract", "patch"),
    )

    def __init__(self, *, config: ExtractCutoutsConfig | None = None) -> None:
        if config is None:
            return
        self.visit_images = dataclasses.replace(self.visit_images, storageClass=config.input_storage_class)
        if config.positions != "catalog" or config.catalog_file is not None:
            del self.catalog


class ExtractCutoutsConfig(PipelineTaskConfig, pipelineConnections=ExtractCutoutsConnections):
    """Configuration of `ExtractCutoutsTask`."""

    input_storage_class = ChoiceField[str](
        doc="Storage class of the visit images; it must fit the repository's.",
        allowed={
            "VisitImage": "Visit images from Data Preview 2 on.",
            "DifferenceImage": "Difference images from Data Preview 2 on.",
            "ExposureF": "Images of Data Preview 0.2 and 1; needs lsst.afw.",
        },
        default="VisitImage",
    )
    positions = ChoiceField[str](
        doc="Positions of the image sequences.",
        allowed={
            "random": "n_positions positions, uniform on what the patch and the box have in common.",
            "grid": "A regular grid with grid_spacing, the same in every patch. A whole patch of the usual "
            "size has more positions than max_table_size allows: give a box.",
            "catalog": "Those of catalog_file, or else of the dataset tno_positions.",
        },
        default="random",
    )
    n_positions = Field[int](doc="Number of random positions in a patch.", default=500)
    seed = RangeField(
        dtype=int, doc="Seed of the random positions, together with tract and patch.", default=0, min=0
    )
    grid_spacing = Field[float](doc="Distance between neighbours of the grid (arcsec).", default=2.0)
    catalog_file = Field[str](
        doc="Table of positions, in any format that astropy reads, with the columns ra and dec (ICRS, deg).",
        optional=True,
    )
    box = ListField[float](
        doc="Box that the positions lie in: smallest and largest RA, smallest and largest Dec (deg).",
        optional=True,
        default=None,
        length=4,
    )
    htm_level = Field[int](
        doc="HTM level at which training, validation and test are split (12: trixels of 80 arcsec).",
        default=12,
    )
    bands = ListField[str](doc="Bands to use.", default=list(BANDS))
    time_begin = Field[str](doc="Earliest mid-exposure (ISO 8601, TAI).", optional=True)
    time_end = Field[str](doc="Latest mid-exposure (ISO 8601, TAI).", optional=True)
    windowing = ChoiceField[str](
        doc="How the visits of a position are divided into runs of n_times.",
        allowed={
            "all": "All visits in order of time.",
            "night": "Each night for itself.",
        },
        default="night",
    )
    n_times = Field[int](doc="Number of images in a full sequence.", default=50)
    min_times = Field[int](doc="Number of images that a sequence must have.", default=30)
    cutout_size = Field[int](doc="Width and height of the cutouts (pixels).", default=50)
    psf_size = Field[int](
        doc="Width and height of the PSF images, odd (pixels). Visit images with more than 5 % of the PSF's "
        "flux outside of that are left out.",
        default=25,
    )
    min_coverage = Field[float](
        doc="Part of a cutout that must be on the detector for its image to be used.", default=0.75
    )
    bad_planes = ListField[str](
        doc="Mask planes that make a pixel BAD, where an image has them.",
        default=[
            "BAD",
            "COSMIC_RAY",
            "SUSPECT",
            "VIGNETTED",
            "ITL_DIP",
            "SPIKE",
            "STREAK",
            "SAT_TEMPLATE",
            "UNMASKED_NAN",
        ],
    )
    max_table_size = Field[float](
        doc="Size that the table may have (GB); the task needs 1.3 times as much memory.", default=2.0
    )
    large_table = ChoiceField[str](
        doc="What to do where the table would pass max_table_size.",
        allowed={
            "refuse": "Fail before any pixels are read.",
            "fewer_positions": "Leave positions out, those that stay spread evenly over all of them.",
            "fewer_images": "Leave some of the runs of n_times images out at each position, those that stay "
            "spread evenly over its time. Fail where one run each would be too much.",
        },
        default="refuse",
    )

    def validate(self) -> None:
        super().validate()
        if not 1 <= self.min_times <= self.n_times:
            raise ValueError(f"min_times must be from 1 to n_times: {self.min_times=}, {self.n_times=}.")
        for name in ("n_positions", "grid_spacing", "max_table_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}.")
        if self.cutout_size < 2:
            raise ValueError(f"cutout_size must be at least 2, not {self.cutout_size}.")
        if self.catalog_file is not None and self.positions != "catalog":
            raise ValueError(f"catalog_file is given, but positions is {self.positions!r}, not 'catalog'.")
        if self.psf_size < 1 or self.psf_size % 2 == 0:
            raise ValueError(f"psf_size must be odd, not {self.psf_size}.")
        if not 0 < self.min_coverage <= 1:
            raise ValueError(f"min_coverage must be above 0 and at most 1, not {self.min_coverage}.")
        if not 1 <= self.htm_level <= 24:
            raise ValueError(f"htm_level must be from 1 to 24, not {self.htm_level}.")
        if not self.bands or not set(self.bands) <= set(BANDS):
            raise ValueError(f"bands must be some of {BANDS!r}, not {list(self.bands)}.")
        if self.max_sequences < 1:
            raise ValueError(
                f"max_table_size = {self.max_table_size} GB does not hold one sequence of {self.n_times=}, "
                f"{self.cutout_size=}, {self.psf_size=}."
            )
        self._validate_region()

    def _validate_region(self) -> None:
        begin, end = self.time_window
        if not begin < end:
            raise ValueError(f"time_begin must be before time_end: {self.time_begin=}, {self.time_end=}.")
        if self.box is not None:
            ra_min, ra_max, dec_min, dec_max = self.box
            if not -90 <= dec_min < dec_max <= 90 or ra_min == ra_max:
                raise ValueError(f"box must be [ra_min, ra_max, dec_min, dec_max], not {list(self.box)}.")

    @property
    def max_sequences(self) -> int:
        """Number of sequences that the table may have (`int`)."""
        row_size = bytes_per_sequence(self.n_times, self.cutout_size, self.psf_size)
        return int(self.max_table_size * GIGABYTE // row_size)

    @property
    def time_window(self) -> tuple[float, float]:
        """Earliest and latest mid-exposure, TAI MJD (`tuple` [`float`])."""
        begin = -np.inf if self.time_begin is None else _mjd("time_begin", self.time_begin)
        end = np.inf if self.time_end is None else _mjd("time_end", self.time_end)
        return begin, end


def _mjd(name: str, text: str) -> float:
    try:
        return float(Time(text, scale="tai").mjd)
    except ValueError as error:
        raise ValueError(f"{name} is no date and time in ISO 8601: {text!r}.") from error
