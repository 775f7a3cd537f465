# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Search of image sequences on grids of trajectories, in torch."""

from __future__ import annotations

__all__ = ("search",)

import logging

import numpy as np
import torch
from torch import Tensor

from lsst.utils.logging import PeriodicLogger

from .._progress import PROGRESS_INTERVAL
from .._sequences import ImageSequences
from ..geometry import apply_affine, invert_affine, pixel_area
from ._results import MatchedFilterResult, positions_of
from ._shift_and_stack import Stacked, information_maps, resample_maps, stack
from ._sums import pixel_weights, positions_inside
from ._trajectories import (
    RateLimits,
    TrajectoryGrid,
    curvature,
    hours_from_mean,
    make_grid,
    plane_to_pixel,
    reference_image,
)

_LOG = logging.getLogger("lsst.meas.tno.matched_filter")

MAX_DISTORTION = 0.05
"""Distance in pixels, at the edge of an image, from which on the images of a
sequence do not count as being on the same pixels.
"""

SAME_TIME = 1e-4
"""Hours within which times are the same; a main-belt asteroid moves 0.003
arcsec in that.
"""

SAME_SHIFT = 1e-3
"""Pixels within which images are at the same place."""

SAME_SCALE = 1e-4
"""Arcsec within which the sizes of pixels are the same."""


def search(
    sequences: ImageSequences,
    ratio: np.ndarray,
    *,
    limits: RateLimits,
    min_information: float,
    max_loss: float,
    device: torch.device,
    batch_size: int,
) -> MatchedFilterResult:
    """Find the trajectory of the highest S/N in each sequence.

    Parameters
    ----------
    sequences
        Image sequences.
    ratio
        Flux in each image over that in the reference band, ``(n, n_times)``.
    limits
        Which rates to search.
    min_information
        Least fraction of a sequence's information that counts.
    max_loss
        Largest loss of S/N between the grid's points.
    device
        Device to compute on.
    batch_size
        Sequences to search at a time.

    Returns
    -------
    result : `MatchedFilterResult`
        The trajectories.
    """
    result = MatchedFilterResult.full(sequences)
    to_reference = _between_images(sequences)
    centre = np.array([sequences.width - 1, sequences.height - 1]) / 2
    progress, n_done = PeriodicLogger(_LOG, interval=PROGRESS_INTERVAL), 0
    for rows in _groups(sequences, to_reference, centre):
        affine = to_reference[rows[0]]
        batches = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
        grid = _grid_of(sequences, ratio, batches, affine, centre, limits, max_loss)
        result.n_trajectories[rows] = (
            len(grid.rates) * grid.oversampling**2 * sequences.height * sequences.width
        )
        for batch in batches:
            part = sequences[batch]
            maps = _maps_of(part, ratio[batch], affine, centre, grid.oversampling, device)
            with torch.inference_mode():
                best = stack(maps, grid, min_information)
            _set_result(result, part, batch, best, grid)
            n_done += len(batch)
            progress.log("Searched %d of %d sequences.", n_done, len(sequences))
    return result


def _between_images(sequences: ImageSequences) -> np.ndarray:
    """Return the maps from pixels of the reference image to pixels of each
    image, ``(n, n_times, 2, 3)``; the identity in padding.
    """
    to_pixel = plane_to_pixel(sequences)
    rows = np.arange(len(sequences))
    from_reference = invert_affine(to_pixel[rows, reference_image(sequences)])
    linear = to_pixel[..., :2] @ from_reference[:, np.newaxis, :, :2]
    offset = to_pixel[..., :2] @ from_reference[:, np.newaxis, :, 2:] + to_pixel[..., 2:]
    affine = np.concatenate([linear, offset], axis=-1)
    known = (sequences.valid & np.isfinite(affine).all(axis=(-2, -1)))[..., np.newaxis, np.newaxis]
    return np.where(known, affine, np.eye(2, 3))


def _groups(sequences: ImageSequences, affine: np.ndarray, centre: np.ndarray) -> list[np.ndarray]:
    """Return the rows of sequences of the same times and pixels."""
    moved = np.stack(apply_affine(affine, *centre), axis=-1) - centre
    scale = np.sqrt(pixel_area(np.nan_to_num(sequences.pixel_to_sky, nan=0.0)))
    parts = [
        hours_from_mean(sequences) / SAME_TIME,
        sequences.valid,
        scale / SAME_SCALE,
        *np.moveaxis(moved / SAME_SHIFT, 2, 0),
        *np.moveaxis(affine[..., :2].reshape(*affine.shape[:2], 4) * centre.max() / SAME_SHIFT, 2, 0),
    ]
    keys = np.rint(np.concatenate(parts, axis=1))
    # Adding zero makes -0 and 0 the same bytes.
    members: dict[bytes, list[int]] = {}
    for row, key in enumerate(keys + 0.0):
        members.setdefault(key.tobytes(), []).append(row)
    return [np.array(rows) for rows in members.values()]


