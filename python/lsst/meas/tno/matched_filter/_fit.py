# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fits of straight trajectories to the pixels of image sequences."""

from __future__ import annotations

__all__ = ("TrajectoryFit", "fit_trajectories")

import dataclasses
import logging

import numpy as np

from lsst.utils.logging import PeriodicLogger

from .._progress import PROGRESS_INTERVAL
from .._sequences import ImageSequences
from ._results import positions_of
from ._sums import pixel_sums, positions_inside
from ._trajectories import hours_from_mean, plane_to_pixel

_LOG = logging.getLogger("lsst.meas.tno.matched_filter")

N_PARAMETERS = 4
"""Position and rates, in two directions."""

TOLERANCE = 1e-5
"""Gain of the logarithm of the likelihood from which on a step counts: a
step of 0.0045 standard deviations.
"""

DAMPING = (0.1, 0.001, 1e6)
"""First, smallest and largest damping of Levenberg and Marquardt."""

MIN_INFORMATION = 0.5
"""Part of the information at the start that a trajectory must keep."""

MIN_CONDITION = 1e-10
"""Smallest reciprocal condition number of a normalised Fisher matrix that
determines all parameters.
"""


@dataclasses.dataclass(kw_only=True, eq=False)
class TrajectoryFit:
    """Trajectories of the highest likelihood, ``(n,)`` each."""

    trajectory: np.ndarray
    """Position at the mean time, arcsec, and rates, arcsec/hour, in xi and
    eta, ``(n, 4)``.
    """

    snr: np.ndarray
    """S/N at the maximum."""

    flux: np.ndarray
    """Flux in the reference band, nJy, corrected for the maximisation."""

    flux_err: np.ndarray
    """Its standard deviation, nJy."""

    n_images: np.ndarray
    """Number of images that contribute."""

    covariance: np.ndarray
    """Covariance of ``trajectory``, ``(n, 4, 4)``."""

    converged: np.ndarray
    """Whether the maximum was reached."""


@dataclasses.dataclass(kw_only=True, eq=False)
class _Likelihood:
    """The likelihood near trajectories, its flux at the maximum."""

    psi: np.ndarray
    phi: np.ndarray
    n_images: np.ndarray
    gradient: np.ndarray
    """Derivatives by the trajectory, ``(n, 4)``, at the flux psi / phi."""

    cross: np.ndarray
    """Fisher information of flux and trajectory for unit flux, ``(n, 4)``."""

    information: np.ndarray
    """Fisher information of the trajectory for unit flux, ``(n, 4, 4)``."""

    def select(self, index: np.ndarray) -> _Likelihood:
        return _Likelihood(**{name: value[index] for name, value in vars(self).items()})

    def replace(self, index: np.ndarray, other: _Likelihood) -> None:
        for name, value in vars(self).items():
            value[index] = getattr(other, name)

    @property
    def flux(self) -> np.ndarray:
        return _ratio(self.psi, self.phi)

    @property
    def log_likelihood(self) -> np.ndarray:
        """Logarithm of the likelihood over that without a source; that of
        negative fluxes is negative.
        """
        return np.sign(self.psi) * _ratio(self.psi**2, 2 * self.phi)

    @property
    def marginal_information(self) -> np.ndarray:
        """Fisher information of the trajectory at unknown flux, for unit
        flux, ``(n, 4, 4)``.
        """
        cross = self.cross[:, :, np.newaxis] * self.cross[:, np.newaxis]
        return self.information - _ratio(cross, self.phi[:, np.newaxis, np.newaxis])


def fit_trajectories(
    sequences: ImageSequences, start: np.ndarray, ratio: np.ndarray, max_iterations: int
) -> TrajectoryFit:
    """Maximise the likelihood of trajectories.

    Parameters
    ----------
    sequences
        Image sequences.
    start
        Trajectories to start from, ``(n, 4)``, as in `TrajectoryFit`.
    ratio
        Flux in each image over that in the reference band, ``(n, n_times)``.
    max_iterations
        Largest number of steps.

    Returns
    -------
    fit : `TrajectoryFit`
        The maxima.

    Notes
    -----
    Gauss-Newton steps with the flux at its maximum for each trajectory, damped
    as Marquardt (1963, J. SIAM 11, 431) does, by as much as Nielsen (1999,
    IMM-REP-1999-05) says: the noise makes some peaks twice as sharp as the
    Fisher matrix has them. A step must raise the likelihood, also where it
    changes which images the trajectory is on.
    """
    trajectory = start.copy()
    at = _likelihood(sequences, trajectory, ratio)
    floor = MIN_INFORMATION * at.phi
    damping = np.full(len(start), DAMPING[0])
    converged = np.zeros(len(start), dtype=bool)
    active = at.phi > 0
    progress = PeriodicLogger(_LOG, interval=PROGRESS_INTERVAL)
    for number in range(1, max_iterations + 1):
        rows = np.flatnonzero(active)
        if len(rows) == 0:
            break
        progress.log("Step %d of the fit: %d of %d trajectories.", number, len(rows), len(start))
        here = at.select(rows)
        step, gain = _step(here, damping[rows])
        trial = _likelihood(sequences[rows], trajectory[rows] + step, ratio[rows])
        better = (trial.log_likelihood >= here.log_likelihood) & (trial.phi >= floor[rows])
        trajectory[rows[better]] += step[better]
        at.replace(rows[better], trial.select(better))
        quality = _ratio(trial.log_likelihood - here.log_likelihood, gain)
        factor = np.where(better, np.clip(1 - (2 * quality - 1) ** 3, 1 / 3, 4.0), 4.0)
        damping[rows] = np.clip(damping[rows] * factor, *DAMPING[1:])
        converged[rows] = gain < TOLERANCE
        active[rows] = (gain >= TOLERANCE) & (damping[rows] < DAMPING[2])
    return _finish(at, trajectory, converged)


