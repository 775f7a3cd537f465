# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from injection_builders import (
    elongated_pixels,
    gaussian_pixels,
    make_sequences,
    mask_pixels,
    pad,
    psf_fwhm,
)

from lsst.images.serialization import read_archive
from lsst.meas.tno._moving_objects import MovingObjects
from lsst.meas.tno._sequences import BANDS, ImageSequences, MaskBit
from lsst.meas.tno.geometry import apply_affine, inverse_gnomonic
from lsst.meas.tno.injection import (
    Draw,
    add_point_source,
    inject_in_place,
    is_on_image,
    optimal_snr,
    shift_psf,
)
from lsst.meas.tno.photometry import ab_mag_to_njy

DATA = Path(__file__).parents[2] / "shared" / "data"

NO_NOISE = dict.fromkeys(BANDS, 50.0)
"""Zero points so high that the Poisson noise is below 1e-5 of the flux."""


def fixed_objects(x: np.ndarray, y: np.ndarray, flux: float) -> Draw:
    """Return a function that draws objects at given pixels, ``(n_times,)``,
    of every image.
    """

    def draw(
        sequences: ImageSequences, index: np.ndarray, rngs: Sequence[np.random.Generator]
    ) -> MovingObjects:
        objects = MovingObjects.full(len(index), sequences.n_times)
        xi, eta = apply_affine(sequences.pixel_to_sky[index], x, y)
        centre = sequences.centre_ra[index], sequences.centre_dec[index]
        objects.ra[:], objects.dec[:] = inverse_gnomonic(xi, eta, *centre)
        objects.relative_flux[:] = 1.0
        objects.mag[:] = 31.4 - 2.5 * np.log10(flux)
        objects.drawn[:] = True
        return objects

    return draw


def weighted_centroid(image: np.ndarray, x: float, y: float, sigma: float) -> tuple[float, float]:
    """Return the centroid with a round Gaussian weight that moves with it."""
    rows, columns = np.indices(image.shape)
    for _ in range(50):
        weight = image * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
        # A weight as wide as the source halves the shift of the centroid.
        x += 2 * ((weight * (columns - x)).sum() / weight.sum())
        y += 2 * ((weight * (rows - y)).sum() / weight.sum())
    return x, y


