# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from lsst.meas.tno import ImageSequences, MaskBit
from lsst.meas.tno._sequences import Injection
from lsst.meas.tno.geometry import apply_affine, north_up_affine, pixel_area
from lsst.meas.tno.warping import KERNELS, required_cutout_size, warp_sequences

ALL_KERNELS = ("lanczos3", "lanczos5", "bicubic", "bilinear")


def affine_about(
    size: int, angle: float, *, scale: float = 0.2, parity: int = 1, offset: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """Return the map from pixels to sky of a cutout whose middle, moved by
    an offset in pixels, is the tangent point. Angles are in degrees.
    """
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    linear = scale * np.array([[-parity * cos, sin], [parity * sin, cos]])
    centre = (size - 1) / 2 + np.array(offset)
    return np.column_stack([linear, -linear @ centre])


def random_affines(rng: np.random.Generator, shape: tuple[int, ...], size: int) -> np.ndarray:
    """Return maps of any rotation, parity and sub-pixel shift, and of
    slightly different scales.
    """
    flat = [
        affine_about(
            size,
            rng.uniform(0, 360),
            scale=rng.uniform(0.19, 0.21),
            parity=int(rng.choice([-1, 1])),
            offset=tuple(rng.uniform(-0.5, 0.5, 2)),
        )
        for _ in range(math.prod(shape))
    ]
    return np.reshape(flat, (*shape, 2, 3))


def blank_cutouts(
    affines: np.ndarray, size: int, *, psf_size: int = 25, sigma: float = 1.0
) -> ImageSequences:
    """Return sequences of empty images with maps ``(n, n_times, 2, 3)``."""
    n, n_times = affines.shape[:2]
    sequences = ImageSequences.full(n, T=n_times, H=size, W=size, K=psf_size)
    sequences.sequence_id[:] = np.arange(n)
    sequences.centre_ra[:], sequences.centre_dec[:] = 40.0, -30.0
    sequences.valid[:] = True
    sequences.visit[:], sequences.band[:] = np.arange(n_times), 2
    sequences.mjd[:] = 60000.0 + np.arange(n_times)
    sequences.image[:], sequences.variance[:], sequences.mask[:] = 0.0, sigma**2, 0
    sequences.noise_scale[:] = 1.0
    sequences.pixel_to_sky[:] = affines
    sequences.psf[:] = 0.0
    sequences.psf[:, :, psf_size // 2, psf_size // 2] = 1.0
    return sequences


def profile(dx: np.ndarray, dy: np.ndarray, fwhm: float, beta: float | None) -> np.ndarray:
    """Return a Moffat profile, or without beta a Gaussian one, of unit flux
    for a unit area of the pixel.
    """
    r2 = dx**2 + dy**2
    if beta is None:
        sigma2 = fwhm**2 / (8 * math.log(2))
        return np.exp(-r2 / (2 * sigma2)) / (2 * math.pi * sigma2)
    a2 = fwhm**2 / 4 / (2 ** (1 / beta) - 1)
    return (beta - 1) / (math.pi * a2) * (1 + r2 / a2) ** -beta


def draw_stars(
    affines: np.ndarray, size: int, xi: np.ndarray, eta: np.ndarray, fwhm: float, beta: float | None
) -> np.ndarray:
    """Return images of stars of unit flux at sky positions, arcsec; ``fwhm``
    is that of the PSF with the pixel in it.
    """
    y, x = np.mgrid[:size, :size]
    star_xi, star_eta = apply_affine(affines[..., None, None, :, :], x, y)
    value = profile(
        star_xi - np.asarray(xi)[..., None, None], star_eta - np.asarray(eta)[..., None, None], fwhm, beta
    )
    return value * pixel_area(affines)[..., None, None]


def draw_psfs(affines: np.ndarray, size: int, fwhm: float, beta: float | None) -> np.ndarray:
    """Return the PSFs on native pixels, of sum 1 and centred."""
    centred = affines.copy()
    centred[..., 2] = -affines[..., :2].sum(axis=-1) * (size // 2)
    psf = draw_stars(centred, size, np.zeros(affines.shape[:-2]), np.zeros(affines.shape[:-2]), fwhm, beta)
    return psf / psf.sum(axis=(-2, -1), keepdims=True)


def impulse_responses(affine: np.ndarray, size: int, warp_size: int, kernel: str) -> np.ndarray:
    """Return the weights of every input pixel in every output pixel,
    ``(warp_size**2, size**2)``, from images with one pixel of 1 each.
    """
    sequences = blank_cutouts(np.broadcast_to(affine, (1, size**2, 2, 3)), size)
    sequences.image.reshape(size**2, size**2)[np.diag_indices(size**2)] = 1.0
    warped = warp_sequences(sequences, warp_size=warp_size, kernel=kernel)
    return warped.image.reshape(size**2, warp_size**2).T.astype(float)


def flux_and_shift(
    affines: np.ndarray, kernel: str, fwhm: float, beta: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return what part of their flux stars up to 0.5 arcsec from the centre
    keep in a warp, ``affines.shape[:2]``, and by how many pixels they move.
    """
    warp_size = 35
    xi, eta = np.random.default_rng(0).uniform(-0.5, 0.5, (2, *affines.shape[:2]))
    sequences = blank_cutouts(affines, 64)
    sequences.image[:] = draw_stars(affines, 64, xi, eta, fwhm, beta)
    warped = warp_sequences(sequences, warp_size=warp_size, kernel=kernel)
    # Of the wings, the grid has the same part in both.
    truth = draw_stars(warped.pixel_to_sky, warp_size, xi, eta, fwhm, beta)
    y, x = np.mgrid[:warp_size, :warp_size]
    found, expected = (
        np.array([(image * axis).sum((2, 3)) / image.sum((2, 3)) for axis in (x, y)])
        for image in (warped.image, truth)
    )
    return warped.image.sum((2, 3)) / truth.sum((2, 3)), found - expected


def aliased_flux(affine: np.ndarray, kernel: str, xi: float, eta: float, fwhm: float) -> float:
    """Return what part of its flux a Gaussian star keeps in a warp, by
    Poisson's sum over the reciprocal lattice of the grid of odd size.
    """
    inverse = np.linalg.inv(affine[:, :2])
    # In input pixels: the grid's steps, its centre, and the star.
    steps, centre = inverse * [-0.2, 0.2], -inverse @ affine[:, 2]
    star = centre + inverse @ [xi, eta]
    sigma = fwhm / math.sqrt(8 * math.log(2) * pixel_area(affine))
    orders = np.array(list(np.ndindex(25, 25))) - 12
    grid_waves = orders @ np.linalg.inv(steps)
    aliases = (grid_waves - np.rint(grid_waves))[:, None] - (np.array(list(np.ndindex(3, 3))) - 1)
    phases = (np.arange(512) + 0.5) / 512
    distance = np.array(KERNELS[kernel].taps) - phases[:, None]
    weights = KERNELS[kernel].weights(phases)
    response = np.array(
        [[np.mean(np.sum(weights * np.cos(2 * np.pi * u * distance), axis=1)) for u in g] for g in grid_waves]
    ).prod(axis=1)
    star_waves = np.exp(-2 * (np.pi * sigma) ** 2 * np.sum(aliases**2, axis=-1))
    angle = 2 * np.pi * ((grid_waves @ centre)[:, None] - aliases @ star)
    return float(np.sum(response[:, None] * star_waves * np.cos(angle)))


WORST_ANGLES = (45.0, math.degrees(math.atan(1 / 2)))
"""Rotations at which waves along the axes of two grids of equal pixels come
close to each other: with bilinear, a star's flux is off most here.
"""

BILINEAR_FLUX = {0.6: 0.008, 0.8: 0.0035}
"""By how much bilinear may change the flux of a star, by FWHM in arcsec;
0.002, as for the others, from 0.95 on. See `test_flux_that_bilinear_aliases`.
"""


@pytest.mark.parametrize("beta", [None, 3.0])
@pytest.mark.parametrize("fwhm", [0.6, 0.8, 0.95, 1.1])
@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_flux_and_centroid_of_a_star(kernel: str, fwhm: float, beta: float | None) -> None:
    # The WCSs of images of DP1 and DP2 have 0.1997 to 0.2006 arcsec a pixel.
    rng = np.random.default_rng(1)
    angles = [*rng.uniform(0, 360, 80), *rng.normal(np.repeat(WORST_ANGLES, 40), 0.5)]
    affines = [
        affine_about(
            64,
            angle,
            scale=rng.uniform(0.199, 0.201),
            parity=int(rng.choice([-1, 1])),
            offset=tuple(rng.uniform(-0.5, 0.5, 2)),
        )
        for angle in angles
    ]
    flux, shift = flux_and_shift(np.array([affines]), kernel, fwhm, beta)
    tolerance = BILINEAR_FLUX.get(fwhm, 0.002) if kernel == "bilinear" else 0.002
    np.testing.assert_allclose(flux, 1.0, atol=tolerance)
    np.testing.assert_allclose(shift, 0.0, atol=0.02)


@pytest.mark.parametrize("fwhm", [0.6, 1.1])
@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_flux_and_centroid_on_another_pixel_scale(kernel: str, fwhm: float) -> None:
    # 0.19 to 0.21 arcsec onto 0.2. Between grids that are nearly parallel the
    # phase drifts once through in 20 pixels, and with it what bilinear does.
    affines = random_affines(np.random.default_rng(1), (2, 100), 64)
    flux, shift = flux_and_shift(affines, kernel, fwhm, None)
    is_bilinear = kernel == "bilinear"
    np.testing.assert_allclose(flux, 1.0, atol=0.01 if is_bilinear else 0.002)
    np.testing.assert_allclose(shift, 0.0, atol=0.03 if is_bilinear else 0.02)


def test_flux_that_bilinear_aliases() -> None:
    """The flux is off by the waves that alias to zero on the grid, and no
    weights of 2x2 pixels do better.

    If they depend on the phase only, sum to 1 and keep the place, those of a
    column or a row sum to bilinear ones, so that a wave along an axis is
    damped by sinc(u)^2 with all of them. At 45 degrees that lets flux be off
    by the sum below over u = sqrt(2) n.
    """
    fwhm, n = 0.6, 40
    rng = np.random.default_rng(1)
    affines = np.array([[affine_about(64, 45.0, offset=tuple(rng.uniform(-0.5, 0.5, 2))) for _ in range(n)]])
    flux, _ = flux_and_shift(affines, "bilinear", fwhm, None)
    xi, eta = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 1, n))
    expected = [aliased_flux(affines[0, i], "bilinear", xi[0, i], eta[0, i], fwhm) for i in range(n)]
    # What passes the edge of the grid is up to 3e-4.
    np.testing.assert_allclose(flux[0], expected, atol=4e-4)
    u = math.sqrt(2) * np.arange(1, 13)
    sigma = fwhm / 0.2 / math.sqrt(8 * math.log(2))
    largest = np.sum(4 * np.sinc(u) ** 2 * np.exp(-2 * (np.pi * sigma * (u - np.rint(u))) ** 2))
    assert largest == pytest.approx(0.009, abs=5e-4)
    assert 0.004 < np.abs(flux - 1).max() < largest


def test_known_affine_is_recovered() -> None:
    rng = np.random.default_rng(2)
    size, warp_size = 64, 31
    affine = affine_about(size, 37.0, scale=0.21, parity=-1, offset=(0.3, -0.2))
    xi, eta = rng.uniform(-1.0, 1.0, (2, 1, 20))
    sequences = blank_cutouts(np.broadcast_to(affine, (1, 20, 2, 3)), size)
    sequences.image[:] = draw_stars(sequences.pixel_to_sky, size, xi, eta, 0.8, None)
    warped = warp_sequences(sequences, warp_size=warp_size)
    y, x = np.mgrid[:warp_size, :warp_size]
    total = warped.image[0].sum(axis=(1, 2))
    found = [(warped.image[0] * axis).sum(axis=(1, 2)) / total for axis in (x, y)]
    fitted = np.linalg.lstsq(np.column_stack([*found, np.ones(20)]), np.column_stack([xi[0], eta[0]]))[0].T
    np.testing.assert_allclose(fitted, north_up_affine(warp_size, 0.2), atol=2e-4)
    np.testing.assert_array_equal(warped.pixel_to_sky[0, 3], north_up_affine(warp_size, 0.2))


@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_variance_of_white_noise(kernel: str) -> None:
    rng = np.random.default_rng(3)
    size, n = 32, 4000
    sequences = blank_cutouts(random_affines(rng, (n // 50, 50), size), size, sigma=3.0)
    sequences.image[:] = 3 * rng.standard_normal(sequences.image.shape, dtype=np.float32)
    warped = warp_sequences(sequences, kernel=kernel)
    # 900,000 pixels, of which about a third are independent: 0.3 %.
    assert np.mean(warped.image**2 / warped.variance) == pytest.approx(1.0, abs=0.01)
    affine = sequences.pixel_to_sky[0, 0]
    weights = impulse_responses(affine, size, 15, kernel)
    np.testing.assert_allclose(warped.variance[0, 0].ravel(), 9.0 * np.sum(weights**2, axis=1), rtol=1e-4)
    np.testing.assert_allclose(weights.sum(axis=1), 0.04 / pixel_area(affine), rtol=1e-5)


@pytest.mark.parametrize("angle", [0.0, 5.0, 30.0, 45.0])
@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_noise_scale_is_exact(kernel: str, angle: float) -> None:
    size, warp_size = 38, 19
    affine = affine_about(size, angle, offset=(0.8, -0.2), scale=0.2 if angle < 30 else 0.19)
    sequences = blank_cutouts(affine[None, None], size, psf_size=19)
    sequences.psf[:] = draw_psfs(sequences.pixel_to_sky, 19, 0.7, None)
    sequences.noise_scale[:] = 1.5
    warped = warp_sequences(sequences, warp_size=warp_size, kernel=kernel)
    weights = impulse_responses(affine, size, warp_size, kernel)
    psf_filter = warped.psf.ravel() / warped.variance.ravel()
    true = np.sum((psf_filter @ weights) ** 2)
    diagonal = np.sum(psf_filter**2 * warped.variance.ravel())
    # The filter of the test has the whole PSF, ours all but its faint edge.
    assert warped.noise_scale[0, 0] == pytest.approx(1.5 * true / diagonal, rel=2e-3)


@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_noise_of_a_matched_filter(kernel: str) -> None:
    rng = np.random.default_rng(4)
    size, n = 32, 240
    affines = random_affines(rng, (n, 1), size)
    sequences = blank_cutouts(np.broadcast_to(affines, (n, 50, 2, 3)), size, sigma=3.0)
    sequences.psf[:] = draw_psfs(affines, 25, 0.8, 3.5)
    sequences.image[:] = 3 * rng.standard_normal(sequences.image.shape, dtype=np.float32)
    warped = warp_sequences(sequences, kernel=kernel)
    psf = warped.psf[:, :, 5:20, 5:20]
    variance = warped.variance * warped.noise_scale[..., None, None]
    psi = np.sum(psf * warped.image / variance, axis=(2, 3))
    phi = np.sum(psf**2 / variance, axis=(2, 3))
    # 12,000 samples give the scatter to 0.65 %.
    assert np.std(psi / np.sqrt(phi)) == pytest.approx(1.0, abs=0.02)


def test_mean_noise_scale() -> None:
    rng = np.random.default_rng(5)
    sequences = blank_cutouts(random_affines(rng, (20, 50), 32), 32)
    sequences.psf[:] = draw_psfs(sequences.pixel_to_sky, 25, 0.8, 3.5)
    expected = {"lanczos3": 1.28, "lanczos5": 1.15, "bicubic": 1.62, "bilinear": 2.40}
    for kernel, value in expected.items():
        warped = warp_sequences(sequences, kernel=kernel)
        assert warped.noise_scale.mean() == pytest.approx(value, rel=0.02)


@pytest.mark.parametrize("kernel", ALL_KERNELS)
@pytest.mark.parametrize("fwhm", [0.6, 0.9])
def test_psf_is_what_a_star_at_the_centre_looks_like(kernel: str, fwhm: float) -> None:
    rng = np.random.default_rng(6)
    size, warp_size = 64, 25
    sequences = blank_cutouts(random_affines(rng, (1, 40), size), size)
    sequences.psf[:] = draw_psfs(sequences.pixel_to_sky, 25, fwhm, None)
    zero = np.zeros((1, 40))
    sequences.image[:] = draw_stars(sequences.pixel_to_sky, size, zero, zero, fwhm, None)
    warped = warp_sequences(sequences, warp_size=warp_size, kernel=kernel)
    np.testing.assert_allclose(warped.psf.sum(axis=(2, 3)), 1.0, rtol=1e-5)
    star = warped.image / warped.image.sum(axis=(2, 3), keepdims=True)
    # The ripple of a Lanczos kernel's frequency response is 0.3 %.
    np.testing.assert_allclose(warped.psf, star, atol=4e-3 * star.max())
    # A filter with this PSF finds the flux.
    flux = (warped.image * warped.psf).sum(axis=(2, 3)) / (warped.psf**2).sum(axis=(2, 3))
    np.testing.assert_allclose(flux, 1.0, atol=0.008 if kernel == "bilinear" else 0.003)


def shift_psfs(psf: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Move PSFs by fractions of pixels, in Fourier space."""
    frequency = np.fft.fftfreq(psf.shape[-1])
    phase = dx[..., None, None] * frequency + dy[..., None, None] * frequency[:, None]
    return np.fft.ifft2(np.fft.fft2(psf) * np.exp(-2j * np.pi * phase)).real


def test_matched_filter_keeps_the_snr() -> None:
    rng = np.random.default_rng(7)
    size, n, n_times = 34, 1000, 8
    sequences = blank_cutouts(random_affines(rng, (n, n_times), size), size, sigma=1.0)
    sequences.psf[:] = draw_psfs(sequences.pixel_to_sky, 25, 0.75, 3.5)
    xi, eta = rng.uniform(-0.8, 0.8, (2, n, n_times))
    star = draw_stars(sequences.pixel_to_sky, size, xi, eta, 0.75, 3.5)
    snr = rng.uniform(5, 15, n)
    flux = snr / np.sqrt(np.sum(star**2, axis=(1, 2, 3)))
    sequences.image[:] = rng.normal(size=star.shape) + star * flux[:, None, None, None]
    warped = warp_sequences(sequences)
    template = shift_psfs(warped.psf, xi / -0.2, eta / 0.2)[:, :, 5:20, 5:20]
    variance = warped.variance * warped.noise_scale[..., None, None]
    psi = np.sum(template * warped.image / variance, axis=(1, 2, 3))
    phi = np.sum(template**2 / variance, axis=(1, 2, 3))
    pull = psi / np.sqrt(phi) - snr
    # The mean of 1000 samples of unit scatter has an error of 0.03.
    assert abs(pull.mean()) < 0.1
    assert pull.std() == pytest.approx(1.0, abs=0.08)


def test_flat_sky_of_another_pixel_area() -> None:
    affines = np.array([[affine_about(40, 20.0, scale=0.25), affine_about(40, 70.0, scale=0.2)]])
    sequences = blank_cutouts(affines, 40)
    sequences.image[:] = 100 * pixel_area(affines)[..., None, None]
    for kernel in ALL_KERNELS:
        warped = warp_sequences(sequences, warp_size=11, pixel_scale=0.22, kernel=kernel)
        np.testing.assert_allclose(warped.image, 100 * 0.22**2, rtol=1e-5)


@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_bits_spread_to_what_the_kernel_touches(kernel: str) -> None:
    size, warp_size = 28, 11
    affine = affine_about(size, 25.0, offset=(0.1, 0.3))
    weights = impulse_responses(affine, size, warp_size, kernel).reshape(warp_size, warp_size, size, size)
    sequences = blank_cutouts(affine[None, None], size)
    plain = warp_sequences(sequences, warp_size=warp_size, kernel=kernel)
    sequences.mask[0, 0, 13, 12] = MaskBit.NO_DATA
    sequences.image[0, 0, 13, 12] = sequences.variance[0, 0, 13, 12] = np.nan
    sequences.mask[0, 0, 15, 16] = MaskBit.SATURATED | MaskBit.DETECTED
    sequences.mask[0, 0, 10, 15] = MaskBit.INJECTED
    warped = warp_sequences(sequences, warp_size=warp_size, kernel=kernel)
    expected = (weights[:, :, 13, 12] != 0) * MaskBit.NO_DATA
    expected |= (weights[:, :, 15, 16] != 0) * (MaskBit.SATURATED | MaskBit.DETECTED)
    expected |= (weights[:, :, 10, 15] != 0) * MaskBit.INJECTED
    np.testing.assert_array_equal(warped.mask[0, 0], expected)
    no_data = (expected & MaskBit.NO_DATA) != 0
    assert 0 < no_data.sum() < no_data.size
    for name in ("image", "variance"):
        pixels, expected_pixels = (getattr(table, name)[0, 0] for table in (warped, plain))
        np.testing.assert_array_equal(np.isnan(pixels), no_data)
        np.testing.assert_allclose(pixels[~no_data], expected_pixels[~no_data], rtol=1e-6)
    warped.validate()


@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_whole_pixels_touch_nothing_else(kernel: str) -> None:
    # The grid of the cutout itself: all of it, to the edge, is copied.
    rng = np.random.default_rng(8)
    sequences = blank_cutouts(north_up_affine(35, 0.2)[None, None], 35)
    sequences.image[:] = rng.normal(size=sequences.image.shape)
    sequences.mask[0, 0, 3, 4], sequences.mask[0, 0, 8, 8] = MaskBit.NO_DATA, MaskBit.BAD
    sequences.image[0, 0, 3, 4] = sequences.variance[0, 0, 3, 4] = np.nan
    warped = warp_sequences(sequences, warp_size=35, kernel=kernel)
    np.testing.assert_array_equal(warped.mask, sequences.mask)
    np.testing.assert_allclose(warped.image, sequences.image, rtol=1e-6)
    np.testing.assert_allclose(warped.variance, sequences.variance, rtol=1e-6)
    assert warped.noise_scale[0, 0] == pytest.approx(1.0, rel=1e-5)


def test_kernel_beyond_the_cutout_is_no_data() -> None:
    sequences = blank_cutouts(affine_about(20, 0.0, offset=(0.5, 0.5))[None, None], 20)
    warped = warp_sequences(sequences, warp_size=21, kernel="bilinear", pixel_scale=0.19)
    # The centre of the grid is at 10; 0 to 19 is covered by both pixels.
    position = 10 + 0.95 * np.arange(-10, 11)
    is_covered = (position >= 0) & (position <= 19)
    expected = ~(is_covered & is_covered[:, None])
    np.testing.assert_array_equal((warped.mask[0, 0] & MaskBit.NO_DATA) != 0, expected)
    warped.validate()


def test_missing_pixels_without_their_bit() -> None:
    sequences = blank_cutouts(affine_about(30, 10.0)[None, None], 30)
    sequences.variance[0, 0, 15, 15] = np.nan
    warped = warp_sequences(sequences)
    assert np.isnan(warped.image).any()
    warped.validate()


def test_padding_stays_padding() -> None:
    sequences = blank_cutouts(random_affines(np.random.default_rng(9), (3, 4), 40), 40)
    missing = ImageSequences.full(3, T=4, H=40, W=40, K=25)
    for column, array in sequences.items():
        if column.shape[:1] == ("T",):
            array[1, 2:] = getattr(missing, column.name)[1, 2:]
            array[2] = getattr(missing, column.name)[2]
    warped = warp_sequences(sequences)
    expected = ImageSequences.full(3, T=4, H=15, W=15, K=25)
    for column, array in warped.items():
        if column.shape[:1] == ("T",):
            np.testing.assert_array_equal(array[~warped.valid], getattr(expected, column.name)[~warped.valid])
    assert np.all(np.isfinite(warped.image[warped.valid]))
    assert np.all(np.isfinite(warped.noise_scale[warped.valid]))
    warped.validate()


def test_threads_and_input_that_is_not_contiguous() -> None:
    rng = np.random.default_rng(10)
    sequences = blank_cutouts(random_affines(rng, (20, 6), 40), 40)
    sequences.image[:] = rng.normal(size=sequences.image.shape)
    sequences.mask[rng.uniform(size=sequences.mask.shape) < 0.001] = MaskBit.BAD
    one = warp_sequences(sequences)
    two = warp_sequences(sequences, n_threads=2)
    for column, array in one.items():
        assert array.tobytes() == getattr(two, column.name).tobytes(), column.name
    odd = dataclasses.replace(
        sequences,
        **{c.name: a[:, 1::2] for c, a in sequences.items() if c.shape[:1] == ("T",)},
    )
    assert warp_sequences(odd).image.tobytes() == one.image[:, 1::2].tobytes()


def test_truth_of_injected_objects() -> None:
    affines = random_affines(np.random.default_rng(11), (2, 3), 40)
    sequences = blank_cutouts(affines, 40)
    xi, eta = np.array([0.3, -1.4, 1.55]), np.array([-0.5, 1.4, 0.2])
    sequences.injection = Injection.full(2, T=3)
    for name in ("injected", "inj_flux", "snr"):
        getattr(sequences.injection, name)[0] = 7.0
    for time in range(3):
        linear, offset = affines[0, time, :, :2], affines[0, time, :, 2]
        x, y = np.linalg.solve(linear, [xi[time], eta[time]] - offset)
        sequences.injection.inj_x[0, time], sequences.injection.inj_y[0, time] = x, y
    warped = warp_sequences(sequences)
    truth = warped.injection
    assert truth is not None
    np.testing.assert_allclose(truth.inj_x[0], 7 - xi / 0.2, atol=1e-9)
    np.testing.assert_allclose(truth.inj_y[0], 7 + eta / 0.2, atol=1e-9)
    # The grid ends 1.5 arcsec from its centre.
    np.testing.assert_array_equal(truth.inj_flux, [[7.0, 7.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(truth.snr, sequences.injection.snr)
    np.testing.assert_array_equal(sequences.injection.inj_flux[0], 7.0)
    assert np.all(np.isnan(truth.inj_x[1]))
    warped.validate()


@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_required_cutout_size(kernel: str) -> None:
    size = required_cutout_size(15, 0.2, kernel)
    angles = np.arange(0, 90, 5.0)
    offsets = [(0.5, 0.5), (-0.499, -0.499), (0.5, -0.499)]

    def n_missing(size: int) -> int:
        affines = [[affine_about(size, angle, offset=offset) for angle in angles] for offset in offsets]
        warped = warp_sequences(blank_cutouts(np.array(affines), size), kernel=kernel)
        return int(np.sum((warped.mask & MaskBit.NO_DATA) != 0))

    assert n_missing(size) == 0
    assert n_missing(size - 1) > 0
    assert required_cutout_size(15, 0.2, kernel, 0.1) > size


def test_impossible_arguments() -> None:
    sequences = blank_cutouts(affine_about(18, 0.0)[None, None], 18)
    with pytest.raises(
        ValueError, match="18x18 pixels are too small for a warp of 31x31.*cutout_size at least 49"
    ):
        warp_sequences(sequences, warp_size=31)
    with pytest.raises(ValueError, match="no kernel 'sinc'; choose one of lanczos3"):
        warp_sequences(sequences, kernel="sinc")
    with pytest.raises(ValueError, match="pixel_scale=0.0"):
        warp_sequences(sequences, pixel_scale=0.0)
    sequences.pixel_to_sky[0, 0, 0] = sequences.pixel_to_sky[0, 0, 1]
    with pytest.raises(ValueError, match="no invertible pixel_to_sky.*visit 0, detector -1"):
        warp_sequences(sequences)


def test_no_sequences() -> None:
    sequences = blank_cutouts(np.zeros((0, 4, 2, 3)), 40)
    assert warp_sequences(sequences).image.shape == (0, 4, 15, 15)


@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_table_of_kernel(kernel: str) -> None:
    exact = KERNELS[kernel].weights(np.linspace(0, 1, 5000))
    table = KERNELS[kernel].table.astype(float)
    phases = np.linspace(0, 1, len(table))
    for j in range(KERNELS[kernel].n_taps):
        interpolated = np.interp(np.linspace(0, 1, 5000), phases, table[:, j])
        np.testing.assert_allclose(interpolated, exact[:, j], atol=2.5e-6)
    np.testing.assert_allclose(table.sum(axis=1), 1.0, rtol=1e-6)
