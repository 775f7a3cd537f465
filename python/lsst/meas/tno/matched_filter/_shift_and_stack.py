# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Maps of psi and phi of single images, and their sums along trajectories, in
torch.
"""

from __future__ import annotations

__all__ = ("Stacked", "information_maps", "resample_maps", "stack")

import dataclasses

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from ..injection import _shift_matrix
from ._trajectories import TrajectoryGrid

GPU_ELEMENTS = 2**27
"""Sums that a GPU forms at a time; a CPU takes one rate at a time, which is
what its cache holds.
"""


def information_maps(weighted: Tensor, weight: Tensor, psf: Tensor, oversampling: int) -> Tensor:
    """Return psi and phi of sources of unit flux at all positions of images.

    Parameters
    ----------
    weighted
        Image over variance, 0 in pixels that do not count, ``(m, height,
        width)``.
    weight
        Inverse variance, likewise.
    psf
        PSFs, ``(m, K, K)``.
    oversampling
        Positions a pixel, along an axis.

    Returns
    -------
    maps : `torch.Tensor`
        Psi and phi, ``(m, 2, oversampling * height, oversampling * width)``.
        Position i is at pixel (i + 1/2) / oversampling - 1/2.
    """
    m, height, width = weight.shape
    # A PSF that is moved by half a pixel has one more pixel at each edge.
    reach = min(psf.shape[-1] // 2 + 1, max(height, width) - 1)
    kernels = _phase_kernels(psf, oversampling, reach)
    size = next_fast_len(max(height, width) + reach, real=True)
    maps = [
        _correlate(images, kernel, reach, size)
        for images, kernel in ((weighted, kernels), (weight, kernels**2))
    ]
    both = torch.stack(maps, dim=1)
    fine = both.permute(0, 1, 4, 2, 5, 3).reshape(m, 2, height * oversampling, width * oversampling)
    fine[:, 1].clamp_(min=0)
    return fine


def _phase_kernels(psf: Tensor, oversampling: int, reach: int) -> Tensor:
    """Return PSFs moved by fractions of a pixel, ``(m, n, n, L, L)`` with the
    phases in y and x and the L = 2 reach + 1 pixels in y and x.
    """
    phase = (np.arange(oversampling) + 0.5) / oversampling - 0.5
    size = 2 * reach + 1
    matrix = _shift_matrix(reach + phase, psf.shape[-1], size)
    flat = torch.from_numpy(matrix.reshape(-1, psf.shape[-1])).to(psf)
    moved = flat @ psf @ flat.T
    return moved.reshape(-1, oversampling, size, oversampling, size).transpose(2, 3)


def _correlate(images: Tensor, kernels: Tensor, reach: int, size: int) -> Tensor:
    """Return ``sum_l kernel[l] image[position + l]`` at the pixels of images,
    ``(m, n, n, height, width)``.
    """
    height, width = images.shape[-2:]
    shape = (size, size)
    # Cyclic in theory: the zeros before the image and those after the kernel
    # keep what wraps around from meeting anything.
    padded = torch.nn.functional.pad(images, (reach, size - reach - width, reach, size - reach - height))
    spectrum = torch.fft.rfft2(padded)[:, None, None]
    product = spectrum * torch.fft.rfft2(kernels, s=shape).conj()
    return torch.fft.irfft2(product, s=shape)[..., :height, :width]


def resample_maps(maps: Tensor, affine: Tensor, oversampling: int) -> Tensor:
    """Interpolate maps onto the pixels of another image.

    Parameters
    ----------
    maps
        Maps, ``(m, 2, n * height, n * width)``.
    affine
        Maps from pixels of the output to pixels of the input, ``(m, 2, 3)``.
    oversampling
        Positions a pixel, n.

    Returns
    -------
    maps : `torch.Tensor`
        Maps of the same shape; 0 where the input has no pixel.
    """
    n_y, n_x = maps.shape[-2:]
    y, x = (((torch.arange(n) + 0.5) / oversampling - 0.5).to(affine) for n in (n_y, n_x))
    y, x = torch.meshgrid(y, x, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    # From -1 to 1 between the outer edges of the pixels.
    size = torch.tensor([n_x, n_y]).to(affine) / oversampling
    at = (torch.einsum("mij,yxj->myxi", affine, points) + 0.5) * 2 / size - 1
    inside = (at.abs() < 1).all(dim=-1)[:, None]
    moved = torch.nn.functional.grid_sample(
        maps, at.to(maps), mode="bicubic", padding_mode="border", align_corners=False
    )
    moved = torch.where(inside, moved, 0.0)
    moved[:, 1].clamp_(min=0)
    return moved


@dataclasses.dataclass(kw_only=True, eq=False)
class Stacked:
    """The best trajectory of each sequence, ``(n,)`` each."""

    snr: Tensor
    """S/N; -inf if no trajectory has enough information."""

    psi: Tensor
    """Sum of psi."""

    phi: Tensor
    """Sum of phi."""

    rate: Tensor
    """Index of the rate in the grid."""

    x: Tensor
    """Start position in x, steps of the grid."""

    y: Tensor
    """Start position in y, steps of the grid."""


def stack(maps: Tensor, grid: TrajectoryGrid, min_information: float) -> Stacked:
    """Sum maps along all trajectories of a grid and take the best.

    Parameters
    ----------
    maps
        Psi and phi of each image, ``(n, n_times, 2, n_y, n_x)``.
    grid
        The trajectories.
    min_information
        Least phi of a trajectory, as a fraction of the sum of the largest phi
        in each image.

    Returns
    -------
    stacked : `Stacked`
        Best trajectory of each sequence.
    """
    n, _, _, n_y, n_x = maps.shape
    flat, starts, pitch = _lay_out(maps, grid.shifts)
    floor = min_information * maps[:, :, 1].amax(dim=(-2, -1)).sum(dim=1)
    floor = floor.clamp(min=torch.finfo(floor.dtype).tiny)[:, None, None, None]
    n_rates = _rates_at_a_time(maps.device.type, 2 * n * n_y * pitch)
    best: Stacked | None = None
    for first in range(0, len(starts), n_rates):
        sums = _sum_windows(flat, starts[first : first + n_rates], 2 * n_y * pitch)
        psi, phi = sums.unflatten(-1, (n_y, pitch, 2))[..., :n_x, :].unbind(dim=-1)
        snr = torch.where(phi >= floor, psi * phi.clamp(min=floor).rsqrt(), -torch.inf)
        found = _best_of(snr, psi, phi, first)
        best = found if best is None else _better_of(best, found)
    assert best is not None
    return best


def _rates_at_a_time(device: str, n_sums: int) -> int:
    """Return for how many rates to form so many sums each."""
    return 1 if device == "cpu" else max(1, GPU_ELEMENTS // n_sums)


def _lay_out(maps: Tensor, shifts: np.ndarray) -> tuple[Tensor, np.ndarray, int]:
    """Return maps with zeros around them as rows of memory, in which a shift
    in two dimensions is one offset.

    Returns
    -------
    flat : `torch.Tensor`
        Maps, ``(n_times, n, length)``, psi and phi in turns.
    starts : `numpy.ndarray`
        Where in it the window of a rate begins, ``(n_rates, n_times)``.
    pitch : `int`
        Length of a row of the maps and the zeros between it and the next.
    """
    n_y, n_x = maps.shape[-2:]
    # What is shifted by the size of the map has left it.
    shifts = np.clip(shifts, [-n_x, -n_y], [n_x, n_y])
    pad_x, pad_y = (int(n) for n in np.abs(shifts).max(axis=(0, 1)))
    pitch = n_x + pad_x
    padded = torch.nn.functional.pad(maps.permute(1, 0, 3, 4, 2), (0, 0, 0, pad_x, pad_y, pad_y))
    flat = padded.flatten(2)
    flat = torch.nn.functional.pad(flat, (2 * pad_x, 2 * pad_x))
    starts = 2 * ((pad_y + shifts[..., 1]) * pitch + shifts[..., 0] + pad_x)
    return flat, starts, pitch


def _sum_windows(flat: Tensor, starts: np.ndarray, length: int) -> Tensor:
    """Return the sums over the images of windows, ``(n, n_rates, length)``."""
    if len(starts) == 1:
        total = flat[0, :, starts[0, 0] : starts[0, 0] + length].clone()
        for image, start in zip(flat[1:], starts[0, 1:].tolist(), strict=True):
            total += image[:, start : start + length]
        return total[:, None]
    index = torch.from_numpy(starts).to(flat.device)
    windows = flat.unfold(-1, length, 1)
    total = windows[0].index_select(1, index[:, 0])
    for image, start in zip(windows[1:], index.T[1:], strict=True):
        total += image.index_select(1, start)
    return total


def _best_of(snr: Tensor, psi: Tensor, phi: Tensor, first_rate: int) -> Stacked:
    """Return the best of trajectories, ``(n, n_rates, n_y, n_x)``."""
    n_y, n_x = snr.shape[-2:]
    value, index = snr.flatten(1).max(dim=1)
    rows = torch.arange(len(snr), device=snr.device)
    at = (rows, index // (n_y * n_x), index // n_x % n_y, index % n_x)
    return Stacked(snr=value, psi=psi[at], phi=phi[at], rate=first_rate + at[1], y=at[2], x=at[3])


def _better_of(a: Stacked, b: Stacked) -> Stacked:
    """Return the better trajectory of each sequence, the first if equal."""
    b_is_better = b.snr > a.snr
    fields = [field.name for field in dataclasses.fields(Stacked)]
    return Stacked(**{name: torch.where(b_is_better, getattr(b, name), getattr(a, name)) for name in fields})
