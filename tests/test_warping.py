# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import math

import numpy as np
import pytest
from warp_builders import (
    ALL_KERNELS,
    affine_about,
    blank_cutouts,
    draw_psfs,
    draw_stars,
    impulse_responses,
    random_affines,
)

from lsst.meas.tno.geometry import north_up_affine, pixel_area
from lsst.meas.tno.warping import KERNELS, warp_sequences


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
