# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The task that injects moving objects into image sequences."""

from __future__ import annotations

__all__ = ("InjectTnosConfig", "InjectTnosConnections", "InjectTnosTask")

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np

from lsst.pex.config import DictField, FieldValidationError, RangeField
from lsst.pipe.base import (
    InputQuantizedConnection,
    NoWorkFound,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
)
from lsst.pipe.base.connectionTypes import Input, Output

# Its populations register themselves.
from .. import orbit_populations  # noqa: F401
from .._progress import log_waiting
from .._sequences import BANDS, ImageSequences
from .._stored_tables import read_table
from ..injection import inject_in_place
from ..orbit_states import OrbitStates
from ..photometry import RUBIN_ZERO_POINTS
from ..populations import PopulationTask, population_registry


class InjectTnosConnections(PipelineTaskConnections, dimensions=("skymap", "tract", "patch")):
    """Connections of `InjectTnosTask`."""

    cutouts = Input(
        doc="Image sequences to inject objects into.",
        name="tno_cutouts",
        storageClass="ArrowAstropy",
        dimensions=("skymap", "tract", "patch"),
        deferLoad=True,
    )
    ephemerides = Input(
        doc="States of the objects of an orbit catalog, for populations that move on them.",
        name="tno_ephemerides",
        storageClass="ArrowAstropy",
        dimensions=(),
    )
    injected = Output(
        doc="Image sequences, part of them with an injected object, and the truth.",
        name="tno_cutouts_injected",
        storageClass="ArrowAstropy",
        dimensions=("skymap", "tract", "patch"),
    )

    def __init__(self, *, config: InjectTnosConfig | None = None) -> None:
        if config is not None and not config.population.target.needs_orbits:
            del self.ephemerides


class InjectTnosConfig(PipelineTaskConfig, pipelineConnections=InjectTnosConnections):
    """Configuration of `InjectTnosTask`."""

    population = population_registry.makeField(doc="Population that the objects are of.", default="linear")
    fraction = RangeField(
        doc="Fraction of the sequences that are to get an object. It does not matter for a survey, whose "
        "objects are where they are.",
        dtype=float,
        default=0.5,
        min=0.0,
        max=1.0,
        inclusiveMax=True,
    )
    seed = RangeField(
        doc="Seed of the random numbers, together with tract, patch and sequence_id.",
        dtype=int,
        default=1,
        min=0,
    )
    zero_points = DictField[str, float](
        doc="AB magnitude of one photo-electron a second, by band; for the Poisson noise of the objects.",
        default=dict(RUBIN_ZERO_POINTS),
    )
    max_draws = RangeField(
        doc="Objects drawn for a sequence, while all pixels that they would be seen in are masked.",
        dtype=int,
        default=3,
        min=1,
    )

    def validate(self) -> None:
        super().validate()
        if missing := sorted(set(BANDS) - set(self.zero_points)):
            raise FieldValidationError(
                type(self).zero_points, self, f"zero_points has no value for the bands {missing}."
            )


class InjectTnosTask(PipelineTask):
    """Inject moving point sources into some of the image sequences.

    Works on cutouts and on warps alike; on warps, whose pixels are not
    independent, the Poisson noise of the objects is an approximation.

    Parameters
    ----------
    **kwargs
        Arguments of `lsst.pipe.base.PipelineTask`.
    """

    ConfigClass: ClassVar = InjectTnosConfig
    _DefaultName: ClassVar[str] = "injectTnos"

    config: InjectTnosConfig
    population: PopulationTask

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.makeSubtask("population")

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        # Docstring inherited. The sequences that were read have no name here,
        # so that they are gone while the others are written.
        orbits = None
        if self.population.needs_orbits:
            orbits = OrbitStates.from_table(butlerQC.get(inputRefs.ephemerides))
        result = self.run(ImageSequences.from_table(read_table(butlerQC.get(inputRefs.cutouts))), orbits)
        butlerQC.put(result.injected.to_arrow(), outputRefs.injected)

    def run(self, cutouts: ImageSequences, orbits: OrbitStates | None = None) -> Struct:
        """Inject objects.

        Parameters
        ----------
        cutouts
            Image sequences, none of which has an injected object. They are
            not changed.
        orbits
            States of the objects of an orbit catalog, for populations that
            need them.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            Result with ``injected`` (`ImageSequences`), the same sequences
            with the objects and the truth. Sequences without an object are
            the same bit for bit.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            Raised if there are no sequences.
        ValueError
            Raised if objects were injected before, if no object of the
            population can stay inside any sequence for long enough, or if
            there are no states for the time of a visit.
        """
        if not len(cutouts):
            raise NoWorkFound("There are no image sequences to inject objects into.")
        if cutouts.injection is not None:
            raise ValueError("Objects were injected into these image sequences before.")
        self.population.check(cutouts, orbits)
        rngs = [self._make_rng(cutouts, row) for row in range(len(cutouts))]
        index = self._choose(rngs)
        injected = dataclasses.replace(
            cutouts, image=cutouts.image.copy(), variance=cutouts.variance.copy(), mask=cutouts.mask.copy()
        )
        with log_waiting(self.log, "Injecting objects"):
            injected.injection = inject_in_place(
                injected,
                index,
                functools.partial(self.population.draw, orbits=orbits),
                [rngs[row] for row in index],
                zero_points=self.config.zero_points,
                # The objects of a survey are the same at every draw.
                max_draws=1 if self.population.is_survey else self.config.max_draws,
            )
        self._count(len(cutouts), len(index), int(injected.injection.injected.sum()))
        return Struct(injected=injected)

    def _make_rng(self, sequences: ImageSequences, row: int) -> np.random.Generator:
        """Return the generator of one sequence, whatever else is there."""
        data_id = (sequences.tract[row], sequences.patch[row], sequences.sequence_id[row])
        return np.random.default_rng([self.config.seed, *(int(value) for value in data_id)])

    def _choose(self, rngs: list[np.random.Generator]) -> np.ndarray:
        """Return the rows of the sequences that are to get an object: those
        with the lowest random numbers, so that their number is exact.
        """
        if self.population.is_survey:
            return np.arange(len(rngs))
        n_chosen = int(np.floor(self.config.fraction * len(rngs) + 0.5))
        order = np.argsort([rng.random() for rng in rngs], kind="stable")
        return np.sort(order[:n_chosen])

    def _count(self, n_sequences: int, n_chosen: int, n_injected: int) -> None:
        n_left_out = 0 if self.population.is_survey else n_chosen - n_injected
        self.metadata["n_sequences"] = n_sequences
        self.metadata["n_injected"] = n_injected
        self.metadata["n_left_out"] = n_left_out
        self.log.info("Injected objects into %d of %d image sequences.", n_injected, n_sequences)
        if n_left_out:
            self.log.warning(
                "Left %d image sequences without an object: no track stayed inside in %d images, all pixels "
                "on it are masked, or no orbit is in the sequence's split.",
                n_left_out,
                self.population.config.min_times_inside,
            )
