# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The networks one can choose from, and what each is fed."""

from __future__ import annotations

__all__ = (
    "Architecture",
    "CoaddArchitecture",
    "CoaddConfig",
    "Conv3dArchitecture",
    "Conv3dConfig",
    "Shape",
    "TrajectoryArchitecture",
    "TrajectoryConfig",
    "architectures",
)

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lsst.pex.config import (
    Config,
    DictField,
    Field,
    FieldValidationError,
    ListField,
    RangeField,
    makeRegistry,
    registerConfigurable,
)

from .._sequences import BANDS
from ..photometry import TNO_COLOURS
from .coadds import COADD_COLUMNS, COADD_NORMALISATION, compressed_coadds
from .inputs import PIXEL_COLUMNS, significance
from .trajectory_features import (
    FEATURE_COLUMNS,
    FEATURES,
    VERSION,
    displacements,
    strongest,
    trajectory_features,
)

if TYPE_CHECKING:
    import torch

type Shape = tuple[int, int, int]
"""Number of images, height and width of a sequence."""

architectures = makeRegistry("Architectures of networks, by name.")
"""Registry of the subclasses of `Architecture`."""


class Architecture(ABC):
    """A kind of network: how to build one, and what it is fed.

    To add one, subclass this, decorate the class with
    ``@registerConfigurable("name", architectures)``, and import torch only in
    `build`.

    Parameters
    ----------
    config
        Hyperparameters, an instance of `ConfigClass`.
    """

    ConfigClass: ClassVar[type[Config]] = Config

    columns: ClassVar[tuple[str, ...]]
    """Columns of an image sequence table that `encode` needs."""

    inputs: ClassVar[Mapping[str, str]]
    """Letters of the axes of each input after the first, which is that of the
    sequences: ``t`` images, ``c`` coadds, and ``hw`` at the end for an image.
    `augment` goes by them.
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    @abstractmethod
    def encode(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what the network is fed.

        Parameters
        ----------
        columns
            Arrays of the columns in `columns`, ``(n, ...)``.

        Returns
        -------
        arrays : `dict` [`str`, `numpy.ndarray`]
            Finite float32 arrays ``(n, ...)``, one for each of `inputs`.
        """

    @abstractmethod
    def describe_normalisation(self) -> dict[str, Any]:
        """Return what `encode` does to the pixels, as JSON data."""

    @abstractmethod
    def build(self, shape: Shape) -> torch.nn.Module:
        """Return a new network.

        Parameters
        ----------
        shape
            Shape of the sequences.

        Returns
        -------
        network : `torch.nn.Module`
            Network that takes a `dict` of tensors, as `encode` returns
            arrays, and returns logits ``(n,)``.
        """


class Conv3dConfig(Config):
    """Hyperparameters of `Conv3dArchitecture`."""

    filters = ListField[int](
        doc="Number of filters of each convolution.", default=[16, 32, 64, 128, 256, 512], minLength=1
    )
    dense_units = Field[int](doc="Number of neurons of the dense layer.", default=128)
    dropout = Field[float](
        doc="Fraction of the inputs of the dense layer and of the last neuron that training drops.",
        default=0.3,
    )
    softening = Field[float](
        doc="Significance of a pixel up to which it is fed about as it is; more is compressed (sigma).",
        default=5.0,
    )

    def validate(self) -> None:
        """Check the fields."""
        super().validate()
        if min(self.filters) < 1:
            raise FieldValidationError(
                type(self).filters, self, f"filters must be positive, not {list(self.filters)}."
            )
        if self.dense_units < 1:
            raise FieldValidationError(type(self).dense_units, self, "dense_units must be at least 1.")
        if not 0.0 <= self.dropout < 1.0:
            raise FieldValidationError(type(self).dropout, self, "dropout must be in [0, 1).")
        if not self.softening > 0.0:
            raise FieldValidationError(type(self).softening, self, "softening must be positive.")


