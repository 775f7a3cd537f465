# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Image sequences to inject into, and PSFs drawn where they belong."""

from __future__ import annotations

import numpy as np
from astropy.coordinates import EarthLocation, get_body_barycentric
from astropy.table import Table
from astropy.time import Time
from numpy.typing import ArrayLike
from scipy.special import erf

from lsst.meas.tno._sequences import ImageSequences, MaskBit
from lsst.meas.tno.orbit_states import OrbitStates, compute_orbit_states

PIXEL_SCALE = 0.2
"""Arcsec a pixel."""


def gaussian_pixels(x: np.ndarray, y: np.ndarray, fwhm: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return round Gaussians, integrated over pixels, ``(n, height, width)``.

    Parameters
    ----------
    x, y, fwhm
        Centres and full widths at half maximum, ``(n,)``, pixels.
    height, width
        Size, pixels.
    """

    def profile(position: np.ndarray, size: int) -> np.ndarray:
        edges = np.arange(size + 1) - 0.5 - np.asarray(position)[..., np.newaxis]
        return np.diff(erf(edges * 2 * np.sqrt(np.log(2)) / np.asarray(fwhm)[..., np.newaxis]), axis=-1) / 2

    return profile(y, height)[..., np.newaxis] * profile(x, width)[..., np.newaxis, :]


def elongated_pixels(
    x: float, y: float, size: int, *, fwhm: float, axis_ratio: float, angle: float, beta: float | None
) -> np.ndarray:
    """Return an elongated Moffat (or, without beta, Gaussian) profile that is
    integrated over pixels, ``(size, size)``, not normalised.

    Parameters
    ----------
    x, y
        Centre, pixels.
    size
        Size, pixels.
    fwhm
        Geometric mean of the full widths at half maximum, pixels.
    axis_ratio, angle
        Ratio of the axes, and angle of the major one to x, radians.
    beta
        Exponent of the Moffat profile.
    """
    nodes, weights = np.polynomial.legendre.leggauss(5)
    fine = (np.arange(size)[:, np.newaxis] + nodes / 2).ravel()
    dx, dy = fine - x, fine[:, np.newaxis] - y
    major = (np.cos(angle) * dx + np.sin(angle) * dy) * np.sqrt(axis_ratio)
    minor = (np.cos(angle) * dy - np.sin(angle) * dx) / np.sqrt(axis_ratio)
    r2 = 4 * (major**2 + minor**2) / fwhm**2
    values = 0.5**r2 if beta is None else (1 + (2 ** (1 / beta) - 1) * r2) ** -beta
    return np.einsum("iajb,a,b->ij", values.reshape(size, 5, size, 5), weights / 2, weights / 2)


def make_sequences(
    n_sequences: int,
    rng: np.random.Generator,
    *,
    n_times: int = 20,
    size: int = 31,
    psf_size: int = 19,
    hours: float = 0.6,
    seeing: tuple[float, float] = (0.7, 1.1),
) -> ImageSequences:
    """Return sequences of white noise, of images of random depth, seeing,
    rotation, parity and scale, in all bands.

    Parameters
    ----------
    n_sequences, n_times, size, psf_size
        Sizes.
    rng
        Source of randomness.
    hours
        Time that a sequence spans.
    seeing
        Range of the FWHM, arcsec.
    """
    shape = (n_sequences, n_times)
    sequences = ImageSequences.full(n_sequences, T=n_times, H=size, W=size, K=psf_size)
    sequences.tract[:], sequences.patch[:], sequences.sequence_id[:] = 7, 42, np.arange(n_sequences)
    sequences.ra[:] = rng.uniform(0, 360, n_sequences)
    sequences.dec[:] = rng.uniform(-60, 60, n_sequences)
    sequences.centre_ra[:], sequences.centre_dec[:] = sequences.ra[:, None], sequences.dec[:, None]
    sequences.valid[:] = True
    sequences.visit[:], sequences.detector[:] = np.arange(n_times), 3
    sequences.band[:] = rng.integers(6, size=shape)
    sequences.mjd[:] = 60000 + np.sort(rng.uniform(0, hours / 24, shape), axis=1)
    sequences.exposure_time[:] = 30
    sequences.noise_scale[:] = 1
    sequences.mask[:] = 0
    sigma = rng.uniform(20, 80, shape)
    sequences.variance[:] = sigma[..., None, None] ** 2
    sequences.image[:] = rng.normal(size=(*shape, size, size)) * sigma[..., None, None]
    sequences.pixel_to_sky[:] = _affines(rng, shape, size)
    fwhm = rng.uniform(*seeing, shape) / PIXEL_SCALE
    centre = np.full(shape, psf_size // 2)
    psf = gaussian_pixels(centre, centre, fwhm, psf_size, psf_size)
    sequences.psf[:] = psf / psf.sum(axis=(2, 3), keepdims=True)
    return sequences


def psf_fwhm(sequences: ImageSequences) -> np.ndarray:
    """Return the FWHM of the PSFs of `make_sequences`, pixels, from the ratio
    of the central pixel to the sum.
    """
    half = sequences.psf_size // 2
    # The peak is erf(k / (2 * fwhm))^2 with k = 2 sqrt(ln 2); invert by table.
    table = np.linspace(2.0, 8.0, 6001)
    peak = erf(np.sqrt(np.log(2)) / table) ** 2
    return np.interp(-sequences.psf[..., half, half], -peak, table)


def pad(sequences: ImageSequences, row: int, n_valid: int) -> None:
    """Make all but the first images of a sequence padding, in place."""
    missing = ImageSequences.full(
        1, T=sequences.n_times, H=sequences.height, W=sequences.width, K=sequences.psf_size
    )
    for column, array in sequences.items():
        if column.shape[:1] == ("T",):
            array[row, n_valid:] = getattr(missing, column.name)[0, n_valid:]


def mask_pixels(sequences: ImageSequences, where: np.ndarray) -> None:
    """Make pixels NO_DATA, in place."""
    sequences.image[where] = np.nan
    sequences.variance[where] = np.nan
    sequences.mask[where] |= np.uint8(MaskBit.NO_DATA)


def _affines(rng: np.random.Generator, shape: tuple[int, int], size: int) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi, shape)
    scale = PIXEL_SCALE * rng.uniform(0.99, 1.01, shape)
    parity = rng.choice([-1, 1], shape)
    # North-up axes times a rotation; the offset puts a random point near the
    # middle of the cutout at the tangent point.
    matrix = np.empty((*shape, 2, 3))
    matrix[..., 0, 0], matrix[..., 0, 1] = scale * np.cos(angle) * parity, -scale * np.sin(angle)
    matrix[..., 1, 0], matrix[..., 1, 1] = scale * np.sin(angle) * parity, scale * np.cos(angle)
    middle = (size - 1) / 2 + rng.uniform(-0.5, 0.5, (*shape, 2))
    matrix[..., 2] = -np.einsum("...ij,...j->...i", matrix[..., :2], middle)
    return matrix


def astropy_observer(mjd_tai: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return where Rubin Observatory is, by astropy alone.

    Parameters
    ----------
    mjd_tai
        TAI MJD, ``(n,)``.

    Returns
    -------
    mjd_tdb, position : `numpy.ndarray`
        Times, and barycentric ICRS positions, ``(n, 3)``, au.
    """
    time = Time(np.atleast_1d(mjd_tai), format="mjd", scale="tai")
    earth = get_body_barycentric("earth", time, ephemeris="builtin")
    site = EarthLocation.from_geodetic(-70.749417, -30.244633, 2663.0).get_gcrs(time)
    return time.tdb.mjd, (earth + site.cartesian).xyz.to_value("AU").T


def make_orbit_states(
    orbits: Table, *, mjd_begin: float = 59970.0, mjd_end: float = 60060.0, step: float = 15.0
) -> OrbitStates:
    """Return states of orbits about the time of `make_sequences`, as
    computeEphemerides writes them.

    Parameters
    ----------
    orbits
        Table with the columns of `ORBIT_COLUMNS`.
    mjd_begin, mjd_end, step
        TDB MJD of the first and the last, and days between them.
    """
    return compute_orbit_states(orbits, mjd_begin, mjd_end, step, n_threads=1)[0]
