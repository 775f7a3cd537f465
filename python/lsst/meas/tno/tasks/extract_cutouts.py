# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

__all__ = ("ExtractCutoutsConfig", "ExtractCutoutsConnections", "ExtractCutoutsTask")

from collections.abc import Sequence
from typing import ClassVar, NoReturn

import numpy as np
from astropy.table import Table

from lsst.pipe.base import (
    InputQuantizedConnection,
    NoWorkFound,
    OutputQuantizedConnection,
    PipelineTask,
    QuantumContext,
    Struct,
)
from lsst.sphgeom import Region

from .._progress import log_progress
from .._sequences import BANDS, UNUSABLE, ImageSequences
from ..cutouts import Cutouts, read_cutouts
from ..extraction import (
    SequencePlan,
    allocate_sequences,
    drop_images,
    locate,
    plan_sequences,
    spread,
    store_cutouts,
)
from ..positions import catalog_positions, grid_positions, random_positions, sky_box
from ..visits import OpenVisit, OpenVisits, VisitError, VisitHandle, VisitMetadata
from .extract_cutouts_config import ExtractCutoutsConfig, ExtractCutoutsConnections

POSITIONS_STREAM = 0x504F5349
"""Keeps the random positions apart from other draws with the same seed."""


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
        with OpenVisits() as open_visits:
            visits = self._select_visits(visit_images, open_visits)
            metadata = [metadata for _, metadata in visits]
            size = self.config.cutout_size
            x, y, covers = locate(metadata, ra, dec, size=size, min_coverage=self.config.min_coverage)
            plan = self._plan(metadata, covers)
            sequences = allocate_sequences(
                plan, ra, dec, size=size, psf_size=self.config.psf_size, htm_level=self.config.htm_level
            )
            sequences.tract[:], sequences.patch[:] = tract, patch
            sequences = self._fill(sequences, plan, visits, open_visits, x, y)
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
                self._check_positions(self.config.n_positions)
                ra, dec = random_positions(region, self.config.n_positions, rng, box)
            case "grid":
                rows, n = [(np.empty(0), np.empty(0))], 0
                for row in grid_positions(region, self.config.grid_spacing, box):
                    rows.append(row)
                    n += len(row[0])
                    self._check_positions(n)
                ra, dec = (np.concatenate(axis) for axis in zip(*rows, strict=True))
            case "catalog":
                if catalog is None:
                    catalog = Table.read(self.config.catalog_file)
                ra, dec = catalog_positions(region, catalog, box)
                self._check_positions(len(ra))
        if len(ra) == 0:
            raise NoWorkFound("No position of the configured ones lies in the patch.")
        if len(ra) > self.config.max_sequences:
            chosen = spread(self.config.max_sequences, len(ra))
            self.log.warning("Left out %d of %d positions: large_table.", len(ra) - len(chosen), len(ra))
            ra, dec = ra[chosen], dec[chosen]
        return ra, dec

    def _check_positions(self, n: int) -> None:
        """Refuse more positions than the table may have sequences, if none
        may be left out.
        """
        if self.config.large_table != "fewer_positions" and n > self.config.max_sequences:
            self._refuse(n)

    def _plan(self, metadata: Sequence[VisitMetadata], covers: np.ndarray) -> SequencePlan:
        """Return the sequences, as many as the table may have."""
        plan = complete = plan_sequences(
            covers,
            np.array([visit.mjd for visit in metadata]),
            windowing=self.config.windowing,
            n_times=self.config.n_times,
            min_times=self.config.min_times,
        )
        if len(plan) == 0:
            raise NoWorkFound(
                f"None of {len(covers)} positions has {self.config.min_times} images in a window."
            )
        if len(plan) > self.config.max_sequences:
            match self.config.large_table:
                case "fewer_positions":
                    plan = plan.with_fewer_positions(self.config.max_sequences)
                case "fewer_images":
                    plan = plan.with_fewer_images(self.config.max_sequences)
                case "refuse":
                    self._refuse(len(plan))
            if len(plan) == 0:
                self._refuse(len(complete))
            self.log.warning(
                "Left out %d of %d sequences: max_table_size = %s GB, large_table = %r.",
                len(complete) - len(plan),
                len(complete),
                self.config.max_table_size,
                self.config.large_table,
            )
        self.metadata["n_sequences_left_out"] = len(complete) - len(plan)
        return plan

    def _refuse(self, n_sequences: int) -> NoReturn:
        size = n_sequences / self.config.max_sequences * self.config.max_table_size
        raise ValueError(
            f"A table of {n_sequences} sequences has about {size:.2f} GB, which is more than "
            f"max_table_size = {self.config.max_table_size}. Ask for fewer positions (n_positions, "
            "grid_spacing, box), a shorter time window or smaller cutouts (cutout_size), set large_table to "
            "have some of them, or raise max_table_size."
        )

    def _select_visits(
        self, handles: Sequence[VisitHandle], open_visits: OpenVisits
    ) -> list[tuple[VisitHandle, VisitMetadata]]:
        """Return the visits that can be used, in order of time."""
        begin, end = self.config.time_window
        visits, errors = [], []
        for handle in log_progress(self.log, "Looked at %d of %d visit images.", handles, len(handles)):
            try:
                metadata = open_visits.read_metadata(handle)
            except VisitError as error:
                self.log.warning("Left out a visit image that cannot be used: %s", error)
                errors.append(error)
                continue
            if begin <= metadata.mjd <= end and BANDS[metadata.band] in self.config.bands:
                visits.append((handle, metadata))
            else:
                open_visits.close(handle)
        self.metadata["n_visits_given"] = len(handles)
        self.metadata["n_visits_unreadable"] = len(errors)
        self.metadata["n_visits_selected"] = len(visits)
        self.log.info("Selected %d of %d visit images.", len(visits), len(handles))
        if len(visits) < self.config.min_times:
            reason = f"{len(visits)} of {len(handles)} visit images are left; {self.config.min_times=}"
            would_do = len(visits) + len(errors) >= self.config.min_times
            _raise_no_work(reason, errors if would_do else [])
        return sorted(visits, key=lambda visit: (visit[1].mjd, visit[1].visit, visit[1].detector))

    def _fill(
        self,
        sequences: ImageSequences,
        plan: SequencePlan,
        visits: Sequence[tuple[VisitHandle, VisitMetadata]],
        open_visits: OpenVisits,
        x: np.ndarray,
        y: np.ndarray,
    ) -> ImageSequences:
        """Read each visit once and put its cutouts where they belong."""
        n_masked = n_used = 0
        errors: list[VisitError] = []
        is_stored = np.zeros_like(sequences.valid)
        each = log_progress(self.log, "Read %d of %d visit images.", visits, len(visits))
        for index, (handle, metadata) in enumerate(each):
            slots = plan.slots(index)
            if len(slots[0]) == 0:
                open_visits.close(handle)
                continue
            where = plan.position[slots[0]], index
            try:
                with open_visits.read(handle) as visit:
                    cutouts = self._read(visit, metadata, x[where], y[where])
            except VisitError as error:
                self.log.warning("Left out a visit image that cannot be used: %s", error)
                errors.append(error)
                continue
            if np.all(cutouts.mask & UNUSABLE):
                self.log.warning("Left out %s: every pixel of its cutouts is masked.", handle.dataId)
                n_masked += 1
                continue
            store_cutouts(sequences, slots, metadata, cutouts, x[where], y[where])
            is_stored[slots] = True
            n_used += 1
        self.metadata["n_visits_unreadable"] += len(errors)
        self.metadata["n_visits_masked"] = n_masked
        self.metadata["n_visits_used"] = n_used
        sequences = drop_images(sequences, is_stored, self.config.min_times)
        if len(sequences) == 0:
            _raise_no_work(f"No sequence has {self.config.min_times} images that can be used", errors)
        return sequences

    def _read(self, visit: OpenVisit, metadata: VisitMetadata, x: np.ndarray, y: np.ndarray) -> Cutouts:
        return read_cutouts(
            visit,
            metadata,
            x,
            y,
            size=self.config.cutout_size,
            psf_size=self.config.psf_size,
            bad_planes=self.config.bad_planes,
        )


def _raise_no_work(reason: str, errors: Sequence[VisitError]) -> NoReturn:
    """Tell that there is nothing to do, or that damaged images are why."""
    if errors:
        message = f"{reason}; {len(errors)} cannot be used, the first of them {errors[0]}"
        raise RuntimeError(message) from errors[0]
    raise NoWorkFound(f"{reason}.")
