# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Straight trajectories on the sky, where they are in the images of a
sequence, and grids of them that are fine enough for a PSF.

A trajectory is a straight line at a constant rate on the plane that touches
the sky at a sequence's (ra, dec), in arcsec.
"""

from __future__ import annotations

__all__ = (
    "RateLimits",
    "TrajectoryGrid",
    "curvature",
    "hours_from_mean",
    "make_grid",
    "plane_rate",
    "plane_to_pixel",
    "reference_image",
    "sky_rate",
)

import dataclasses

import numpy as np

from .._sequences import ImageSequences
from ..geometry import apply_affine, gnomonic, inverse_gnomonic, invert_affine
from ..injection import HALF_WIDTH, _shift_matrix

MAX_OVERSAMPLING = 8
"""Largest number of start positions a pixel, along an axis."""

MAX_RATES = 200_000
"""Number of rates above which a grid is a mistake in its limits."""


def hours_from_mean(sequences: ImageSequences) -> np.ndarray:
    """Return the times of images since the mean time of a sequence.

    Parameters
    ----------
    sequences
        Image sequences.

    Returns
    -------
    hours : `numpy.ndarray`
        Hours since the mean mjd of the valid images, ``(n, n_times)``; 0 in
        padding.
    """
    hours = (sequences.mjd - sequences.mean_mjd[:, np.newaxis]) * 24.0
    return np.where(sequences.valid, hours, 0.0)


def reference_image(sequences: ImageSequences) -> np.ndarray:
    """Return which valid image is nearest to the mean time of a sequence.

    Parameters
    ----------
    sequences
        Image sequences.

    Returns
    -------
    index : `numpy.ndarray`
        Index of the image, ``(n,)``; 0 if no image is valid.
    """
    distance = np.where(sequences.valid, np.abs(hours_from_mean(sequences)), np.inf)
    return np.argmin(distance, axis=1)


def plane_to_pixel(sequences: ImageSequences) -> np.ndarray:
    """Return the maps from the sky plane of a sequence to its images.

    Parameters
    ----------
    sequences
        Image sequences.

    Returns
    -------
    affine : `numpy.ndarray`
        Maps from the tangent plane about (ra, dec), arcsec, to pixels of each
        image, ``(n, n_times, 2, 3)``; NaN in padding.

    Notes
    -----
    The map between the tangent planes about (ra, dec) and about an image's
    centre is linearised at that centre: for centres up to an arcmin away that
    is right to 1e-6 arcsec over a window of 20 arcsec.
    """
    position = sequences.ra[:, np.newaxis], sequences.dec[:, np.newaxis]
    centre = sequences.centre_ra, sequences.centre_dec
    xi, eta = gnomonic(*centre, *position)
    inverse = invert_affine(sequences.pixel_to_sky)
    points = []
    for step_xi, step_eta in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        sky = inverse_gnomonic(xi + step_xi, eta + step_eta, *position)
        points.append(np.stack(apply_affine(inverse, *gnomonic(*sky, *centre)), axis=-1))
    linear = np.stack([points[1] - points[0], points[2] - points[0]], axis=-1)
    offset = points[0] - np.einsum("...ij,...j->...i", linear, np.stack([xi, eta], axis=-1))
    return np.concatenate([linear, offset[..., np.newaxis]], axis=-1)


def sky_rate(
    xi: np.ndarray, eta: np.ndarray, rate: np.ndarray, ra: np.ndarray, dec: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rates in right ascension and declination of a motion on the
    tangent plane.

    Parameters
    ----------
    xi, eta
        Position on the plane, ``(n,)``, arcsec.
    rate
        Rates in xi and eta, ``(n, 2)``, arcsec/hour.
    ra, dec
        Tangent point, ``(n,)``, deg.

    Returns
    -------
    rate_ra_cosdec, rate_dec : `numpy.ndarray`
        Rates, ``(n,)``, arcsec/hour.
    """
    jacobian = _sky_jacobian(*inverse_gnomonic(xi, eta, ra, dec), ra, dec)
    solution = np.linalg.solve(jacobian, rate[..., np.newaxis])[..., 0]
    return solution[..., 0], solution[..., 1]