def _is_distorted(affine: np.ndarray, centre: np.ndarray) -> bool:
    """Tell whether images are not just shifted copies of the reference."""
    return bool(np.max(np.abs(affine[..., :2] - np.eye(2)) @ centre) > MAX_DISTORTION)


def _shift_of(affine: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return the shifts s of images, ``(n_times, 2)``, such that position p
    of the reference is at ``linear (p + s - centre) + centre`` of the image.
    """
    moved = np.stack(apply_affine(affine, *centre), axis=-1) - centre
    return np.linalg.solve(affine[..., :2], moved[..., np.newaxis])[..., 0]


def _grid_of(
    sequences: ImageSequences,
    ratio: np.ndarray,
    batches: list[np.ndarray],
    affine: np.ndarray,
    centre: np.ndarray,
    limits: RateLimits,
    max_loss: float,
) -> TrajectoryGrid:
    """Return the grid for sequences of the same times and pixels."""
    information, curvatures = np.zeros(sequences.n_times), np.zeros(sequences.n_times)
    for batch in batches:
        squared_snr, steepness = _information_of(sequences[batch], ratio[batch])
        information += squared_snr.sum(axis=0)
        curvatures = np.maximum(curvatures, steepness.max(axis=0))
    one = sequences[batches[0][:1]]
    return make_grid(
        hours=hours_from_mean(one)[0],
        valid=one.valid[0],
        to_image=_shift_of(affine, centre),
        scale=float(np.sqrt(pixel_area(one.pixel_to_sky[0, reference_image(one)[0]]))),
        size=(sequences.height, sequences.width),
        information=information,
        curvatures=curvatures,
        limits=limits,
        max_loss=max_loss,
    )


def _information_of(sequences: ImageSequences, ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared S/N of a source of unit flux in each image, and the
    curvature of its PSF, ``(n, n_times)``; 0 where there is none.
    """
    _, weight = pixel_weights(sequences)
    has_pixels = np.any(weight > 0, axis=(-2, -1))
    psf = sequences.psf[has_pixels]
    information, curvatures = np.zeros(has_pixels.shape), np.zeros(has_pixels.shape)
    information[has_pixels] = np.sum(psf.astype(float) ** 2, axis=(-2, -1))
    curvatures[has_pixels] = curvature(psf)
    return information * ratio**2 * weight.mean(axis=(-2, -1)), curvatures


def _maps_of(
    sequences: ImageSequences,
    ratio: np.ndarray,
    affine: np.ndarray,
    centre: np.ndarray,
    oversampling: int,
    device: torch.device,
) -> Tensor:
    """Return psi and phi of each image on pixels like the reference's,
    ``(n, n_times, 2, n_y, n_x)``.
    """
    image, weight = pixel_weights(sequences)
    psf = np.where(np.isfinite(sequences.psf), sequences.psf, np.float32(0))
    weighted, weights, psfs = (
        torch.from_numpy(array).to(device).flatten(0, 1) for array in (image * weight, weight, psf)
    )
    with torch.inference_mode():
        maps = information_maps(weighted, weights, psfs, oversampling)
        if _is_distorted(affine, centre):
            linear = affine[..., :2]
            about_centre = np.concatenate([linear, (centre - linear @ centre)[..., np.newaxis]], axis=-1)
            moves = torch.from_numpy(about_centre).to(device).repeat(len(image), 1, 1)
            maps = resample_maps(maps, moves, oversampling)
        factors = torch.from_numpy(np.stack([ratio, ratio**2], axis=-1)).to(maps)
        return maps.unflatten(0, ratio.shape) * factors[..., None, None]


def _set_result(
    result: MatchedFilterResult,
    sequences: ImageSequences,
    rows: np.ndarray,
    best: Stacked,
    grid: TrajectoryGrid,
) -> None:
    """Write the best trajectories of some rows."""
    snr, psi, phi = (value.double().cpu().numpy() for value in (best.snr, best.psi, best.phi))
    found = np.isfinite(snr)
    rate, step_x, step_y = (value.cpu().numpy()[found] for value in (best.rate, best.x, best.y))
    steps = np.stack([step_x, step_y], axis=-1)
    position = (steps + 0.5) / grid.oversampling - 0.5 - grid.rates[rate] * grid.time_origin
    sequences, rows = sequences[found], rows[found]
    image = reference_image(sequences)
    from_pixel = invert_affine(plane_to_pixel(sequences)[np.arange(len(image)), image])
    plane_rates = np.einsum("nij,nj->ni", from_pixel[..., :2], grid.rates[rate])
    trajectory = np.column_stack([*apply_affine(from_pixel, position[:, 0], position[:, 1]), plane_rates])
    result.found[rows], result.snr[rows] = True, snr[found]
    result.set_trajectory(sequences, rows, trajectory)
    result.flux[rows], result.flux_err[rows] = psi[found] / phi[found], phi[found] ** -0.5
    _, _, inside = positions_inside(sequences, *positions_of(sequences, trajectory))
    has_pixels = np.any(pixel_weights(sequences)[1] > 0, axis=(-2, -1))
    result.n_images[rows] = np.count_nonzero(inside & has_pixels, axis=1)