@pytest.mark.parametrize("beta", [None, 4.765, 2.5])
@pytest.mark.parametrize("fwhm", [3.0, 4.0, 6.0])
def test_shift_of_elongated_psf(fwhm: float, beta: float | None) -> None:
    # 0.6 to 1.2 arcsec at 0.2 arcsec a pixel; limits are a tenth of a
    # percent, where the flux may be off by two, and 0.003 of 0.01 pixel.
    rng = np.random.default_rng(3)
    size, n = 25, 61
    for _ in range(5):
        draw = functools.partial(
            elongated_pixels,
            fwhm=fwhm,
            beta=beta,
            axis_ratio=rng.uniform(0.8, 1),
            angle=rng.uniform(0, np.pi),
        )
        psf = draw(size // 2, size // 2, size)
        x, y = n // 2 + rng.uniform(-0.5, 0.5, 2)
        truth = draw(x, y, n) / psf.sum()
        shifted = shift_psf(psf[None] / psf.sum(), np.array([x]), np.array([y]), n, n)[0]
        assert shifted.sum() == pytest.approx(1.0, abs=1e-12)
        rows, columns = np.indices(shifted.shape)
        aperture = np.hypot(columns - x, rows - y) < min(2 * fwhm, 11)
        assert shifted[aperture].sum() == pytest.approx(truth[aperture].sum(), rel=1e-3)
        centroid = weighted_centroid(shifted, x, y, fwhm / 2.355)
        np.testing.assert_allclose(centroid, (x, y), atol=0.003)


def test_shift_by_whole_pixels_is_exact() -> None:
    psf = np.random.default_rng(0).random((1, 5, 5))
    shifted = shift_psf(psf, np.array([4.0]), np.array([3.0]), 8, 9)[0]
    expected = np.zeros((8, 9))
    expected[1:6, 2:7] = psf[0]
    np.testing.assert_allclose(shifted, expected, atol=1e-15)


def test_shift_off_the_edge_loses_what_is_off() -> None:
    fwhm, x, y = 4.0, np.array([-0.3, 29.6, 12.2, 200.0]), np.array([7.4, 29.9, -40.0, 15.0])
    psf = gaussian_pixels(np.full(4, 12), np.full(4, 12), np.full(4, fwhm), 25, 25)
    shifted = shift_psf(psf, x, y, 30, 30)
    expected = gaussian_pixels(x, y, np.full(4, fwhm), 30, 30)
    np.testing.assert_allclose(shifted, expected, atol=3e-4 * psf.max())
    assert np.all(shifted[2:] == 0)


def test_real_rubin_psf() -> None:
    path = DATA / "images" / "visit_image-dp2.json"
    if not path.exists():
        pytest.skip(f"no real Rubin image at {path}")
    psf = read_archive(path).psf
    rng = np.random.default_rng(5)
    for x, y in rng.uniform(50, 3900, (10, 2)):
        stellar = psf.compute_stellar_image(x=x, y=y)
        kernel = psf.compute_kernel_image(x=x, y=y).array
        stamp_x, stamp_y = x - stellar.bbox.x.start, y - stellar.bbox.y.start
        model = shift_psf(kernel[None], np.array([stamp_x]), np.array([stamp_y]), *stellar.array.shape)[0]
        rows, columns = np.indices(model.shape)
        aperture = np.hypot(columns - stamp_x, rows - stamp_y) < 8
        # Piff's own drawing; the stamps of compute_stellar_image each have
        # the sum 1, which changes their scale by 0.3 % with the position.
        drawn = psf.piff_psf.draw(x, y, stamp_size=len(model), center=None).array
        assert model[aperture].sum() == pytest.approx(drawn[aperture].sum(), rel=1e-3)
        assert model[aperture].sum() == pytest.approx(stellar.array[aperture].sum(), rel=4e-3)
        # The model's centroid is a constant off its centre: what counts is
        # that both agree.
        sigma = 1 / np.sqrt(2 * np.pi * kernel.max())
        found = weighted_centroid(model, stamp_x, stamp_y, sigma)
        expected = weighted_centroid(stellar.array, stamp_x, stamp_y, sigma)
        np.testing.assert_allclose(found, expected, atol=1e-3)
        # Piff interpolates its own grid of pixels, to half a percent.
        np.testing.assert_allclose(model, stellar.array, atol=0.01 * kernel.max())


def test_pixels_agree_with_the_truth_columns() -> None:
    rng = np.random.default_rng(11)
    sequences = make_sequences(4, rng)
    clean = sequences.image.copy()
    n = sequences.n_times
    x, y = rng.uniform(12, 18, (2, n))
    draw = fixed_objects(x, y, 5000.0)
    injection = inject_in_place(
        sequences, np.arange(4), draw, [np.random.default_rng(i) for i in range(4)], zero_points=NO_NOISE
    )
    difference = sequences.image.astype(float) - clean
    fwhm = psf_fwhm(sequences)
    np.testing.assert_allclose(injection.inj_x, np.tile(x, (4, 1)), atol=1e-6)
    np.testing.assert_allclose(injection.inj_flux, 5000.0, rtol=1e-12)
    rows, columns = np.indices((sequences.height, sequences.width))
    for row, time in np.ndindex(4, n):
        truth = gaussian_pixels(x[time], y[time], fwhm[row, time], sequences.height, sequences.width)
        aperture = np.hypot(columns - x[time], rows - y[time]) < 9
        flux = difference[row, time][aperture].sum() / truth[aperture].sum()
        assert flux == pytest.approx(5000.0, rel=2e-3)
        centroid = weighted_centroid(
            difference[row, time], float(x[time]), float(y[time]), float(fwhm[row, time]) / 2.355
        )
        np.testing.assert_allclose(centroid, (x[time], y[time]), atol=0.01)


def test_snr_of_masked_and_warped_images() -> None:
    # By hand: one image has half of the light masked, one has a noise_scale,
    # one has the object outside.
    rng = np.random.default_rng(2)
    sequences = make_sequences(1, rng, n_times=3, seeing=(0.8, 0.8))
    fwhm = np.full(3, 4.0)
    sequences.variance[:] = 900.0
    sequences.mask[0, 0, :, :15] = MaskBit.SATURATED
    sequences.noise_scale[0, 1] = 1.28
    x, y = np.array([15.0, 15.0, -0.6]), np.array([15.2, 14.8, 15.0])
    injection = inject_in_place(
        sequences, np.array([0]), fixed_objects(x, y, 400.0), [np.random.default_rng(0)]
    )
    truth = gaussian_pixels(x, y, fwhm, 31, 31) ** 2
    expected = 400.0 * np.sqrt((truth[0, :, 15:].sum() + truth[1].sum() / 1.28) / 900.0)
    assert injection.snr[0] == pytest.approx(expected, rel=1e-3)
    np.testing.assert_allclose(injection.inj_flux[0], [400.0, 400.0, 0.0], rtol=1e-12)
    assert injection.inj_x[0, 2] == pytest.approx(-0.6, abs=1e-6)


def test_light_of_an_object_just_outside_reaches_the_pixels() -> None:
    sequences = make_sequences(1, np.random.default_rng(2), n_times=2)
    clean = sequences.image.copy()
    x, y = np.array([15.0, -0.6]), np.array([15.0, 15.0])
    draw = fixed_objects(x, y, 4000.0)
    inject_in_place(sequences, np.array([0]), draw, [np.random.default_rng(0)], zero_points=NO_NOISE)
    truth = gaussian_pixels(x, y, psf_fwhm(sequences)[0], 31, 31)
    added = (sequences.image - clean)[0].sum(axis=(1, 2))
    np.testing.assert_allclose(added, 4000.0 * truth.sum(axis=(1, 2)), rtol=3e-3)
    assert added[1] > 1000


def test_poisson_noise() -> None:
    rng = np.random.default_rng(8)
    n = 4000
    image, variance = np.zeros((n, 9, 9)), np.full((n, 9, 9), 4.0)
    mask = np.zeros((n, 9, 9), dtype=np.uint8)
    profile = gaussian_pixels(np.full(n, 4), np.full(n, 4.3), np.full(n, 3.0), 9, 9)
    add_point_source(
        image,
        variance,
        mask,
        profile=profile,
        peak=profile.max(axis=(1, 2)),
        flux=np.full(n, 300.0),
        electrons=np.full(n, 2.0),
        rng=rng,
    )
    noise = image - 300.0 * profile
    # flux / (electrons per nJy) in every pixel, on top of what was there.
    expected = 300.0 * profile[0] / 2.0
    np.testing.assert_allclose(variance[0] - 4.0, expected, rtol=1e-12)
    bright = expected > 0.5
    # 1/sqrt(n) per pixel for the mean; sqrt(2/n) and the Poisson kurtosis for
    # the variance; five sigma.
    assert np.all(np.abs(noise.mean(axis=0)) < 5 * np.sqrt(expected / n))
    np.testing.assert_allclose(noise.var(axis=0)[bright], expected[bright], rtol=5 * np.sqrt(4 / n))


def test_injected_bit_and_missing_pixels() -> None:
    sequences = make_sequences(1, np.random.default_rng(4), n_times=2)
    missing = np.zeros(sequences.image.shape, dtype=bool)
    missing[0, 0, 14:17, 10:13] = True
    mask_pixels(sequences, missing)
    x = y = np.full(2, 15.0)
    inject_in_place(sequences, np.array([0]), fixed_objects(x, y, 1000.0), [np.random.default_rng(0)])
    sequences.validate()
    assert np.all(np.isnan(sequences.image[missing]) & np.isnan(sequences.variance[missing]))
    psf = gaussian_pixels(x, y, psf_fwhm(sequences)[0], 31, 31)
    expected = psf > 1e-3 * psf.max(axis=(1, 2), keepdims=True)
    np.testing.assert_array_equal(sequences.mask[0] & MaskBit.INJECTED != 0, expected & ~missing[0])


def test_fully_masked_sequences_are_drawn_again_and_left_out() -> None:
    sequences = make_sequences(2, np.random.default_rng(4), n_times=3)
    sequences.mask[0] = MaskBit.BAD
    clean = sequences.image.copy(), sequences.variance.copy(), sequences.mask.copy()
    calls = []

    def draw(
        sequences: ImageSequences, index: np.ndarray, rngs: Sequence[np.random.Generator]
    ) -> MovingObjects:
        calls.append(index.tolist())
        return fixed_objects(np.full(3, 15.0), np.full(3, 15.0), 100.0)(sequences, index, rngs)

    rngs = [np.random.default_rng(i) for i in range(2)]
    injection = inject_in_place(sequences, np.arange(2), draw, rngs, max_draws=3)
    assert calls == [[0, 1], [0], [0]]
    assert injection.injected.tolist() == [False, True]
    assert injection.object_id.tolist() == ["", "7-42-1"]
    for before, name in zip(clean, ("image", "variance", "mask"), strict=True):
        np.testing.assert_array_equal(getattr(sequences, name)[0], before[0])


def test_padding_is_not_touched() -> None:
    sequences = make_sequences(1, np.random.default_rng(4), n_times=4)
    pad(sequences, 0, 2)
    draw = fixed_objects(np.full(4, 15.0), np.full(4, 15.0), 100.0)
    injection = inject_in_place(sequences, np.array([0]), draw, [np.random.default_rng(0)])
    sequences.validate()
    assert np.all(np.isnan(injection.inj_x[0, 2:]))
    assert np.all(injection.inj_flux[0, 2:] == 0)
    assert np.all(sequences.mask[0, 2:] == MaskBit.NO_DATA)


def test_exposure_time_must_be_known() -> None:
    sequences = make_sequences(1, np.random.default_rng(4), n_times=4)
    sequences.exposure_time[0, 2] = np.nan
    draw = fixed_objects(np.full(4, 15.0), np.full(4, 15.0), 100.0)
    with pytest.raises(ValueError, match="visit 2 is not defined.*exposure time nan"):
        inject_in_place(sequences, np.array([0]), draw, [np.random.default_rng(0)])


def test_snr_ignores_pixels_without_variance() -> None:
    profile = np.full((1, 2, 2), 0.25)
    variance = np.array([[[1.0, np.nan], [0.0, 1.0]]])
    snr = optimal_snr(np.array([8.0]), profile, variance, np.ones((1, 2, 2), dtype=bool))
    assert snr == pytest.approx(8 * 0.25 * np.sqrt(2))


def test_pixels_of_an_image_are_half_open() -> None:
    x = np.array([-0.5, -0.51, 9.49, 9.5, np.nan])
    assert is_on_image(x, np.zeros(5), 4, 10).tolist() == [True, False, True, False, False]
    assert ab_mag_to_njy(31.4) == pytest.approx(1.0)