def plane_rate(
    sky: tuple[np.ndarray, np.ndarray],
    rate: tuple[np.ndarray, np.ndarray],
    ra: np.ndarray,
    dec: np.ndarray,
) -> np.ndarray:
    """Return the rates on the tangent plane of a motion on the sky; the
    inverse of `sky_rate`.

    Parameters
    ----------
    sky
        Right ascension and declination, ``(n,)``, deg.
    rate
        Rates in right ascension (times the cosine of the declination) and
        declination, ``(n,)``, arcsec/hour.
    ra, dec
        Tangent point, ``(n,)``, deg.

    Returns
    -------
    rate : `numpy.ndarray`
        Rates in xi and eta, ``(n, 2)``, arcsec/hour.
    """
    return np.einsum("...ij,...j->...i", _sky_jacobian(*sky, ra, dec), np.stack(rate, axis=-1))


def _sky_jacobian(sky_ra: np.ndarray, sky_dec: np.ndarray, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Return the derivative of (xi, eta) by (ra * cos(dec), dec) at a sky
    position, ``(n, 2, 2)``, by differences of an arcsec.
    """
    step = 0.5 / 3600.0
    step_ra = step / np.cos(np.radians(sky_dec))
    by_ra = np.subtract(
        gnomonic(sky_ra + step_ra, sky_dec, ra, dec), gnomonic(sky_ra - step_ra, sky_dec, ra, dec)
    )
    by_dec = np.subtract(gnomonic(sky_ra, sky_dec + step, ra, dec), gnomonic(sky_ra, sky_dec - step, ra, dec))
    return np.moveaxis(np.array([by_ra, by_dec]), (0, 1), (-1, -2))


def curvature(psf: np.ndarray) -> np.ndarray:
    """Return how fast the S/N falls with the filter's distance from a source.

    Parameters
    ----------
    psf
        PSF images, ``(..., K, K)``.

    Returns
    -------
    curvature : `numpy.ndarray`
        Larger eigenvalue c of the curvature matrix, ``(...)``, pixel^-2: at a
        distance d the S/N is lower by the fraction c d^2 / 2. For a Gaussian
        c = 1 / (2 sigma^2).

    Notes
    -----
    A filter at a distance d gives the autocorrelation of the PSF, in which
    the matrix sum(P' P') / sum(P^2) of the PSF's derivatives P' multiplies
    d d / 2.
    """
    k = psf.shape[-1]
    middle = np.array([k // 2 + HALF_WIDTH])
    steps = [_shift_matrix(middle + step, k, k + 2 * HALF_WIDTH)[0] for step in (-0.01, 0.01)]
    slope = (steps[1] - steps[0]) / 0.02
    psf = psf.astype(float)
    by_x, by_y = psf @ slope.T, slope @ psf
    inner = slice(HALF_WIDTH, HALF_WIDTH + k)
    total = np.sum(psf**2, axis=(-2, -1))
    xx, yy = (np.sum(by**2, axis=(-2, -1)) / total for by in (by_x, by_y))
    xy = np.sum(by_x[..., inner] * by_y[..., inner, :], axis=(-2, -1)) / total
    return (xx + yy) / 2 + np.hypot((xx - yy) / 2, xy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RateLimits:
    """Which rates are searched, relative to the motion of the window."""

    rate_max: float | None = None
    """Highest rate (`float`, arcsec/hour)."""

    min_images: int | None = None
    """Number of consecutive images that a trajectory must be able to stay in
    the window for (`int`). If neither this nor `rate_max` is given, it is all
    of the valid images.
    """


@dataclasses.dataclass(kw_only=True, eq=False)
class TrajectoryGrid:
    """Trajectories to search in sequences of the same times and pixels.

    Positions are in pixels of the reference image.
    """

    oversampling: int
    """Start positions a pixel, along an axis (`int`)."""

    rates: np.ndarray
    """Rates in x and y (`numpy.ndarray`, ``(n_rates, 2)``, pixels/hour)."""

    time_origin: float
    """Time of the start positions (`float`, hours from the mean)."""

    shifts: np.ndarray
    """Motion in x and y from the time origin to each image
    (`numpy.ndarray` of `int`, ``(n_rates, n_times, 2)``), in steps of the
    start positions.
    """


def make_grid(
    *,
    hours: np.ndarray,
    valid: np.ndarray,
    to_image: np.ndarray,
    scale: float,
    size: tuple[int, int],
    information: np.ndarray,
    curvatures: np.ndarray,
    limits: RateLimits,
    max_loss: float,
) -> TrajectoryGrid:
    """Return a grid of trajectories that loses no more than a part of the S/N.

    Parameters
    ----------
    hours
        Times of the images since the mean time, ``(n_times,)``, hours.
    valid
        Which images there are, ``(n_times,)``.
    to_image
        Shifts from pixels of the reference image to those of each image,
        ``(n_times, 2)``.
    scale
        Arcsec a pixel.
    size
        Height and width of the images, pixels.
    information
        Squared S/N of a source of unit flux in each image, ``(n_times,)``.
    curvatures
        Curvature of each image's PSF, ``(n_times,)``, pixel^-2.
    limits
        Which rates to search.
    max_loss
        Largest loss of S/N between the grid's points.

    Returns
    -------
    grid : `TrajectoryGrid`
        The grid.

    Notes
    -----
    A trajectory that is off by dp at the time origin and dv in rate loses
    ``sum(phi c |dp + dv t|^2) / (2 sum(phi))`` of its S/N, with the
    information phi and the curvature c of each image. With times from the
    origin ``sum(phi c t) / sum(phi c)`` the parts of position and rate add
    up. The farthest that a point can be from a square lattice of step h is
    h / sqrt(2); rounding to the lattice at each image adds h^2 / 6 to the mean
    square. The loss is divided between position and rate so that the grid has
    the fewest points. It holds where all images see the trajectory, and few
    pixels are masked.
    """
    weight = information * curvatures
    origin = float(np.average(hours, weights=weight)) if weight.sum() > 0 else 0.0
    total = information.sum()
    position_curvature = weight.sum() / total if total > 0 else 0.0
    rate_curvature = np.sum(weight * (hours - origin) ** 2) / total if total > 0 else 0.0
    oversampling, rate_loss = _divide_loss(position_curvature, max_loss)
    if rate_curvature > 0 and np.ptp(hours[valid]) > 0:
        step = np.sqrt(4 * rate_loss / rate_curvature)
        offsets = _rate_lattice(step, hours[valid], scale, size, limits)
    else:
        offsets = np.zeros((1, 2))
    rates = offsets + _window_rate(hours[valid], -to_image[valid])
    elapsed = np.where(valid, hours - origin, 0.0)
    shifts = rates[:, np.newaxis] * elapsed[:, np.newaxis] + np.where(valid[:, np.newaxis], to_image, 0.0)
    return TrajectoryGrid(
        oversampling=oversampling,
        rates=rates,
        time_origin=origin,
        shifts=np.rint(oversampling * shifts).astype(np.int64),
    )


def _divide_loss(position_curvature: float, max_loss: float) -> tuple[int, float]:
    """Return the oversampling with the fewest trajectories, and the loss that
    it leaves to the rates.
    """
    oversampling = np.arange(1, MAX_OVERSAMPLING + 1)
    loss = position_curvature * (1 / 2 + 1 / 6) / 2 / oversampling**2
    left = max_loss - loss
    if not np.any(left > 0):
        raise ValueError(
            f"max_loss={max_loss} would need more than {MAX_OVERSAMPLING} start positions a pixel."
        )
    cost = np.where(left > 0, oversampling**2 / np.where(left > 0, left, 1.0), np.inf)
    best = int(np.argmin(cost))
    return int(oversampling[best]), float(left[best])


def _rate_lattice(
    step: float, hours: np.ndarray, scale: float, size: tuple[int, int], limits: RateLimits
) -> np.ndarray:
    """Return rates about that of the window, ``(n_rates, 2)``, pixels/hour,
    such that no rate inside the limits is outside of the lattice.
    """
    disc = np.inf if limits.rate_max is None else limits.rate_max / scale
    box = np.array([np.inf, np.inf])
    if limits.min_images is not None or limits.rate_max is None:
        wanted = len(hours) if limits.min_images is None else limits.min_images
        n_images = min(max(wanted, 2), len(hours))
        span = np.min(hours[n_images - 1 :] - hours[: len(hours) - n_images + 1])
        box = np.array(size[::-1]) / span if span > 0 else box
    n_steps = np.floor(np.minimum(disc, box) / step + 0.5)
    if not np.prod(2 * n_steps + 1) <= MAX_RATES:
        raise ValueError(
            f"rate_max={limits.rate_max} arcsec/hour and min_images={limits.min_images} leave more than "
            f"{MAX_RATES} rates, {step * scale:.3g} arcsec/hour apart, to search; lower rate_max."
        )
    x, y = (step * np.arange(-n, n + 1) for n in n_steps)
    lattice = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return lattice[np.hypot(lattice[:, 0], lattice[:, 1]) <= disc + step / np.sqrt(2)]


def _window_rate(hours: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return the mean rate of the window in pixels of the reference image."""
    spread = np.sum((hours - hours.mean()) ** 2) if len(hours) else 0.0
    if spread == 0:
        return np.zeros(2)
    return (hours - hours.mean()) @ position / spread
