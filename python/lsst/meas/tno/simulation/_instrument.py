# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The instrument of simulated surveys."""

from __future__ import annotations

__all__ = ("TnoSimCam",)

from typing import Any, NoReturn

from lsst.daf.butler import DataId, DimensionRecord, DimensionUniverse, Registry
from lsst.pipe.base import Instrument
from lsst.utils.introspection import get_full_type_name

from .._sequences import BANDS
from ._camera import INSTRUMENT, SimDetector
from ._config import SimulateSurveyConfig
from ._observations import physical_filter

VISIT_SYSTEM = 0
"""The visit system in which every exposure is a visit."""

VISIT_MAX = 30_000_000_000_000
"""Larger than any visit's number."""

DETECTOR_MAX = 1000
"""Largest number of detectors."""


class TnoSimCam(Instrument):
    """The camera of simulated surveys.

    Its detectors are those of the configuration of a survey, by default of
    the default one.

    Parameters
    ----------
    collection_prefix
        Prefix of collection names.
    """

    def __init__(self, collection_prefix: str | None = None) -> None:
        super().__init__(collection_prefix=collection_prefix)
        self._detectors: tuple[SimDetector, ...] | None = None

    @classmethod
    def from_detectors(cls, detectors: tuple[SimDetector, ...]) -> TnoSimCam:
        """Make an instrument of other detectors than the default ones.

        Parameters
        ----------
        detectors
            The detectors.
        """
        instrument = cls()
        instrument._detectors = detectors
        return instrument

    @classmethod
    def getName(cls) -> str:
        """Return the name of the instrument in data IDs."""
        return INSTRUMENT

    @property
    def detectors(self) -> tuple[SimDetector, ...]:
        """The detectors."""
        if self._detectors is None:
            from ._camera import make_camera

            self._detectors = make_camera(SimulateSurveyConfig()).detectors
        return self._detectors

    def register(self, registry: Registry, *, update: bool = False) -> None:
        """Insert the instrument, its detectors and filters into a registry.

        Parameters
        ----------
        registry
            Registry to insert into.
        update
            Whether to update records that differ.
        """
        with registry.transaction():
            for record in self._records(registry.dimensions):
                registry.syncDimensionData(record.definition.name, record, update=update)

    def getRawFormatter(self, dataId: DataId) -> NoReturn:
        """Raise, because there are no raw images.

        Parameters
        ----------
        dataId
            Data ID of a raw image.
        """
        raise NotImplementedError(f"{INSTRUMENT} has no raw images; a survey begins with visit images.")

    def _records(self, universe: DimensionUniverse) -> list[DimensionRecord]:
        def make(element: str, **values: Any) -> DimensionRecord:
            return universe[element].RecordClass(**values)

        instrument = make(
            "instrument",
            name=INSTRUMENT,
            visit_max=VISIT_MAX,
            exposure_max=VISIT_MAX,
            detector_max=DETECTOR_MAX,
            visit_system=VISIT_SYSTEM,
            class_name=get_full_type_name(self),
        )
        filters = [
            make("physical_filter", instrument=INSTRUMENT, name=physical_filter(band), band=band)
            for band in BANDS
        ]
        detectors = [
            make(
                "detector",
                instrument=INSTRUMENT,
                id=detector.id,
                full_name=detector.full_name,
                name_in_raft=detector.name_in_raft,
                raft=detector.raft,
                purpose="SCIENCE",
            )
            for detector in self.detectors
        ]
        return [instrument, *filters, *detectors]
