# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

__all__ = ("TrainClassifierConfig", "TrainClassifierConnections", "TrainClassifierTask")

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from lsst.daf.butler import DeferredDatasetHandle
from lsst.pex.config import ConfigField, Field
from lsst.pipe.base import (
    InMemoryDatasetHandle,
    InputQuantizedConnection,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
    connectionTypes,
)

from ..nn import TrainingConfig, architectures

if TYPE_CHECKING:
    from ..nn.training import Trainer
    from ..nn.training_set import TrainingSet


class TrainClassifierConnections(
    PipelineTaskConnections,
    dimensions=(),
    defaultTemplates={"inputSequences": "tno_sequences_injected"},
):
    """Connections of `TrainClassifierTask`."""

    sequences = connectionTypes.Input(
        doc="Injected image sequences, all of the input collections.",
        name="{inputSequences}",
        storageClass="ArrowAstropy",
        dimensions=("skymap", "tract", "patch"),
        multiple=True,
        deferLoad=True,
    )
    classifier = connectionTypes.Output(
        doc="Trained network, one row a tensor.",
        name="tno_classifier",
        storageClass="ArrowTable",
        dimensions=(),
    )
    history = connectionTypes.Output(
        doc="Losses of each epoch.",
        name="tno_training_history",
        storageClass="ArrowAstropy",
        dimensions=(),
    )
    plot = connectionTypes.Output(
        doc="Figure of the losses and the ROC curves.",
        name="tno_training_plot",
        storageClass="Plot",
        dimensions=(),
    )


class TrainClassifierConfig(PipelineTaskConfig, pipelineConnections=TrainClassifierConnections):
    """Configuration of `TrainClassifierTask`."""

    architecture = architectures.makeField(doc="Architecture of the network.", default="trajectories")
    training = ConfigField[TrainingConfig](doc="How the network is trained.", dtype=TrainingConfig)
    scratch_directory = Field[str](
        doc="Directory for what the network is fed during the training, 45 kB for a sequence of 50 images of "
        "15x15 pixels, and 240 kB more for one of the training split with training.reinject; by default the "
        "system's for temporary files (TMPDIR).",
        optional=True,
    )


class TrainClassifierTask(PipelineTask):
    """Train a network to tell image sequences with an object from those
    without.

    It learns from the sequences of the training split, stops and is calibrated
    by those of the validation split, and reports on those of the test split.
    """

    ConfigClass: ClassVar[type[TrainClassifierConfig]] = TrainClassifierConfig
    _DefaultName: ClassVar[str] = "trainClassifier"

    config: TrainClassifierConfig

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Get handles of the sequences, and write what `run` returns."""
        result = self.run(sequences=butlerQC.get(inputRefs.sequences))
        butlerQC.put(result, outputRefs)
        result.trainer.remove_checkpoint()

    def run(self, sequences: Sequence[DeferredDatasetHandle | InMemoryDatasetHandle]) -> Struct:
        """Train a network.

        Parameters
        ----------
        sequences
            Handles of tables of injected image sequences, of which one at a
            time is read. Their order does not matter.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``classifier`` (`pyarrow.Table`), ``history``
            (`astropy.table.Table`), ``plot`` (`matplotlib.figure.Figure`), and
            ``trainer`` (`lsst.meas.tno.nn.training.Trainer`), whose checkpoint
            is to be removed once the others are safe.

        Raises
        ------
        lsst.meas.tno.nn.training_set.TrainingSetError
            Raised if a network cannot be trained on the sequences.
        """
        from ..nn.compute import reproducible, resolve_device
        from ..nn.training import Trainer
        from ..nn.training_set import ArrayStore, read_training_set

        config = self.config.training
        # A device that is not there should not be found out after the reading.
        self.log.info("Training on device %s.", resolve_device(config.device).type)
        architecture = self.config.architecture.apply()
        with (
            tempfile.TemporaryDirectory(
                prefix="tno-training-", dir=self.config.scratch_directory
            ) as directory,
            reproducible(n_threads=config.n_threads, seed=config.seed),
        ):
            store = ArrayStore(Path(directory))
            reinjection = config.reinjection if config.reinject else None
            training_set = read_training_set(sequences, architecture, store, self.log, reinjection)
            for name, count in training_set.counts.items():
                self.metadata[name] = count
            self.log.info("Sequences: %s.", training_set.counts)
            trainer = Trainer(architecture, training_set, config, self.log)
            trainer.run()
            return self._summarize(trainer, training_set)

    def _summarize(self, trainer: Trainer, training_set: TrainingSet) -> Struct:
        from ..nn.metrics import roc_areas_by_snr
        from ..nn.plots import plot_training
        from ..nn.training import history_table

        history = history_table(trainer.history)
        metrics = {}
        for split in ("validation", "test"):
            rows = training_set.rows(split)
            logits = trainer.compute_logits(split)
            injected, snr = training_set.injected[rows], training_set.snr[rows]
            metrics[split] = roc_areas_by_snr(logits, injected, snr)
            self.log.info("ROC areas, %s: %s", split, metrics[split])
            if split == "validation":
                calibration = self._calibrate(logits, injected)
            # A set without test sequences shows those of validation.
            if split == "validation" or len(rows):
                plot = plot_training(history, logits, injected, snr, split)
        classifier = self._make_table(trainer, training_set, metrics, calibration)
        return Struct(classifier=classifier, history=history, plot=plot, trainer=trainer)

    def _calibrate(self, logits: np.ndarray, injected: np.ndarray) -> dict[str, Any] | None:
        from ..nn.calibration import CalibrationError, fit_calibration

        try:
            calibration = fit_calibration(logits, injected)
        except CalibrationError as error:
            self.log.warning("The classifier has no calibration: %s", error)
            return None
        self.log.info(
            "Calibrated on %d sequences without an object: thresholds for rates of false positives down to "
            "%.3g a sequence.",
            calibration.n_clean,
            calibration.smallest_rate,
        )
        return calibration.to_json()

    def _make_table(
        self,
        trainer: Trainer,
        training_set: TrainingSet,
        metrics: dict[str, Any],
        calibration: dict[str, Any] | None,
    ) -> pa.Table:
        from ..nn.classifier import Classifier, classifier_to_table, describe_classifier

        architecture = self.config.architecture.apply()
        description = describe_classifier(
            self.config.architecture.name,
            architecture,
            training_set.shape,
            training_set.pixel_scale,
            training={
                "config": self.config.training.describe(),
                "device": trainer.device.type,
                "best_epoch": trainer.best_epoch,
                "n_epochs": len(trainer.history),
                "counts": training_set.counts,
                "data": training_set.sources,
            },
            metrics=metrics,
            calibration=calibration,
        )
        return classifier_to_table(Classifier(architecture, trainer.network, description))
