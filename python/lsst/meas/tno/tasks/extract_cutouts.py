# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

__all__ = ("ExtractCutoutsConfig", "ExtractCutoutsConnections", "ExtractCutoutsTask")

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np
from astropy.table import Table
from astropy.time import Time

from lsst.pex.config import ChoiceField, Field, ListField, RangeField
from lsst.pipe.base import (
    InputQuantizedConnection,
    NoWorkFound,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
    connectionTypes,
)
from lsst.sphgeom import Region
from lsst.utils.logging import PeriodicLogger

from .._sequences import BANDS, UNUSABLE, ImageSequences
from ..cutouts import Cutouts, cutout_origins, read_cutouts
from ..extraction import SequencePlan, bytes_per_sequence, drop_images, plan_sequences
from ..positions import (
    catalog_positions,
    grid_positions,
    htm_index,
    random_positions,
    sky_box,
    split_of_htm,
)
from ..visits import VisitError, VisitHandle, VisitMetadata, open_visit

GIGABYTE = 1e9

POSITIONS_STREAM = 0x504F5349
"""Keeps the random positions apart from other draws with the same seed."""


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
    psf_size = Field[int](doc="Width and height of the PSF images, odd (pixels).", default=25)
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
        doc="Size of the table (GB) above which the task does not begin; it needs 2.6 times as much memory.",
        default=2.0,
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
    def time_window(self) -> tuple[float, float]:
        """Earliest and latest mid-exposure, TAI MJD (`tuple` [`float`])."""
        begin = -np.inf if self.time_begin is None else _mjd("time_begin", self.time_begin)
        end = np.inf if self.time_end is None else _mjd("time_end", self.time_end)
        return begin, end


