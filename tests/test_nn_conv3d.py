# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from nn_builders import small_architecture
from torch import nn
from torch.nn import functional

from lsst.meas.tno.nn import Conv3dConfig, architectures
from lsst.meas.tno.nn.conv3d import _convolve, _pool, _pool_by_axis, pooled_shape
from lsst.pex.config import FieldValidationError


def test_pooled_shapes_of_the_default() -> None:
    shapes = [(50, 15, 15)]
    for _ in range(6):
        shapes.append(pooled_shape(shapes[-1]))
    assert shapes[1:] == [(25, 8, 8), (13, 4, 4), (7, 2, 2), (4, 1, 1), (2, 1, 1), (1, 1, 1)]


def test_default_network_is_that_of_the_mission() -> None:
    network = architectures["conv3d"](Conv3dConfig()).build((50, 15, 15))
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv3d)]
    assert [layer.out_channels for layer in convolutions] == [16, 32, 64, 128, 256, 512]
    assert all(layer.kernel_size == (3, 3, 3) for layer in convolutions)
    assert sum(isinstance(layer, nn.BatchNorm3d) for layer in network.modules()) == 6
    dense = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in dense] == [(512, 128), (128, 1)]


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 15, 7), (50, 15, 15), (9, 50, 50), (130, 3, 3)])
def test_any_shape(shape: tuple[int, int, int]) -> None:
    network = small_architecture().build(shape)
    logits = network({"significance": torch.zeros(3, *shape)})
    assert logits.shape == (3,)
    assert torch.all(torch.isfinite(logits))


@pytest.mark.parametrize("shape", list(itertools.product((1, 2, 5), repeat=3)))
def test_blocks_compute_what_torch_does(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 3, *shape, generator=generator)
    weight = torch.randn(4, 3, 3, 3, 3, generator=generator)
    expected = functional.conv3d(features, weight, padding=1)
    # Sums of 81 products in another order.
    torch.testing.assert_close(_convolve(features, weight), expected, rtol=1e-5, atol=1e-5)
    padded = functional.pad(features, [0, 1, 0, 1, 0, 1], value=-torch.inf)
    pooled = functional.max_pool3d(padded, 2)
    assert torch.equal(_pool(features), pooled)
    assert torch.equal(_pool_by_axis(features), pooled)
    assert pooled.shape[2:] == pooled_shape(shape)


def test_gradient_of_pooling_by_axis() -> None:
    features = torch.randn(2, 3, 5, 4, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    gradients = [
        torch.autograd.grad(pool(features).sin().sum(), features)[0] for pool in (_pool, _pool_by_axis)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("name", "value"),
    [("filters", [4, 0]), ("filters", []), ("dense_units", 0), ("dropout", 1.0), ("softening", 0.0)],
)
def test_impossible_configuration(name: str, value: object) -> None:
    config = Conv3dConfig()
    setattr(config, name, value)
    with pytest.raises(FieldValidationError, match=name):
        config.validate()


def test_encoding_states_its_normalisation() -> None:
    architecture = small_architecture(softening=3.0)
    pixels = np.ones((1, 2, 3, 3), dtype=np.float32)
    fed = architecture.encode(
        {"image": 30 * pixels, "variance": pixels, "mask": np.zeros((1, 2, 3, 3), "u1")}
    )
    np.testing.assert_allclose(fed["significance"], 3.0 * np.arcsinh(10.0), rtol=1e-6)
    assert set(fed) == set(architecture.inputs)
    assert architecture.describe_normalisation()["softening"] == 3.0
