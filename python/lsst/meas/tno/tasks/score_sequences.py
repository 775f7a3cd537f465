# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

__all__ = ("ScoreSequencesConfig", "ScoreSequencesConnections", "ScoreSequencesTask")

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from astropy.table import Column, Table
from scipy.special import expit

from lsst.pex.config import ChoiceField, RangeField
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

from .._schema import SCHEMAS
from .._stored_tables import read_table
from ..nn.inputs import PIXEL_COLUMNS, PIXEL_SCALE_COLUMNS

if TYPE_CHECKING:
    from ..nn.classifier import Classifier

COMPUTED = ("logit", "score")


class ScoreSequencesConnections(
    PipelineTaskConnections,
    dimensions=("skymap", "tract", "patch"),
    defaultTemplates={"suffix": ""},
):
    """Connections of `ScoreSequencesTask`."""

    sequences = connectionTypes.Input(
        doc="Image sequences, with or without injected objects.",
        name="tno_sequences{suffix}",
        storageClass="ArrowAstropy",
        dimensions=("skymap", "tract", "patch"),
        deferLoad=True,
    )
    classifier = connectionTypes.Input(
        doc="Trained network.",
        name="tno_classifier",
        storageClass="ArrowTable",
        dimensions=(),
    )
    scores = connectionTypes.Output(
        doc="Logit and score of each sequence.",
        name="tno_scores{suffix}",
        storageClass="ArrowAstropy",
        dimensions=("skymap", "tract", "patch"),
    )


class ScoreSequencesConfig(PipelineTaskConfig, pipelineConnections=ScoreSequencesConnections):
    """Configuration of `ScoreSequencesTask`."""

    batch_size = RangeField(dtype=int, doc="Number of sequences to score at a time.", default=32, min=1)
    device = ChoiceField[str](
        doc="Device to compute on.",
        allowed={"auto": "A GPU where there is one, or else the CPU.", "cpu": "CPU.", "cuda": "GPU."},
        default="auto",
    )
    n_threads = RangeField(dtype=int, doc="Number of threads on the CPU.", default=1, min=1)


class ScoreSequencesTask(PipelineTask):
    """Score image sequences with a trained classifier."""

    ConfigClass: ClassVar[type[ScoreSequencesConfig]] = ScoreSequencesConfig
    _DefaultName: ClassVar[str] = "scoreSequences"

    config: ScoreSequencesConfig

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the classifier and the columns that it needs, and write the
        scores.
        """
        from ..nn.classifier import classifier_from_table

        classifier = classifier_from_table(butlerQC.get(inputRefs.classifier))
        handle = butlerQC.get(inputRefs.sequences)
        schema = _schema_of(handle.get(component="columns"))
        names = [column.name for column in schema if column.name not in COMPUTED]
        names += [*PIXEL_COLUMNS, *PIXEL_SCALE_COLUMNS, *classifier.architecture.columns]
        sequences = read_table(handle, names)
        butlerQC.put(self.run(sequences=sequences, classifier=classifier), outputRefs)

    def run(self, sequences: Table, classifier: Classifier) -> Struct:
        """Score sequences.

        Parameters
        ----------
        sequences
            Image sequences; of the columns at least those of `SCORE_COLUMNS`
            but logit and score, those of `PIXEL_SCALE_COLUMNS`, and those the
            classifier's network is fed with.
        classifier
            The classifier.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``scores`` (`astropy.table.Table`), in the order of the sequences.
            A sequence without any usable pixel has nothing in it to find: its
            logit is minus infinity, its score 0.

        Raises
        ------
        lsst.meas.tno.nn.classifier.ShapeMismatchError
            Raised if the classifier was not made for sequences of this shape.
        lsst.meas.tno.nn.classifier.PixelScaleMismatchError
            Raised if it was not made for sequences of this pixel scale.
        NoWorkFound
            Raised if there are no sequences.
        """
        from ..nn.compute import reproducible

        if len(sequences) == 0:
            raise NoWorkFound("There are no sequences to score.")
        classifier.check_pixel_scale({name: np.asarray(sequences[name]) for name in PIXEL_SCALE_COLUMNS})
        names = dict.fromkeys((*PIXEL_COLUMNS, *classifier.architecture.columns))
        columns = {name: np.asarray(sequences[name]) for name in names}
        with reproducible(n_threads=self.config.n_threads):
            logits = classifier.compute_logits(
                columns, batch_size=self.config.batch_size, device=self.config.device
            )
        self.metadata["n_sequences"] = len(sequences)
        self.metadata["n_without_usable_pixels"] = int(np.count_nonzero(np.isneginf(logits)))
        self.log.info(
            "Scored %d sequences, of which %d have no usable pixel.",
            len(sequences),
            self.metadata["n_without_usable_pixels"],
        )
        return Struct(scores=_make_table(sequences, logits))


def _schema_of(names: list[str]) -> tuple:
    return SCHEMAS["tno_scores_injected" if "injected" in names else "tno_scores"]


def _make_table(sequences: Table, logits: np.ndarray) -> Table:
    # In float64 a sigmoid is below 1 for longer, though float32 rounds it.
    computed = {"logit": logits, "score": expit(logits.astype(np.float64)).astype(np.float32)}
    return Table(
        [
            Column(
                computed[column.name] if column.name in computed else np.asarray(sequences[column.name]),
                name=column.name,
                unit=column.unit,
                description=column.doc,
            )
            for column in _schema_of(sequences.colnames)
        ]
    )