class ExtractCutoutsTask(PipelineTask):
    """Cut image sequences out of the visit images that cover a patch.

    Notes
    -----
    The metadata count visit images: ``n_visits_given`` to the task,
    ``n_visits_unreadable``, ``n_visits_selected`` by time and band,
    ``n_visits_masked`` altogether, and ``n_visits_used``. The executor takes
    those whose file is missing out of the quantum before a task sees it; what
    the quantum graph had is counted as in ``pipelines/README.md``.
    """

    ConfigClass: ClassVar = ExtractCutoutsConfig
    _DefaultName: ClassVar = "extractCutouts"
    config: ExtractCutoutsConfig

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        data_id = outputRefs.cutouts.dataId
        outputs = self.run(
            butlerQC.get(inputRefs.visit_images),
            region=data_id.region,
            tract=data_id["tract"],
            patch=data_id["patch"],
            catalog=butlerQC.get(inputRefs.catalog) if hasattr(inputRefs, "catalog") else None,
        )
        butlerQC.put(outputs.cutouts.to_arrow(), outputRefs.cutouts)

    def run(
        self,
        visit_images: Sequence[VisitHandle],
        *,
        region: Region,
        tract: int,
        patch: int,
        catalog: Table | None = None,
    ) -> Struct:
        """Extract image sequences.

        Parameters
        ----------
        visit_images
            Handles of the visit images.
        region
            Region of the patch.
        tract, patch
            Tract and patch, for the table and the seed.
        catalog
            Positions to look at, if the configuration asks for a catalog.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``cutouts``: the image sequences (`ImageSequences`).

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            Raised if no sequence has ``min_times`` images.
        ValueError
            Raised if the table would pass ``max_table_size``.
        """
        ra, dec = self._choose_positions(region, tract, patch, catalog)
        visits = self._select_visits(visit_images)
        x, y, covers = self._locate(visits, ra, dec)
        plan = plan_sequences(
            covers,
            np.array([metadata.mjd for _, metadata in visits]),
            windowing=self.config.windowing,
            n_times=self.config.n_times,
            min_times=self.config.min_times,
        )
        if len(plan) == 0:
            raise NoWorkFound(f"None of {len(ra)} positions has {self.config.min_times} images in a window.")
        self._check_size(len(plan))
        sequences = self._allocate(plan, ra, dec, tract, patch)
        sequences = self._fill(sequences, plan, visits, x, y)
        self.log.info("Extracted %d image sequences at %d positions.", len(sequences), len(ra))
        self.metadata["n_positions"] = len(ra)
        self.metadata["n_sequences"] = len(sequences)
        return Struct(cutouts=sequences)

    def _choose_positions(
        self, region: Region, tract: int, patch: int, catalog: Table | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions, and refuse more than there is room for."""
        box = None if self.config.box is None else sky_box(self.config.box)
        match self.config.positions:
            case "random":
                rng = np.random.default_rng([POSITIONS_STREAM, self.config.seed, tract, patch])
                self._check_size(self.config.n_positions)
                ra, dec = random_positions(region, self.config.n_positions, rng, box)
            case "grid":
                ra, dec = np.empty(0), np.empty(0)
                for row_ra, row_dec in grid_positions(region, self.config.grid_spacing, box):
                    ra, dec = np.append(ra, row_ra), np.append(dec, row_dec)
                    self._check_size(len(ra))
            case "catalog":
                if catalog is None:
                    catalog = Table.read(self.config.catalog_file)
                ra, dec = catalog_positions(region, catalog, box)
                self._check_size(len(ra))
        if len(ra) == 0:
            raise NoWorkFound("No position of the configured ones lies in the patch.")
        return ra, dec

    def _check_size(self, n_sequences: int) -> None:
        config = self.config
        row_size = bytes_per_sequence(config.n_times, config.cutout_size, config.psf_size)
        size = n_sequences * row_size / GIGABYTE
        if size > config.max_table_size:
            raise ValueError(
                f"A table of {n_sequences} sequences has at least {size:.2f} GB, which is more than "
                f"max_table_size = {config.max_table_size}. Ask for fewer positions (n_positions, "
                "grid_spacing, box), a shorter time window or smaller cutouts (cutout_size), or raise "
                "max_table_size."
            )

    def _select_visits(self, handles: Sequence[VisitHandle]) -> list[tuple[VisitHandle, VisitMetadata]]:
        """Return the visits that can be used, in order of time."""
        begin, end = self.config.time_window
        visits, errors = [], []
        for handle in handles:
            try:
                with open_visit(handle, metadata_only=True) as visit:
                    metadata = visit.read_metadata()
            except VisitError as error:
                self.log.warning("Left out a visit image that cannot be used: %s", error)
                errors.append(error)
                continue
            if begin <= metadata.mjd <= end and BANDS[metadata.band] in self.config.bands:
                visits.append((handle, metadata))
        self.metadata["n_visits_given"] = len(handles)
        self.metadata["n_visits_unreadable"] = len(errors)
        self.metadata["n_visits_selected"] = len(visits)
        if len(visits) < self.config.min_times:
            reason = f"{len(visits)} of {len(handles)} visit images are left; {self.config.min_times=}"
            would_do = len(visits) + len(errors) >= self.config.min_times
            _raise_no_work(reason, errors if would_do else [])
        return sorted(visits, key=lambda visit: (visit[1].mjd, visit[1].visit, visit[1].detector))

    def _locate(
        self, visits: Sequence[tuple[VisitHandle, VisitMetadata]], ra: np.ndarray, dec: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return where the positions are in each visit, and which it covers;
        all of shape ``(n_positions, n_visits)``.
        """
        size = self.config.cutout_size
        x, y = np.empty((2, len(ra), len(visits)))
        covers = np.zeros((len(ra), len(visits)), dtype=bool)
        for index, (_, metadata) in enumerate(visits):
            x[:, index], y[:, index] = metadata.sky_to_pixel(ra, dec)
            inside = metadata.contains(x[:, index], y[:, index])
            x0, y0 = (cutout_origins(axis[inside, index], size) for axis in (x, y))
            covers[inside, index] = metadata.coverage(x0, y0, size) >= self.config.min_coverage
        return x, y, covers

    def _allocate(
        self, plan: SequencePlan, ra: np.ndarray, dec: np.ndarray, tract: int, patch: int
    ) -> ImageSequences:
        size = self.config.cutout_size
        sequences = ImageSequences.full(
            len(plan), T=self.config.n_times, H=size, W=size, K=self.config.psf_size
        )
        sequences.valid[:] = plan.visit >= 0
        sequences.tract[:], sequences.patch[:] = tract, patch
        sequences.sequence_id[:] = np.arange(len(plan))
        sequences.ra[:], sequences.dec[:] = ra[plan.position], dec[plan.position]
        sequences.htm[:] = htm_index(ra, dec, self.config.htm_level)[plan.position]
        sequences.split[:] = split_of_htm(sequences.htm)
        return sequences

    def _fill(
        self,
        sequences: ImageSequences,
        plan: SequencePlan,
        visits: Sequence[tuple[VisitHandle, VisitMetadata]],
        x: np.ndarray,
        y: np.ndarray,
    ) -> ImageSequences:
        """Read each visit once and put its cutouts where they belong."""
        progress = PeriodicLogger(self.log)
        n_masked = n_used = 0
        errors: list[VisitError] = []
        is_stored = np.zeros_like(sequences.valid)
        for index, (handle, metadata) in enumerate(visits):
            slots = plan.slots(index)
            if len(slots[0]) == 0:
                continue
            where = plan.position[slots[0]], index
            try:
                cutouts = self._read(handle, metadata, x[where], y[where])
            except VisitError as error:
                self.log.warning("Left out a visit image that cannot be used: %s", error)
                errors.append(error)
                continue
            if np.all(cutouts.mask & UNUSABLE):
                self.log.warning("Left out %s: every pixel of its cutouts is masked.", handle.dataId)
                n_masked += 1
                continue
            _store(sequences, slots, metadata, cutouts, x[where], y[where])
            is_stored[slots] = True
            n_used += 1
            progress.log("Read %d of %d visit images.", index + 1, len(visits))
        self.metadata["n_visits_unreadable"] += len(errors)
        self.metadata["n_visits_masked"] = n_masked
        self.metadata["n_visits_used"] = n_used
        sequences = drop_images(sequences, is_stored, self.config.min_times)
        if len(sequences) == 0:
            _raise_no_work(f"No sequence has {self.config.min_times} images that can be used", errors)
        return sequences

    def _read(self, handle: VisitHandle, metadata: VisitMetadata, x: np.ndarray, y: np.ndarray) -> Cutouts:
        with open_visit(handle) as visit:
            return read_cutouts(
                visit,
                metadata,
                x,
                y,
                size=self.config.cutout_size,
                psf_size=self.config.psf_size,
                bad_planes=self.config.bad_planes,
            )


def _store(
    sequences: ImageSequences,
    slots: tuple[np.ndarray, np.ndarray],
    metadata: VisitMetadata,
    cutouts: Cutouts,
    x: np.ndarray,
    y: np.ndarray,
) -> None:
    """Put the cutouts of a visit in the slots they belong to."""
    size = cutouts.image.shape[1]
    ra, dec = sequences.ra[slots[0]], sequences.dec[slots[0]]
    x0, y0 = cutout_origins(x, size), cutout_origins(y, size)
    values: dict[str, Any] = {
        "centre_ra": ra,
        "centre_dec": dec,
        "visit": metadata.visit,
        "detector": metadata.detector,
        "band": metadata.band,
        "mjd": metadata.mjd,
        "exposure_time": metadata.exposure_time,
        "noise_scale": 1.0,
        "pixel_to_sky": metadata.pixel_to_sky(x0, y0, size, ra, dec),
        **{field.name: getattr(cutouts, field.name) for field in dataclasses.fields(cutouts)},
    }
    for name, value in values.items():
        getattr(sequences, name)[slots] = value


def _raise_no_work(reason: str, errors: Sequence[VisitError]) -> NoReturn:
    """Tell that there is nothing to do, or that damaged images are why."""
    if errors:
        message = f"{reason}; {len(errors)} cannot be used, the first of them {errors[0]}"
        raise RuntimeError(message) from errors[0]
    raise NoWorkFound(f"{reason}.")


def _mjd(name: str, text: str) -> float:
    try:
        return float(Time(text, scale="tai").mjd)
    except ValueError as error:
        raise ValueError(f"{name} is no date and time in ISO 8601: {text!r}.") from error
