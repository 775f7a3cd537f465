# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The task that computes where the objects of an orbit catalog are."""

from __future__ import annotations

__all__ = ("ComputeEphemeridesConfig", "ComputeEphemeridesConnections", "ComputeEphemeridesTask")

from typing import ClassVar

import numpy as np
from astropy.table import Table

from lsst.pex.config import Field, FieldValidationError, RangeField
from lsst.pipe.base import (
    NoWorkFound,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    Struct,
)
from lsst.pipe.base.connectionTypes import Output, PrerequisiteInput

from .._schema import ORBIT_COLUMNS, validate_table
from ..ephemerides import initial_states
from ..orbit_states import compute_orbit_states
from ..orbits import offset_mean_anomaly


class ComputeEphemeridesConnections(PipelineTaskConnections, dimensions=()):
    """Connections of `ComputeEphemeridesTask`."""

    orbits = PrerequisiteInput(
        doc="Orbits, as `butler ingest-tno-orbits` writes them.",
        name="tno_orbits",
        storageClass="ArrowAstropy",
        dimensions=(),
    )
    ephemerides = Output(
        doc="Barycentric states of the objects at regular steps.",
        name="tno_ephemerides",
        storageClass="ArrowAstropy",
        dimensions=(),
    )


class ComputeEphemeridesConfig(PipelineTaskConfig, pipelineConnections=ComputeEphemeridesConnections):
    """Configuration of `ComputeEphemeridesTask`."""

    mjd_begin = Field[float](
        doc="TDB MJD of the first state. It must be before the first visit by the time that light takes from "
        "the farthest object (6 days from 1000 au). The default, and that of mjd_end, are the years 2022 to "
        "2036: those of Data Preview 0.2, and of the survey.",
        default=59550.0,
    )
    mjd_end = Field[float](doc="TDB MJD that the last state is not before.", default=64690.0)
    step = RangeField(
        doc="Time from one state to the next, days.", dtype=float, default=30.0, min=0.0, inclusiveMin=False
    )
    max_error = RangeField(
        doc="Error of positions that are interpolated between the states, mas. Objects with a larger one, "
        "which are near the Sun, are left out.",
        dtype=float,
        default=1.0,
        min=0.0,
        inclusiveMin=False,
    )
    mean_anomaly_offset = Field[float](
        doc="Angle by which all objects are moved on along their orbits, deg: real objects are then not "
        "where the catalog has them, so that what is injected does not fall on their images.",
        default=0.0,
    )
    n_threads = RangeField(
        dtype=int, doc="Threads to compute with. Results do not depend on it.", default=1, min=1
    )

    def validate(self) -> None:
        super().validate()
        if not self.mjd_begin < self.mjd_end:
            raise FieldValidationError(
                type(self).mjd_begin, self, f"mjd_begin={self.mjd_begin} is not before {self.mjd_end=}."
            )


class ComputeEphemeridesTask(PipelineTask):
    """Compute where the objects of an orbit catalog are, once for all patches.

    Notes
    -----
    The metadata count orbits: ``n_orbits`` of the catalog, ``n_lost`` that
    could not be followed, ``n_inaccurate`` with errors above ``max_error``,
    and ``n_written``.
    """

    ConfigClass: ClassVar = ComputeEphemeridesConfig
    _DefaultName: ClassVar[str] = "computeEphemerides"

    config: ComputeEphemeridesConfig

    def run(self, orbits: Table) -> Struct:
        """Compute the states.

        Parameters
        ----------
        orbits
            Orbits, with the columns of `ORBIT_COLUMNS`.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            Result with ``ephemerides`` (`astropy.table.Table` with the columns
            of `EPHEMERIDES_COLUMNS`), in the order of the orbits.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            Raised if there are no orbits.
        ValueError
            Raised if an orbit is impossible, or if none is left.
        """
        validate_table(orbits, ORBIT_COLUMNS)
        if not len(orbits):
            raise NoWorkFound("There are no orbits to compute ephemerides of.")
        # Impossible orbits are refused with the elements that they came with.
        initial_states(orbits)
        states, error = compute_orbit_states(
            offset_mean_anomaly(orbits, self.config.mean_anomaly_offset),
            self.config.mjd_begin,
            self.config.mjd_end,
            self.config.step,
            n_threads=self.config.n_threads,
        )
        error = 1e3 * error
        self._count(orbits, error)
        return Struct(ephemerides=states.select(error <= self.config.max_error).to_table())

    def _count(self, orbits: Table, error: np.ndarray) -> None:
        """Count and log what is left out; ``error`` is in mas."""
        n_lost = int(np.isnan(error).sum())
        inaccurate = np.flatnonzero(error > self.config.max_error)
        n_written = len(orbits) - n_lost - len(inaccurate)
        self.metadata["n_orbits"] = len(orbits)
        self.metadata["n_lost"] = n_lost
        self.metadata["n_inaccurate"] = len(inaccurate)
        self.metadata["n_written"] = n_written
        if len(inaccurate):
            worst = inaccurate[np.argmax(error[inaccurate])]
            self.log.warning(
                "Left out %d of %d objects that come too near to the Sun for states every %g days; the worst "
                "is %s, off by %.3g mas in between.",
                len(inaccurate),
                len(orbits),
                self.config.step,
                orbits["name"][worst],
                error[worst],
            )
        if n_written == 0:
            raise ValueError(
                f"None of the {len(orbits)} objects has ephemerides: {n_lost} could not be followed, and "
                f"{len(inaccurate)} have errors above max_error={self.config.max_error} mas with "
                f"step={self.config.step} days. Lower step."
            )
        self.log.info("Computed where %d objects are.", n_written)
