# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The 3D convolutional network."""

from __future__ import annotations

__all__ = ("Conv3dNetwork", "ConvolutionBlocks", "pooled_shape")

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .architectures import Shape


class Conv3dNetwork(nn.Module):
    """Convolutions with pooling, a dense layer and one neuron.

    Parameters
    ----------
    shape
        Shape of the sequences.
    filters
        Number of filters of each convolution.
    dense_units
        Number of neurons of the dense layer.
    dropout
        Fraction of the inputs of the dense layer and of the last neuron that
        is dropped in training.
    name
        Name of the input.
    """

    def __init__(
        self,
        *,
        shape: Shape,
        filters: Sequence[int],
        dense_units: int,
        dropout: float,
        name: str = "significance",
    ) -> None:
        super().__init__()
        self._name = name
        self.blocks = ConvolutionBlocks(shape, filters)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(self.blocks.n_features, dense_units),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(dense_units, 1),
        )

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of sequences.

        Parameters
        ----------
        inputs
            One input, ``(n, n_times, height, width)``.

        Returns
        -------
        logits : `torch.Tensor`
            Logits, ``(n,)``.
        """
        return self.head(self.blocks(inputs[self._name])).squeeze(1)


class ConvolutionBlocks(nn.Sequential):
    """Convolutions of sequences, each with batch normalisation, ReLU and
    pooling.

    Parameters
    ----------
    shape
        Shape of the sequences.
    filters
        Number of filters of each convolution.
    """

    n_features: int
    """Number of values that are left of a sequence."""

    def __init__(self, shape: Shape, filters: Sequence[int]) -> None:
        channels = [1, *filters]
        super().__init__(*map(_Block, channels[:-1], channels[1:]))
        for _ in filters:
            shape = pooled_shape(shape)
        self.n_features = filters[-1] * math.prod(shape)
        # Convolutions on CPUs are about 1.4 times as fast with the channels
        # last.
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Return what is left of sequences.

        Parameters
        ----------
        images
            Sequences, ``(n, n_times, height, width)``.

        Returns
        -------
        features : `torch.Tensor`
            What is left of them, ``(n, n_filters, n_times, height, width)``.
        """
        return super().forward(images.unsqueeze(1)).contiguous()


class _Block(nn.Module):
    """Convolution, batch normalisation, ReLU, pooling by 2 rounding up."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        # The batch normalisation has the bias.
        self.convolution = nn.Conv3d(n_in, n_out, kernel_size=3, padding=1, bias=False)
        self.normalisation = nn.BatchNorm3d(n_out)

    def forward(self, features: Tensor) -> Tensor:
        features = self.normalisation(_convolve(features, self.convolution.weight))
        # The ReLU commutes with the maximum, and after it has an eighth of the
        # work.
        return functional.relu(_pool(features))


def _convolve(features: Tensor, weight: Tensor) -> Tensor:
    # Along an axis of length 1 only the middle of the kernel meets a pixel,
    # the rest is multiplied by the padding's zeros.
    padding = []
    for axis in (2, 3, 4):
        is_single = features.shape[axis] == 1
        weight = weight.narrow(axis, 1, 1) if is_single else weight
        padding.append(0 if is_single else 1)
    return functional.conv3d(features, weight, padding=tuple(padding))


def _pool(features: Tensor) -> Tensor:
    if features.is_cuda:
        # The derivative of torch's own is not deterministic there.
        return _pool_by_axis(features)
    sizes = [min(2, size) for size in features.shape[2:]]
    return functional.max_pool3d(features, sizes, ceil_mode=True)


def _pool_by_axis(features: Tensor) -> Tensor:
    for axis in (2, 3, 4):
        size = features.shape[axis]
        if size == 1:
            continue
        pairs = features.narrow(axis, 0, size // 2 * 2).unflatten(axis, (-1, 2))
        pooled = torch.maximum(pairs.select(axis + 1, 0), pairs.select(axis + 1, 1))
        rest = [features.narrow(axis, size - 1, 1)] if size % 2 else []
        features = torch.cat([pooled, *rest], dim=axis)
    return features


def pooled_shape(shape: Shape) -> Shape:
    """Return the shape of a sequence after one pooling.

    Parameters
    ----------
    shape
        Shape before it.
    """
    n_times, height, width = ((size + 1) // 2 for size in shape)
    return n_times, height, width
