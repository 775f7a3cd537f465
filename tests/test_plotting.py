# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import io

import numpy as np
import pytest
from builders import white_sequences
from PIL import Image
from scipy.ndimage import center_of_mass

from lsst.meas.tno import ImageSequences, MaskBit
from lsst.meas.tno.plotting import coadd_images, plot_sequence, shift_and_stack

FLUX = 3000.0


@pytest.fixture
def track() -> tuple[np.ndarray, np.ndarray]:
    """Return a straight track through the middle of 15x15 pixels."""
    return 7.0 + np.linspace(-4.0, 4.0, 50), 7.0 + np.linspace(2.5, -2.5, 50)


@pytest.fixture
def sequences(track: tuple[np.ndarray, np.ndarray]) -> ImageSequences:
    """Return a sequence of white noise with a point source on the track."""
    sequences = white_sequences(np.random.default_rng(3), 1)
    sequences.image[0] += moving_source(*track, size=15)
    return sequences


def moving_source(x: np.ndarray, y: np.ndarray, *, size: int, sigma: float = 1.8) -> np.ndarray:
    """Return images of a Gaussian on a track, ``(n_times, size, size)``."""
    pixels = np.arange(size)
    along_x = np.exp(-0.5 * ((pixels - x[:, np.newaxis]) / sigma) ** 2)
    along_y = np.exp(-0.5 * ((pixels - y[:, np.newaxis]) / sigma) ** 2)
    return FLUX / (2 * np.pi * sigma**2) * along_y[:, :, np.newaxis] * along_x[:, np.newaxis, :]


def test_coadd_is_the_weighted_mean():
    rng = np.random.default_rng(5)
    image, weight = rng.normal(size=(7, 4, 6)), rng.uniform(0.5, 2.0, size=(7, 4, 6))
    np.testing.assert_allclose(coadd_images(image, weight), np.average(image, axis=0, weights=weight))


def test_coadd_leaves_out_what_has_no_weight():
    image, weight = np.ones((3, 2, 2)), np.ones((3, 2, 2))
    image[0], weight[0] = np.nan, 0.0
    weight[:, 1, 1] = 0.0
    np.testing.assert_array_equal(coadd_images(image, weight), [[1.0, 1.0], [1.0, np.nan]])


def test_shift_and_stack_keeps_flux_and_position_of_what_moves():
    size = 41
    x, y = 20.0 + np.linspace(-4.3, 4.3, 50), 20.0 + np.linspace(2.7, -2.7, 50)
    image = moving_source(x, y, size=size)
    stack = shift_and_stack(image, np.ones(image.shape), x - 20.0, y - 20.0)
    # All of the flux is far from the edges, and linear interpolation keeps it
    # and its first moments.
    assert np.nansum(stack) == pytest.approx(FLUX, rel=1e-6)
    assert center_of_mass(np.nan_to_num(stack)) == pytest.approx((20.0, 20.0), abs=1e-6)


def test_noise_of_a_stack_falls_with_the_root_of_its_images():
    image = np.random.default_rng(8).normal(size=(36, 60, 60))
    offset = np.arange(36) % 5 - 2.0
    stack = shift_and_stack(image, np.ones(image.shape), offset, -offset)
    # Whole pixels are not interpolated; 56 x 56 pixels give sigma to 1.3 %.
    assert np.std(stack[2:-2, 2:-2]) == pytest.approx(1 / 6, rel=0.04)


def test_images_without_a_position_are_left_out():
    image = np.stack([np.full((5, 5), 1.0), np.full((5, 5), 100.0)])
    stack = shift_and_stack(image, np.ones(image.shape), np.array([0.0, np.nan]), np.zeros(2))
    np.testing.assert_array_equal(stack, np.ones((5, 5)))


def test_stack_of_nothing_is_missing():
    stack = shift_and_stack(np.ones((2, 3, 3)), np.zeros((2, 3, 3)), np.zeros(2), np.zeros(2))
    assert np.all(np.isnan(stack))


def test_object_stands_out_of_the_shifted_mean_only(sequences, track):
    figure = plot_sequence(sequences, 0, *track)
    mean, along = (axes.images[0].get_array() for axes in figure.axes if axes.get_title().startswith("Mean"))
    noise = 20.0 / np.sqrt(50)
    peak = FLUX / (2 * np.pi * 1.8**2)
    assert np.unravel_index(np.argmax(along), along.shape) == (7, 7)
    # Linear interpolation widens the PSF and takes up to a tenth of the peak.
    assert along.max() == pytest.approx(peak, abs=0.1 * peak + 3 * noise)
    assert mean.max() < 0.6 * along.max()


def test_figure_shows_the_images_asked_for(sequences, track):
    figure = plot_sequence(sequences, 0, *track, n_images=6, title="An object")
    titles = [axes.get_title() for axes in figure.axes]
    assert [title for title in titles if title.endswith(" h")] == [
        f"{hours:.2f} h" for hours in np.array([0, 10, 20, 29, 39, 49]) * 41 / 3600
    ]
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=60)
    assert np.asarray(Image.open(buffer)).std() > 0


def test_unusable_pixels_and_padding_are_not_drawn(sequences, track):
    sequences.mask[0, :, 0, 0] = MaskBit.SATURATED
    sequences.image[0, :, 0, 0] = 1e6
    sequences.valid[0, 40:] = False
    sequences.mask[0, 40:] = MaskBit.NO_DATA
    for name in ("image", "variance", "mjd", "pixel_to_sky"):
        getattr(sequences, name)[0, 40:] = np.nan
    x, y = (np.where(sequences.valid[0], values, np.nan) for values in track)
    figure = plot_sequence(sequences, 0, x, y)
    images = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(images) == 12
    for image in images[:11]:
        assert np.ma.getmaskarray(np.ma.masked_invalid(image))[0, 0]
        assert np.nanmax(image) < 1e3


def test_sequence_without_a_usable_image_is_refused(sequences, track):
    sequences.mask[:] = MaskBit.NO_DATA
    with pytest.raises(ValueError, match="Sequence 0 has no usable image"):
        plot_sequence(sequences, 0, *track)