def _finish(at: _Likelihood, trajectory: np.ndarray, converged: np.ndarray) -> TrajectoryFit:
    """Return the fit at its end, with the flux corrected for the fit."""
    snr = _ratio(at.psi, np.sqrt(at.phi))
    flux = at.flux * np.sqrt(np.clip(1 - _ratio(np.full(len(snr), N_PARAMETERS), snr**2), 0, None))
    information = at.marginal_information * flux[:, np.newaxis, np.newaxis] ** 2
    covariance = _invert(information)
    cross = flux[:, np.newaxis] * at.cross
    # Schur complement: what the trajectory's uncertainty adds to the flux's.
    gain = np.nan_to_num(np.einsum("ni,nij,nj->n", cross, covariance, cross))
    variance = _ratio(1 + _ratio(gain, at.phi), at.phi)
    return TrajectoryFit(
        trajectory=trajectory,
        snr=snr,
        flux=flux,
        flux_err=np.sqrt(variance),
        n_images=at.n_images,
        covariance=covariance,
        converged=converged & np.isfinite(covariance).all(axis=(1, 2)),
    )


def _likelihood(sequences: ImageSequences, trajectory: np.ndarray, ratio: np.ndarray) -> _Likelihood:
    """Return the likelihood of trajectories."""
    x, y, inside = positions_inside(sequences, *positions_of(sequences, trajectory))
    sums = pixel_sums(sequences, x, y, inside)
    # Derivatives of the pixel position by the four parameters.
    linear = np.where(inside[..., np.newaxis, np.newaxis], plane_to_pixel(sequences)[..., :2], 0.0)
    hours = hours_from_mean(sequences)[..., np.newaxis, np.newaxis]
    motion = np.concatenate([linear, linear * hours], axis=-1)
    squared = ratio**2
    psi, phi = np.sum(ratio * sums.psi, axis=1), np.sum(squared * sums.phi, axis=1)
    data = np.einsum("nt,nta,ntap->np", ratio, sums.data_gradient, motion)
    cross = np.einsum("nt,nta,ntap->np", squared, sums.psf_gradient, motion)
    weighted_curvature = squared[..., np.newaxis, np.newaxis] * sums.curvature
    flux = _ratio(psi, phi)[:, np.newaxis]
    return _Likelihood(
        psi=psi,
        phi=phi,
        n_images=np.count_nonzero(squared * sums.phi > 0, axis=1),
        gradient=flux * (data - flux * cross),
        cross=cross,
        information=np.einsum("ntap,ntab,ntbq->npq", motion, weighted_curvature, motion, optimize=True),
    )


def _step(at: _Likelihood, damping: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps, ``(n, 4)``, and the gain of the logarithm of the
    likelihood that they promise, ``(n,)``.
    """
    matrix = at.marginal_information * at.flux[:, np.newaxis, np.newaxis] ** 2
    scale = _scale(matrix)
    normal = matrix * scale[:, :, np.newaxis] * scale[:, np.newaxis]
    normal += (damping[:, np.newaxis] + MIN_CONDITION)[..., np.newaxis] * np.eye(N_PARAMETERS)
    # Parameters without information stay where they are.
    normal += np.eye(N_PARAMETERS) * (scale == 0)[:, np.newaxis]
    step = scale * np.linalg.solve(normal, (scale * at.gradient)[..., np.newaxis])[..., 0]
    return step, np.sum(step * at.gradient, axis=1) / 2


def _invert(information: np.ndarray) -> np.ndarray:
    """Return the inverses of Fisher matrices; NaN where they are singular."""
    scale = _scale(information)
    normal = information * scale[:, :, np.newaxis] * scale[:, np.newaxis]
    values, vectors = np.linalg.eigh(normal)
    regular = values[:, 0] > MIN_CONDITION
    inverse = np.full(information.shape, np.nan)
    scaled = vectors[regular] * scale[regular, :, np.newaxis]
    inverse[regular] = scaled / values[regular, np.newaxis] @ np.swapaxes(scaled, -1, -2)
    return inverse


def _scale(matrix: np.ndarray) -> np.ndarray:
    """Return what normalises the diagonal of matrices to 1, ``(n, 4)``."""
    diagonal = np.clip(np.einsum("nii->ni", matrix), 0, None)
    return np.divide(1, np.sqrt(diagonal), out=np.zeros_like(diagonal), where=diagonal > 0)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide; 0 where the denominator is not positive."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    return np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator > 0)
