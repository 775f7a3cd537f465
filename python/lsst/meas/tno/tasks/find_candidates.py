# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

__all__ = ("FindCandidatesConfig", "FindCandidatesConnections", "FindCandidatesTask")

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from astropy.table import Table

from lsst.pex.config import ChoiceField, DictField, Field, FieldValidationError, RangeField
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

from .._columns import make_table
from .._sequences import BANDS, ImageSequences
from .._stored_tables import TableHandle, read_parts
from ..candidates import Candidates, measure_candidates, merge_candidates, tracks_of
from ..matched_filter import band_flux_ratio
from ..nn.threshold_config import ThresholdConfig, choose_threshold
from ..photometry import TNO_COLOURS


class FindCandidatesConnections(
    PipelineTaskConnections,
    dimensions=("skymap", "tract", "patch"),
    defaultTemplates={"suffix": ""},
):
    """Connections of `FindCandidatesTask`."""

    sequences = connectionTypes.Input(
        doc="Image sequences, with or without injected objects.",
        name="tno_sequences{suffix}",
        storageClass="ArrowAstropy",
        dimensions=("skymap", "tract", "patch"),
        deferLoad=True,
    )
    scores = connectionTypes.Input(
        doc="Logits of the sequences.",
        name="tno_scores{suffix}",
        storageClass="ArrowAstropy",
        dimensions=("skymap", "tract", "patch"),
    )
    classifier = connectionTypes.Input(
        doc="The network that gave the logits, for its calibration.",
        name="tno_classifier",
        storageClass="ArrowTable",
        dimensions=(),
    )
    candidates = connectionTypes.Output(
        doc="Sequences that seem to hold an object, and what was measured of it.",
        name="tno_candidates{suffix}",
        storageClass="ArrowAstropy",
        dimensions=("skymap", "tract", "patch"),
    )

    def __init__(self, *, config: FindCandidatesConfig | None = None) -> None:
        if config is not None and config.threshold_mode == "logit":
            del self.classifier


class FindCandidatesConfig(
    PipelineTaskConfig, ThresholdConfig, pipelineConnections=FindCandidatesConnections
):
    """Configuration of `FindCandidatesTask`."""

    reference_band = ChoiceField[str](
        doc="Band of the fluxes and magnitudes.",
        allowed={band: f"The {band} band." for band in BANDS},
        default="r",
    )
    colours = DictField[str, float](
        doc="AB magnitude of an object in each band less that in r, mag.", default=dict(TNO_COLOURS)
    )
    rate_max = Field[float](
        doc="Highest rate that is searched, relative to the window, arcsec/hour.", optional=True
    )
    min_images = Field[int](
        doc="Images in a row that an object must be able to stay in the window for, which limits the rates; "
        "all of a sequence if neither this nor rate_max is given.",
        optional=True,
    )
    merge_sigma = RangeField(
        doc="Standard deviations by which the positions of the same object in two windows may differ, where "
        "that is more than half of the PSF's FWHM.",
        dtype=float,
        default=5.0,
        min=0.0,
    )
    batch_size = RangeField(dtype=int, doc="Number of sequences to search at a time.", default=16, min=1)
    device = ChoiceField[str](
        doc="Device to compute on.",
        allowed={"auto": "A GPU where there is one, or else the CPU.", "cpu": "CPU.", "cuda": "GPU."},
        default="auto",
    )
    n_threads = RangeField(dtype=int, doc="Number of threads on the CPU.", default=1, min=1)

    def validate(self) -> None:
        super().validate()
        if missing := sorted(set(BANDS) - set(self.colours)):
            raise FieldValidationError(
                type(self).colours, self, f"colours has no value for the bands {missing}."
            )


