# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The task that resamples image sequences onto a common north-up grid."""

from __future__ import annotations

__all__ = ("WarpCutoutsConfig", "WarpCutoutsConnections", "WarpCutoutsTask")

from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from lsst.pex.config import ChoiceField, Field, RangeField
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

from .._sequences import ImageSequences, MaskBit
from .._stored_tables import read_parts
from ..warping import subtract_median, warp_sequences


class WarpCutoutsConnections(
    PipelineTaskConnections,
    dimensions=("skymap", "tract", "patch"),
    defaultTemplates={"suffix": ""},
):
    """Connections of `WarpCutoutsTask`; the suffix is ``_injected`` for
    sequences with injected objects.
    """

    cutouts = Input(
        doc="Image sequences on the pixels of each visit.",
        name="tno_cutouts{suffix}",
        storageClass="ArrowAstropy",
        dimensions=("skymap", "tract", "patch"),
        deferLoad=True,
    )
    sequences = Output(
        doc="Image sequences on a north-up grid that all images share.",
        name="tno_sequences{suffix}",
        storageClass="ArrowAstropy",
        dimensions=("skymap", "tract", "patch"),
    )


class WarpCutoutsConfig(PipelineTaskConfig, pipelineConnections=WarpCutoutsConnections):
    """Configuration of `WarpCutoutsTask`."""

    warp_size = RangeField(dtype=int, doc="Width and height of the warped images, pixels.", default=15, min=1)
    pixel_scale = RangeField(
        dtype=float,
        doc="Pixel scale of the warped images, arcsec; near that of the visits, since kernels have their "
        "width in pixels of the visits.",
        default=0.2,
        min=0.0,
        inclusiveMin=False,
    )
    kernel = ChoiceField[str](
        doc="Interpolation kernel.",
        default="lanczos3",
        allowed={
            "lanczos3": "Lanczos of 6 x 6 pixels.",
            "lanczos5": "Lanczos of 10 x 10 pixels: neighbours less correlated, edges and masks wider.",
            "bicubic": "Cubic convolution of 4 x 4 pixels (Keys, a = -0.5).",
            "bilinear": "Bilinear, 2 x 2 pixels.",
        },
    )
    subtract_median = Field[bool](
        doc="Remove the static sky: subtract from each image the sequence's weighted median in its band.",
        default=False,
    )
    min_median_images = RangeField(
        dtype=int,
        doc="Usable images of a band that a pixel needs for subtract_median; NO_DATA where there are fewer.",
        default=5,
        min=1,
    )
    n_threads = RangeField(
        dtype=int, doc="Threads to warp with. Results do not depend on it.", default=1, min=1
    )


class WarpCutoutsTask(PipelineTask):
    """Resample image sequences, and optionally remove the static sky."""

    ConfigClass: ClassVar = WarpCutoutsConfig
    _DefaultName: ClassVar[str] = "warpCutouts"

    config: WarpCutoutsConfig

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        # Docstring inherited. Cutouts are the largest tables there are: they
        # are read and warped part by part.
        parts = read_parts(butlerQC.get(inputRefs.cutouts))
        result = self.run(ImageSequences.from_table(part) for part in parts)
        butlerQC.put(result.sequences.to_arrow(), outputRefs.sequences)

    def run(self, cutouts: ImageSequences | Iterable[ImageSequences]) -> Struct:
        """Warp image sequences.

        Parameters
        ----------
        cutouts
            Image sequences, with or without injected objects, or parts of
            them, in their order, which are consumed.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            Result with ``sequences`` (`ImageSequences`).

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            Raised if there are no sequences.
        ValueError
            Raised if the cutouts of a part are too small for the configured
            warp.
        """
        parts = [cutouts] if isinstance(cutouts, ImageSequences) else cutouts
        warped = [self._warp(part) for part in parts if len(part)]
        if not warped:
            raise NoWorkFound("There are no image sequences to warp.")
        sequences = ImageSequences.concatenate(warped)
        self._count(sequences)
        return Struct(sequences=sequences)

    def _warp(self, cutouts: ImageSequences) -> ImageSequences:
        sequences = warp_sequences(
            cutouts,
            warp_size=self.config.warp_size,
            pixel_scale=self.config.pixel_scale,
            kernel=self.config.kernel,
            n_threads=self.config.n_threads,
        )
        if self.config.subtract_median:
            sequences = subtract_median(sequences, min_images=self.config.min_median_images)
        return sequences

    def _count(self, sequences: ImageSequences) -> None:
        n_images = int(sequences.valid.sum())
        no_data = (sequences.mask[sequences.valid] & MaskBit.NO_DATA) != 0
        fraction = float(np.mean(no_data)) if n_images else 1.0
        self.metadata["n_sequences"] = len(sequences)
        self.metadata["n_images"] = n_images
        self.metadata["no_data_fraction"] = fraction
        self.log.info(
            "Warped %d images of %d sequences; %.1f %% of their pixels have no data.",
            n_images,
            len(sequences),
            100 * fraction,
        )
