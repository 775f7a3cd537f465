# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

__all__ = ("MeasureEfficiencyConfig", "MeasureEfficiencyConnections", "MeasureEfficiencyTask")

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from astropy.table import Table

from lsst.daf.butler import DatasetRef, DeferredDatasetHandle
from lsst.pex.config import RangeField
from lsst.pipe.base import (
    InMemoryDatasetHandle,
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

from ..efficiency import TRACK_COLUMNS, Trials, is_repeated
from ..efficiency_table import EfficiencyOptions, make_efficiency_table
from ..nn.calibration import ScoreCalibration
from ..nn.threshold_config import ThresholdConfig, choose_threshold, windows_per_square_degree
from ..positions import SPLITS, split_of_orbits

type Handle = DeferredDatasetHandle | InMemoryDatasetHandle


class MeasureEfficiencyConnections(PipelineTaskConnections, dimensions=("skymap",)):
    """Connections of `MeasureEfficiencyTask`."""

    scores = connectionTypes.Input(
        doc="Logits of injected sequences, with the truth.",
        name="tno_scores_injected",
        storageClass="ArrowAstropy",
        dimensions=("skymap", "tract", "patch"),
        multiple=True,
        deferLoad=True,
    )
    candidates = connectionTypes.Input(
        doc="Candidates among injected sequences.",
        name="tno_candidates_injected",
        storageClass="ArrowAstropy",
        dimensions=("skymap", "tract", "patch"),
        multiple=True,
        deferLoad=True,
    )
    sequences = connectionTypes.Input(
        doc="Injected sequences; only their masks and the objects' tracks are read.",
        name="tno_sequences_injected",
        storageClass="ArrowAstropy",
        dimensions=("skymap", "tract", "patch"),
        multiple=True,
        deferLoad=True,
    )
    classifier = connectionTypes.Input(
        doc="The network that gave the logits.",
        name="tno_classifier",
        storageClass="ArrowTable",
        dimensions=(),
    )
    efficiency = connectionTypes.Output(
        doc="Efficiencies, false positives and misses, by kind of row.",
        name="tno_detection_efficiency",
        storageClass="ArrowAstropy",
        dimensions=("skymap",),
    )
    plot = connectionTypes.Output(
        doc="Figure of efficiencies, ROC curve and calibration.",
        name="tno_detection_efficiency_plot",
        storageClass="Plot",
        dimensions=("skymap",),
    )


class MeasureEfficiencyConfig(
    PipelineTaskConfig, ThresholdConfig, pipelineConnections=MeasureEfficiencyConnections
):
    """Configuration of `MeasureEfficiencyTask`; the threshold must be that of
    the candidates.
    """

    mag_bin_width = RangeField(
        doc="Width of the bins of magnitude, mag.", dtype=float, default=0.25, min=0.0, inclusiveMin=False
    )
    snr_bin_width = RangeField(
        doc="Width of the bins of S/N, dex; all below 1 are in one bin.",
        dtype=float,
        default=0.1,
        min=0.0,
        inclusiveMin=False,
    )
    rate_bin_width = RangeField(
        doc="Width of the bins of rate, arcsec/hour; no more than 15 bins if not given.",
        dtype=float,
        optional=True,
        default=None,
        min=0.0,
        inclusiveMin=False,
    )


class MeasureEfficiencyTask(PipelineTask):
    """Measure which injected objects are found, on the sequences of the test
    split, and why the others are not.
    """

    ConfigClass: ClassVar[type[MeasureEfficiencyConfig]] = MeasureEfficiencyConfig
    _DefaultName: ClassVar[str] = "measureEfficiency"

    config: MeasureEfficiencyConfig

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Get handles of the patches that have all tables, and write what
        `run` returns.
        """
        from ..nn.classifier import read_description

        refs = (inputRefs.scores, inputRefs.candidates, inputRefs.sequences)
        scores, candidates, sequences = (
            [butlerQC.get(ref) for ref in part] for part in _common_patches(refs)
        )
        description = read_description(butlerQC.get(inputRefs.classifier))
        result = self.run(scores=scores, candidates=candidates, sequences=sequences, description=description)
        butlerQC.put(result, outputRefs)

    def run(
        self,
        scores: Sequence[Handle],
        candidates: Sequence[Handle],
        sequences: Sequence[Handle],
        description: Mapping[str, Any],
    ) -> Struct:
        """Measure the detection efficiency.

        Parameters
        ----------
        scores, candidates, sequences
            Handles of the tables of the patches, in the same order, which does
            not matter otherwise. One patch at a time is read.
        description
            Description of the classifier.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``efficiency`` (`astropy.table.Table`) and ``plot``
            (`matplotlib.figure.Figure`).

        Raises
        ------
        NoWorkFound
            Raised if there are no sequences of the test split.
        ValueError
            Raised if candidates were chosen by a lower threshold.
        lsst.meas.tno.nn.calibration.CalibrationError
            Raised if the classifier's calibration gives no such threshold.
        """
        from ..efficiency_plots import plot_efficiency

        threshold = choose_threshold(self.config, description, self.log)
        parts = [
            self._read(*handles, threshold.logit)
            for handles in zip(scores, candidates, sequences, strict=True)
        ]
        if not sum(len(part) for part in parts):
            raise NoWorkFound("There are no sequences of the test split to measure an efficiency on.")
        trials = Trials.stack(parts)
        repeated = is_repeated(trials)
        trials = trials.select(~repeated)
        data = description.get("calibration")
        table = make_efficiency_table(
            trials,
            EfficiencyOptions(
                threshold=threshold,
                calibration=None if data is None else ScoreCalibration.from_json(data),
                windows_per_square_degree=windows_per_square_degree(description),
                bin_widths={
                    name: getattr(self.config, f"{name}_bin_width") for name in ("mag", "snr", "rate")
                },
            ),
        )
        self._count(table, trials, int(np.count_nonzero(repeated)))
        return Struct(efficiency=table, plot=plot_efficiency(table))

    def _read(self, scores: Handle, candidates: Handle, sequences: Handle, threshold: float) -> Trials:
        """Return the test sequences of a patch."""
        table, found = scores.get(), candidates.get()
        if len(found) and np.min(found["logit"]) < threshold:
            raise ValueError(
                f"The candidates of {candidates.dataId} have logits down to "
                f"{np.min(found['logit']):.4f}, below the threshold {threshold:.4f}. Configure the threshold "
                "that they were found with."
            )
        split, orbit = np.asarray(table["split"]), np.asarray(table["source_orbit"], dtype=str)
        # Others of the same orbit may have been trained with.
        is_foreign = (orbit != "") & (split_of_orbits(orbit) != split)
        table = table[(split == SPLITS.index("test")) & ~is_foreign]
        return Trials.from_tables(table, found, sequences.get(parameters={"columns": list(TRACK_COLUMNS)}))

    def _count(self, table: Table, trials: Trials, n_repeated: int) -> None:
        n_injected = int(np.count_nonzero(trials.injected))
        missed = table["reason"][table["kind"] == "missed"]
        self.metadata["n_sequences"] = len(trials)
        self.metadata["n_repeated"] = n_repeated
        self.metadata["n_injected"] = n_injected
        self.metadata["n_found"] = n_injected - len(missed)
        self.log.info("Found %d of %d objects in test sequences.", n_injected - len(missed), n_injected)
        for row in table[table["kind"] == "fit"]:
            if row["quantity"] in ("m50", "snr50"):
                error = row["value_high"] - row["value"]
                self.log.info("%s = %.3f +- %.3f %s", row["quantity"], row["value"], error, row["reason"])


def _common_patches(parts: Iterable[Sequence[DatasetRef]]) -> list[list[DatasetRef]]:
    """Return the refs of the data IDs that all have, in one order."""
    by_id = [{ref.dataId: ref for ref in refs} for refs in parts]
    common = sorted(set(by_id[0]).intersection(*by_id[1:]))
    return [[refs[data_id] for data_id in common] for refs in by_id]