class FindCandidatesTask(PipelineTask):
    """Measure what the sequences with a high score seem to hold, and list each
    object once.
    """

    ConfigClass: ClassVar[type[FindCandidatesConfig]] = FindCandidatesConfig
    _DefaultName: ClassVar[str] = "findCandidates"

    config: FindCandidatesConfig

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the scores, get a handle of the sequences, and write the
        candidates.
        """
        description = None
        if hasattr(inputRefs, "classifier"):
            from ..nn.classifier import read_description

            description = read_description(butlerQC.get(inputRefs.classifier))
        scores = butlerQC.get(inputRefs.scores)
        sequences = butlerQC.get(inputRefs.sequences)
        butlerQC.put(self.run(scores=scores, sequences=sequences, description=description), outputRefs)

    def run(
        self,
        scores: Table,
        sequences: TableHandle,
        description: Mapping[str, Any] | None = None,
    ) -> Struct:
        """Find candidates.

        Parameters
        ----------
        scores
            Scores of the sequences.
        sequences
            Handle of the table of image sequences, which is read only if there
            is anything to measure.
        description
            Description of the classifier, unless the threshold is a logit.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``candidates`` (`astropy.table.Table`), in the order of
            sequence_id; without rows if there are none.

        Raises
        ------
        NoWorkFound
            Raised if there are no sequences.
        ValueError
            Raised if a sequence with a score is missing.
        lsst.meas.tno.nn.calibration.CalibrationError
            Raised if the classifier's calibration gives no such threshold.
        """
        if len(scores) == 0:
            raise NoWorkFound("There are no scores to choose from.")
        threshold = choose_threshold(self.config, description, self.log)
        chosen = scores[np.asarray(scores["logit"]) >= threshold.logit]
        chosen = chosen[np.argsort(np.asarray(chosen["sequence_id"]), kind="stable")]
        candidates = Candidates.full(0)
        n_measured = 0
        if len(chosen):
            selected = _select(sequences, chosen)
            self.log.info("Measuring %d sequences.", len(selected))
            candidates, n_measured = self._measure(selected, chosen)
        self._count(threshold.logit, len(scores), len(chosen), n_measured, len(candidates))
        return Struct(candidates=make_table(candidates.items()))

    def _measure(self, sequences: ImageSequences, chosen: Table) -> tuple[Candidates, int]:
        """Return the candidates, and their number before merging."""
        config = self.config
        candidates, rows = measure_candidates(
            sequences,
            np.asarray(chosen["logit"]),
            relative_flux=band_flux_ratio(sequences.band, config.colours, config.reference_band),
            rate_max=config.rate_max,
            min_images=config.min_images,
            device=config.device,
            n_threads=config.n_threads,
            batch_size=config.batch_size,
        )
        kept_by = merge_candidates(candidates, tracks_of(sequences[rows]), config.merge_sigma)
        return candidates.select(kept_by == np.arange(len(rows))), len(rows)

    def _count(self, logit: float, n_scores: int, n_chosen: int, n_measured: int, n_kept: int) -> None:
        self.metadata["threshold"] = logit
        self.metadata["n_sequences"] = n_scores
        self.metadata["n_above_threshold"] = n_chosen
        self.metadata["n_not_measurable"] = n_chosen - n_measured
        self.metadata["n_merged"] = n_measured - n_kept
        self.metadata["n_candidates"] = n_kept
        self.log.info(
            "%d of %d sequences have a logit of %.4f or more; %d cannot be measured, %d are of an object "
            "that another has, which leaves %d candidates.",
            n_chosen,
            n_scores,
            logit,
            n_chosen - n_measured,
            n_measured - n_kept,
            n_kept,
        )


def _select(handle: TableHandle, chosen: Table) -> ImageSequences:
    """Return the sequences of some scores, in their order."""
    wanted = np.asarray(chosen["sequence_id"])
    n_sequences, parts = 0, []
    for table in read_parts(handle):
        n_sequences += len(table)
        parts.append(ImageSequences.from_table(table[np.isin(table["sequence_id"], wanted)]))
    sequences = ImageSequences.concatenate(parts)
    order = np.argsort(sequences.sequence_id, kind="stable")
    found = np.searchsorted(sequences.sequence_id[order], wanted)
    rows = order[np.minimum(found, len(order) - 1)] if len(order) else np.empty(0, dtype=int)
    if len(order) == 0 or not np.array_equal(sequences.sequence_id[rows], wanted):
        raise ValueError(
            f"The scores are of {len(wanted)} sequences with a high logit, not all of which are among the "
            f"{n_sequences} sequences. Score these sequences again."
        )
    return sequences[rows]
