# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a matched filter finds and measures in image sequences."""

from __future__ import annotations

__all__ = ("MatchedFilterResult", "RefinedResult", "TrajectoryMeasurement", "positions_of")

import dataclasses

import numpy as np

from .._sequences import ImageSequences
from ..geometry import apply_affine, gnomonic, inverse_gnomonic
from ._trajectories import hours_from_mean, plane_rate, plane_to_pixel, reference_image, sky_rate


@dataclasses.dataclass(kw_only=True, eq=False)
class MatchedFilterResult:
    """The best trajectory of each sequence; arrays ``(n,)``.

    Where `found` is False, `snr` and `n_images` are 0 and the rest is NaN.
    """

    found: np.ndarray
    """Whether there is a trajectory with enough information (`bool`)."""

    snr: np.ndarray
    """Signal to noise ratio."""

    x: np.ndarray
    """x at `mjd`, pixels of the image that is nearest in time."""

    y: np.ndarray
    """y at `mjd`, likewise."""

    ra: np.ndarray
    """ICRS right ascension at `mjd`, deg."""

    dec: np.ndarray
    """ICRS declination at `mjd`, deg."""

    rate_ra_cosdec: np.ndarray
    """Rate in right ascension times cos(dec) at `mjd`, arcsec/hour."""

    rate_dec: np.ndarray
    """Rate in declination at `mjd`, arcsec/hour."""

    flux: np.ndarray
    """Flux in the reference band, nJy."""

    flux_err: np.ndarray
    """Its standard deviation, nJy."""

    n_images: np.ndarray
    """Number of images that the trajectory is on, and that have usable pixels
    (`int`).
    """

    mjd: np.ndarray
    """TAI MJD that the position is for: the mean of the valid images."""

    n_trajectories: np.ndarray
    """Number of trajectories that were searched (`int`)."""

    @classmethod
    def full(cls, sequences: ImageSequences) -> MatchedFilterResult:
        """Return a result in which nothing was found.

        Parameters
        ----------
        sequences
            Image sequences.
        """
        n = len(sequences)
        values = {field.name: np.full(n, np.nan) for field in dataclasses.fields(MatchedFilterResult)}
        values["found"], values["snr"] = np.zeros(n, dtype=bool), np.zeros(n)
        values["n_images"], values["n_trajectories"] = np.zeros(n, dtype=int), np.zeros(n, dtype=int)
        values["mjd"] = sequences.mean_mjd
        return cls(**values)

    def plane_trajectory(self, sequences: ImageSequences) -> np.ndarray:
        """Return the trajectories on the sequences' tangent planes.

        Parameters
        ----------
        sequences
            Image sequences, one a row of the result.

        Returns
        -------
        trajectory : `numpy.ndarray`
            Position at `mjd`, arcsec, and rates, arcsec/hour, in xi and eta,
            ``(n, 4)``.
        """
        rate = plane_rate(
            (self.ra, self.dec), (self.rate_ra_cosdec, self.rate_dec), sequences.ra, sequences.dec
        )
        return np.column_stack([*gnomonic(self.ra, self.dec, sequences.ra, sequences.dec), rate])

    def set_trajectory(self, sequences: ImageSequences, rows: np.ndarray, trajectory: np.ndarray) -> None:
        """Set position and rates of some rows.

        Parameters
        ----------
        sequences
            Image sequences of these rows.
        rows
            Rows of the result, ``(m,)``.
        trajectory
            Trajectories on the sequences' tangent planes, ``(m, 4)``, as
            `plane_trajectory` returns them.
        """
        xi, eta = trajectory[:, 0], trajectory[:, 1]
        position = sequences.ra, sequences.dec
        image = reference_image(sequences)
        to_pixel = plane_to_pixel(sequences)[np.arange(len(image)), image]
        self.x[rows], self.y[rows] = apply_affine(to_pixel, xi, eta)
        self.ra[rows], self.dec[rows] = inverse_gnomonic(xi, eta, *position)
        self.rate_ra_cosdec[rows], self.rate_dec[rows] = sky_rate(xi, eta, trajectory[:, 2:], *position)


@dataclasses.dataclass(kw_only=True, eq=False)
class RefinedResult(MatchedFilterResult):
    """The trajectory of the highest likelihood of each sequence."""

    covariance: np.ndarray
    """Covariance of ra * cos(dec) and dec, arcsec, and of the two rates,
    arcsec/hour, ``(n, 4, 4)``; NaN where the images do not determine them.
    """

    converged: np.ndarray
    """Whether the maximum was reached (`bool`)."""


@dataclasses.dataclass(kw_only=True, eq=False)
class TrajectoryMeasurement:
    """What a matched filter measures along given trajectories; ``(n,)``."""

    snr: np.ndarray
    """Signal to noise ratio; 0 where there is no information."""

    flux: np.ndarray
    """Flux in the reference band, nJy; NaN where there is no information."""

    flux_err: np.ndarray
    """Its standard deviation, nJy; NaN where there is no information."""

    n_images: np.ndarray
    """Number of images that contribute (`int`)."""


def positions_of(sequences: ImageSequences, trajectory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where trajectories on the tangent plane are in each image.

    Parameters
    ----------
    sequences
        Image sequences.
    trajectory
        Position at the mean time, arcsec, and rates, arcsec/hour, in xi and
        eta, ``(n, 4)``.

    Returns
    -------
    x, y : `numpy.ndarray`
        Positions, ``(n, n_times)``, pixels; NaN in padding.
    """
    xi, eta = (
        trajectory[:, axis, np.newaxis] + trajectory[:, axis + 2, np.newaxis] * hours_from_mean(sequences)
        for axis in (0, 1)
    )
    return apply_affine(plane_to_pixel(sequences), xi, eta)
