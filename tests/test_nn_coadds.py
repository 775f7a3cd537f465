# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Coadds of images, and the architecture that is fed with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import white_sequences

from lsst.meas.tno import ImageSequences, MaskBit
from lsst.meas.tno.nn import CoaddConfig, TrajectoryConfig, architectures
from lsst.meas.tno.nn.coadds import COADD_COLUMNS, coadd_snr, compressed_coadds

SIGMA, NOISE = 1.8, 20.0


def _columns(sequences: ImageSequences) -> dict[str, np.ndarray]:
    return {name: getattr(sequences, name) for name in COADD_COLUMNS}


def _star(x: float, y: float) -> np.ndarray:
    """Return the image of a source whose S/N in it is 1 in noise `NOISE`."""
    pixels = np.arange(15)
    profile = np.exp(-0.5 * ((pixels - y) / SIGMA) ** 2)[:, None] * np.exp(-0.5 * ((pixels - x) / SIGMA) ** 2)
    return NOISE * profile / np.sqrt(np.sum(profile**2))


def _blank(n: int = 1) -> ImageSequences:
    sequences = white_sequences(np.random.default_rng(0), n)
    sequences.image[:] = 0.0
    return sequences


def test_source_has_its_snr() -> None:
    sequences = _blank()
    sequences.image[0] = 3.0 * _star(8.0, 6.0)
    snr = coadd_snr(_columns(sequences), 10)
    assert snr.shape == (1, 10, 15, 15)
    # Five images in each coadd.
    np.testing.assert_allclose(snr[0, :, 6, 8], 3.0 * np.sqrt(5), rtol=2e-3)
    assert np.all(snr.max(axis=(2, 3)) == snr[:, :, 6, 8])


def test_noise_has_unit_scatter() -> None:
    snr = coadd_snr(_columns(white_sequences(np.random.default_rng(1), 200)), 10)
    assert snr.std() == pytest.approx(1.0, abs=0.02)
    assert abs(snr.mean()) < 0.02


@pytest.mark.parametrize("size", [3, 5, 9])
def test_window_smaller_than_the_psf(size: int) -> None:
    sequences = white_sequences(np.random.default_rng(5), 50, size=size)
    assert 3.0 < np.abs(coadd_snr(_columns(sequences), 10)).max() < 6.5


def test_coadds_are_of_equal_time() -> None:
    sequences = _blank()
    rng = np.random.default_rng(2)
    fraction = np.sort(np.concatenate([[0.0, 1.0], rng.uniform(0.0, 0.25, 38), rng.uniform(0.75, 1.0, 10)]))
    sequences.mjd[0] = 60980 + 0.1 * fraction
    sequences.image[0] = _star(7.0, 7.0)
    snr = coadd_snr(_columns(sequences), 4)[0, :, 7, 7]
    number = np.histogram(fraction, bins=4, range=(0, 1))[0]
    np.testing.assert_array_equal(number[1:3], 0)
    np.testing.assert_allclose(snr, np.sqrt(number), rtol=2e-3)


def test_what_is_masked_or_padding_does_not_count() -> None:
    sequences = white_sequences(np.random.default_rng(3), 3)
    sequences.valid[:, 45:] = False
    for name in ("image", "variance", "noise_scale", "psf", "mjd"):
        getattr(sequences, name)[:, 45:] = np.nan
    sequences.mask[2] = MaskBit.SATURATED
    sequences.mask[:, :, 7, 7] |= np.uint8(MaskBit.BAD)
    reference = coadd_snr(_columns(sequences), 10)
    sequences.image[:, :, 7, 7] = 1e6
    np.testing.assert_array_equal(coadd_snr(_columns(sequences), 10), reference)
    assert np.all(np.isfinite(reference))
    assert np.all(reference[2] == 0)


def test_bright_pixels_are_compressed() -> None:
    sequences = _blank()
    sequences.image[0] = 100.0 * _star(7.0, 7.0)
    snr, compressed = coadd_snr(_columns(sequences), 5), compressed_coadds(_columns(sequences), 5, 4.0)
    np.testing.assert_allclose(compressed, 4.0 * np.arcsinh(snr / 4.0), rtol=1e-6)


@pytest.mark.parametrize("name", ["coadds", "trajectories"])
def test_network_depends_on_the_coadds(name: str) -> None:
    config = CoaddConfig() if name == "coadds" else TrajectoryConfig()
    architecture = architectures[name](config)
    torch.manual_seed(0)
    network = architecture.build((50, 15, 15)).eval()
    if name == "trajectories":
        torch.nn.init.normal_(network.prior.weight)
    sequences = white_sequences(np.random.default_rng(4), 4)
    columns = {column: getattr(sequences, column) for column in architecture.columns}
    inputs = {key: torch.from_numpy(array) for key, array in architecture.encode(columns).items()}
    key = "snr" if name == "coadds" else "coadds"
    with torch.no_grad():
        before = network(inputs)
        inputs[key] = inputs[key] + 3.0
        after = network(inputs)
    assert before.shape == (4,)
    assert torch.all(before != after)