@registerConfigurable("conv3d", architectures)
class Conv3dArchitecture(Architecture):
    """3D convolutions over time and both axes of the images, fed with the
    significance of the pixels as one channel.
    """

    ConfigClass = Conv3dConfig
    columns = PIXEL_COLUMNS
    inputs: ClassVar[Mapping[str, str]] = {"significance": "thw"}

    config: Conv3dConfig

    def encode(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the compressed significance of the pixels.

        Parameters
        ----------
        columns
            Columns of image sequences.
        """
        return {"significance": significance(columns, self.config.softening)}

    def describe_normalisation(self) -> dict[str, Any]:
        """Return what `encode` does to the pixels."""
        return {
            "significance": "softening * arcsinh(image / sqrt(variance) / softening); 0 where unusable",
            "softening": self.config.softening,
        }

    def build(self, shape: Shape) -> torch.nn.Module:
        """Return a new network.

        Parameters
        ----------
        shape
            Shape of the sequences it is for.
        """
        from .conv3d import Conv3dNetwork

        return Conv3dNetwork(
            shape=shape,
            filters=list(self.config.filters),
            dense_units=self.config.dense_units,
            dropout=self.config.dropout,
        )


class CoaddConfig(Conv3dConfig):
    """Hyperparameters of `CoaddArchitecture`."""

    n_coadds = RangeField(
        doc="Number of coadds of a sequence, each of the images in an equal part of its time.",
        dtype=int,
        default=10,
        min=1,
    )

    def setDefaults(self) -> None:
        """Set other defaults than those of the base class."""
        super().setDefaults()
        self.filters = [16, 32, 64]
        self.dense_units = 64


@registerConfigurable("coadds", architectures)
class CoaddArchitecture(Architecture):
    """A few 3D convolutions on the S/N of point sources in coadds of the
    images, with the PSF, the variance, the mask and the time of each image.
    """

    ConfigClass = CoaddConfig
    columns = COADD_COLUMNS
    inputs: ClassVar[Mapping[str, str]] = {"snr": "chw"}

    config: CoaddConfig

    def encode(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the compressed S/N in each coadd.

        Parameters
        ----------
        columns
            Columns of image sequences.
        """
        return {"snr": compressed_coadds(columns, self.config.n_coadds, self.config.softening)}

    def describe_normalisation(self) -> dict[str, Any]:
        """Return what `encode` does to the pixels."""
        return {
            "snr": COADD_NORMALISATION,
            "variance": "variance * noise_scale",
            "softening": self.config.softening,
            "n_coadds": self.config.n_coadds,
        }

    def build(self, shape: Shape) -> torch.nn.Module:
        """Return a new network.

        Parameters
        ----------
        shape
            Shape of the sequences it is for.
        """
        from .conv3d import Conv3dNetwork

        return Conv3dNetwork(
            shape=(self.config.n_coadds, *shape[1:]),
            filters=list(self.config.filters),
            dense_units=self.config.dense_units,
            dropout=self.config.dropout,
            name="snr",
        )


class TrajectoryConfig(Config):
    """Hyperparameters of `TrajectoryArchitecture`."""

    largest_displacement = RangeField(
        doc="Longest motion from the first to the last image of a sequence that is looked at, pixels.",
        dtype=float,
        default=7.5,
        min=0.0,
    )
    displacement_step = RangeField(
        doc="Distance between neighbouring motions, pixels. With a PSF of sigma pixels and even times, S/N "
        "up to (displacement_step / sigma)^2 / 144 of it is lost.",
        dtype=float,
        default=2.5,
        min=0.0,
        inclusiveMin=False,
    )
    n_trajectories = RangeField(
        doc="Number of trajectories of a sequence that the network sees: those with the largest S/N with and "
        "without the static sky. All others say nothing.",
        dtype=int,
        default=512,
        min=2,
    )
    hidden_units = ListField[int](
        doc="Number of neurons of each hidden layer.", default=[32, 32], minLength=1
    )
    n_coadds = RangeField(
        doc="Number of coadds of a sequence that show what its window looks like.",
        dtype=int,
        default=10,
        min=1,
    )
    filters = ListField[int](
        doc="Number of filters of each convolution of the coadds.", default=[16, 32, 64], minLength=1
    )
    context_units = RangeField(
        doc="Number of values that say what a window looks like.", dtype=int, default=16, min=1
    )
    softening = RangeField(
        doc="S/N in a coadd up to which it is fed about as it is; more is compressed (sigma).",
        dtype=float,
        default=5.0,
        min=0.0,
        inclusiveMin=False,
    )
    snr_min = RangeField(doc="Lowest S/N that objects are expected with.", dtype=float, default=3.0, min=0.0)
    snr_max = RangeField(
        doc="Highest S/N that the likelihood ratio assumes; brighter objects are found, too.",
        dtype=float,
        default=12.0,
        min=0.0,
    )
    colours = DictField[str, float](
        doc="AB magnitude of objects in each band less that in r, mag.", default=dict(TNO_COLOURS)
    )

    def validate(self) -> None:
        """Check the fields."""
        super().validate()
        for name in ("hidden_units", "filters"):
            if min(getattr(self, name)) < 1:
                message = f"{name} must be positive, not {list(getattr(self, name))}."
                raise FieldValidationError(getattr(type(self), name), self, message)
        if not self.snr_min <= self.snr_max:
            raise FieldValidationError(
                type(self).snr_min, self, f"snr_min={self.snr_min} is above snr_max={self.snr_max}."
            )
        if missing := sorted(set(BANDS) - set(self.colours)):
            raise FieldValidationError(
                type(self).colours, self, f"colours has no value for the bands {missing}."
            )


@registerConfigurable("trajectories", architectures)
class TrajectoryArchitecture(Architecture):
    """Dense layers on what a matched filter sees along straight trajectories,
    and on what a few convolutions see in coadds of the images, with the PSF,
    the variance, the mask and the time of each image.
    """

    ConfigClass = TrajectoryConfig
    columns = FEATURE_COLUMNS
    # Turned, flipped and reversed sequences have about the same features, in
    # another order.
    inputs: ClassVar[Mapping[str, str]] = {"features": "kf", "n_seen": "", "coadds": "chw"}

    config: TrajectoryConfig

    def encode(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the features of the strongest trajectories, the number of
        all, and the compressed S/N in coadds.

        Parameters
        ----------
        columns
            Columns of image sequences.
        """
        motions = displacements(self.config.largest_displacement, self.config.displacement_step)
        ratio = {band: float(10.0 ** (-0.4 * colour)) for band, colour in self.config.colours.items()}
        features = trajectory_features(columns, motions, ratio)
        chosen, n_seen = strongest(features, self.config.n_trajectories)
        coadds = compressed_coadds(columns, self.config.n_coadds, self.config.softening)
        return {"features": chosen, "n_seen": n_seen, "coadds": coadds}

    def describe_normalisation(self) -> dict[str, Any]:
        """Return what `encode` does to the pixels."""
        return {
            "features": list(FEATURES),
            "version": VERSION,
            "coadds": COADD_NORMALISATION,
            "variance": "variance * noise_scale",
            "softening": self.config.softening,
            "n_coadds": self.config.n_coadds,
        }

    def build(self, shape: Shape) -> torch.nn.Module:
        """Return a new network.

        Parameters
        ----------
        shape
            Shape of the sequences it is for.
        """
        from .trajectory_network import TrajectoryNetwork

        return TrajectoryNetwork(
            hidden_units=list(self.config.hidden_units),
            shape=(self.config.n_coadds, *shape[1:]),
            filters=list(self.config.filters),
            context_units=self.config.context_units,
            snr_min=self.config.snr_min,
            snr_max=self.config.snr_max,
        )
