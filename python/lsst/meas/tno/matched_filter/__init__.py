# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shift-and-stack on image sequences with a matched filter.

The S/N of a trajectory is ``sum(r psi) / sqrt(sum(r^2 phi))`` over the images
in which it is on a pixel, with psi = sum(PSF * flux / variance) and phi =
sum(PSF^2 / variance) over the usable pixels of an image, its variance times
its ``noise_scale``, and the flux r of an object in an image relative to that
in a reference band. It is what a detector that knows the PSF, the noise and
that motion is straight can do at best, for the trajectories it looks at
(Zackay & Ofek 2017, ApJ 836, 187; Whidden et al. 2019, AJ 157, 119).
"""

from __future__ import annotations

__all__ = (
    "MatchedFilterResult",
    "RefinedResult",
    "TrajectoryMeasurement",
    "band_flux_ratio",
    "measure_trajectory",
    "refine",
    "search_sequences",
    "trajectory_positions",
)

from collections.abc import Mapping

import numpy as np

from .._sequences import BANDS, ImageSequences
from ..photometry import TNO_COLOURS
from ._fit import fit_trajectories
from ._results import MatchedFilterResult, RefinedResult, TrajectoryMeasurement, positions_of
from ._sums import pixel_sums, positions_inside
from ._trajectories import RateLimits

SEQUENCES_PER_BLOCK = 32
"""Sequences measured at a time."""


def band_flux_ratio(
    band: np.ndarray, colours: Mapping[str, float] = TNO_COLOURS, reference_band: str = "r"
) -> np.ndarray:
    """Return the flux in a band over that in a reference band.

    Parameters
    ----------
    band
        Index of the band in `BANDS`; 255 where there is no image.
    colours
        AB magnitude in each band less that in r.
    reference_band
        Reference band.

    Returns
    -------
    ratio : `numpy.ndarray`
        Ratio of the fluxes, of the shape of ``band``; 0 where there is no
        image.
    """
    by_band = np.zeros(256)
    by_band[: len(BANDS)] = [10.0 ** (-0.4 * (colours[name] - colours[reference_band])) for name in BANDS]
    return by_band[band]


def measure_trajectory(
    sequences: ImageSequences, x: np.ndarray, y: np.ndarray, *, relative_flux: np.ndarray | None = None
) -> TrajectoryMeasurement:
    """Measure the flux along one given trajectory in each sequence.

    Parameters
    ----------
    sequences
        Image sequences.
    x, y
        Positions in each image, ``(n, n_times)``, pixels. Those that are NaN
        or not on a pixel of the image do not contribute.
    relative_flux
        Flux in each image over that in the reference band, ``(n, n_times)``;
        1 if not given.

    Returns
    -------
    measurement : `TrajectoryMeasurement`
        S/N and flux.
    """
    ratio = _flux_ratio(sequences, relative_flux)
    x, y, inside = positions_inside(sequences, x, y)
    psi, phi = np.zeros(inside.shape), np.zeros(inside.shape)
    for rows in _blocks(np.arange(len(sequences))):
        sums = pixel_sums(sequences[rows], x[rows], y[rows], inside[rows])
        psi[rows], phi[rows] = ratio[rows] * sums.psi, ratio[rows] ** 2 * sums.phi
    psi_sum, phi_sum = psi.sum(axis=1), phi.sum(axis=1)
    known = phi_sum > 0
    error = np.divide(1, np.sqrt(phi_sum), out=np.full(len(phi_sum), np.nan), where=known)
    return TrajectoryMeasurement(
        snr=np.where(known, psi_sum * error, 0.0),
        flux=psi_sum * error**2,
        flux_err=error,
        n_images=np.count_nonzero(phi > 0, axis=1),
    )


def trajectory_positions(
    sequences: ImageSequences, result: MatchedFilterResult
) -> tuple[np.ndarray, np.ndarray]:
    """Return where the trajectories of a result are in each image.

    Parameters
    ----------
    sequences
        Image sequences.
    result
        Trajectories, one a sequence.

    Returns
    -------
    x, y : `numpy.ndarray`
        Positions, ``(n, n_times)``, pixels; NaN in padding and where no
        trajectory was found.
    """
    return positions_of(sequences, result.plane_trajectory(sequences))


def refine(
    sequences: ImageSequences,
    start: MatchedFilterResult,
    *,
    relative_flux: np.ndarray | None = None,
    max_iterations: int = 50,
) -> RefinedResult:
    """Find the trajectories of the highest likelihood near given ones.

    Parameters
    ----------
    sequences
        Image sequences.
    start
        Trajectories to start from, as `search_sequences` returns them.
    relative_flux
        Flux in each image over that in the reference band, ``(n, n_times)``;
        1 if not given.
    max_iterations
        Largest number of steps.

    Returns
    -------
    refined : `RefinedResult`
        The trajectories, with ``snr`` at the maximum. ``flux`` is corrected
        for having been maximised.

    Notes
    -----
    Noise adds to the maximum of the likelihood on average what the n = 4
    fitted parameters of the trajectory do, so that the flux is multiplied by
    sqrt(1 - n / snr^2) (Vanderlinde et al. 2010, ApJ 722, 1180, for n = 3).
    The covariance is the inverse of the Fisher matrix of flux, position and
    rates at the corrected flux.
    """
    ratio = _flux_ratio(sequences, relative_flux)
    refined = RefinedResult(
        **{name: np.copy(value) for name, value in vars(start).items()},
        covariance=np.full((len(sequences), 4, 4), np.nan),
        converged=np.zeros(len(sequences), dtype=bool),
    )
    trajectory = start.plane_trajectory(sequences)
    for rows in _blocks(np.flatnonzero(start.found)):
        part = sequences[rows]
        fit = fit_trajectories(part, trajectory[rows], ratio[rows], max_iterations)
        refined.set_trajectory(part, rows, fit.trajectory)
        for name in ("snr", "flux", "flux_err", "n_images", "covariance", "converged"):
            getattr(refined, name)[rows] = getattr(fit, name)
    return refined


def search_sequences(
    sequences: ImageSequences,
    *,
    relative_flux: np.ndarray | None = None,
    rate_max: float | None = None,
    min_images: int | None = None,
    min_information: float = 0.5,
    max_loss: float = 0.02,
    device: str = "auto",
    n_threads: int = 1,
    batch_size: int = 16,
) -> MatchedFilterResult:
    """Find the straight trajectory of the highest S/N in each sequence.

    Parameters
    ----------
    sequences
        Image sequences. Images on different pixels, as before warping, are
        searched where they overlap a square with the orientation of the image
        that is nearest to the mean time.
    relative_flux
        Flux in each image over that in the reference band, ``(n, n_times)``,
        as `band_flux_ratio` returns it; 1 if not given.
    rate_max
        Highest rate relative to the window, arcsec/hour.
    min_images
        Number of consecutive images that a trajectory must be able to stay in
        the window for, which limits the rates in x and y. If neither this nor
        ``rate_max`` is given, it is all valid images.
    min_information
        Least information (phi) of a trajectory, as a fraction of the largest
        that the sequence has: it leaves out what sees only the edges of
        images or few of them. With half of it or more, a trajectory is in the
        window at the mean time, which is where it is searched.
    max_loss
        Largest fraction of S/N that is lost between the grid's points. It
        sets the number of trajectories.
    device
        ``auto``, ``cpu`` or ``cuda``.
    n_threads
        Number of threads on the CPU.
    batch_size
        Sequences to search at a time, which bounds the memory.

    Returns
    -------
    result : `MatchedFilterResult`
        The best trajectories. The fluxes are those at a maximum, which noise
        makes too high by about ``2 / snr^2``; `refine` corrects for it.

    Raises
    ------
    ValueError
        Raised if an argument is out of its range, or leaves too many
        trajectories to search.
    """
    from ..nn.compute import reproducible, resolve_device
    from ._search import search

    _check_arguments(rate_max, min_images, min_information, max_loss, batch_size)
    torch_device = resolve_device(device)
    with reproducible(n_threads=n_threads):
        return search(
            sequences,
            _flux_ratio(sequences, relative_flux),
            limits=RateLimits(rate_max=rate_max, min_images=min_images),
            min_information=min_information,
            max_loss=max_loss,
            device=torch_device,
            batch_size=batch_size,
        )


def _flux_ratio(sequences: ImageSequences, relative_flux: np.ndarray | None) -> np.ndarray:
    """Return the flux ratios, ``(n, n_times)``; 0 where there is no image."""
    if relative_flux is None:
        return sequences.valid.astype(float)
    ratio = np.where(sequences.valid, relative_flux, 0.0)
    if not (np.all(np.isfinite(ratio)) and np.all(ratio >= 0)):
        raise ValueError("relative_flux must be finite and not negative wherever there is an image.")
    return ratio


def _check_arguments(
    rate_max: float | None, min_images: int | None, min_information: float, max_loss: float, batch_size: int
) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be 1 or more.")
    if rate_max is not None and not 0 <= rate_max < np.inf:
        raise ValueError(f"rate_max={rate_max} must be a rate in arcsec/hour, or None.")
    if min_images is not None and min_images < 2:
        raise ValueError(f"min_images={min_images} must be 2 or more, or None.")
    if not 0 < min_information <= 1:
        raise ValueError(f"min_information={min_information} must be above 0 and at most 1.")
    if not 0 < max_loss < 1:
        raise ValueError(f"max_loss={max_loss} must be between 0 and 1.")


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[i : i + SEQUENCES_PER_BLOCK] for i in range(0, len(rows), SEQUENCES_PER_BLOCK)]
