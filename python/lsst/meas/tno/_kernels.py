# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Interpolation kernels, and the compiler that what uses them shares."""

from __future__ import annotations

__all__ = ("KERNELS", "Kernel", "jit")

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numba
import numpy as np

N_PHASES = 512
"""Intervals of a pixel in which kernels are tabulated. What lies between is
interpolated linearly; that is off by at most ``(1 / N_PHASES)**2 / 8`` times
the kernel's second derivative (5 a pixel^2 at most), 2.4e-6.
"""


LANES = 4
"""Numbers that vector registers hold at least."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A separable interpolation kernel, in input pixels."""

    name: str
    """Name, as in configurations (`str`)."""

    radius: int
    """Half of the number of input pixels that it spans on an axis (`int`)."""

    function: Callable[[np.ndarray], np.ndarray]
    """Weights of pixels at distances ``(n, n_taps)`` from `n` positions; their
    sum is 1 and their mean distance 0.
    """

    @property
    def n_taps(self) -> int:
        """Number of input pixels that it spans on an axis (`int`)."""
        return 2 * self.radius

    @property
    def taps(self) -> tuple[int, ...]:
        """Offsets of these pixels from the next lower one (`tuple` [`int`]).

        Compiled code takes its length, which is part of its type, as a
        constant.
        """
        return tuple(range(1 - self.radius, self.radius + 1))

    @property
    def lanes(self) -> tuple[int, ...]:
        """Columns of `padded_table`, for compiled code like `taps`
        (`tuple` [`int`]).
        """
        return tuple(range(-(-self.n_taps // LANES) * LANES))

    def weights(self, phase: np.ndarray) -> np.ndarray:
        """Return the weights of the input pixels about a position.

        Parameters
        ----------
        phase
            Distances in [0, 1] from the centre of the next lower pixel,
            ``(n,)``.

        Returns
        -------
        weights : `numpy.ndarray`
            Weights of the pixels at `taps`, ``(n, n_taps)``. At phase 0 and 1
            that pixel or the next has all the weight.
        """
        distance = np.array(self.taps) - phase[:, np.newaxis]
        weights = self.function(distance)
        # sin(pi n) is not quite 0 for integers n.
        is_pixel_centre = np.equal(np.mod(distance, 1.0), 0.0)
        return np.where(is_pixel_centre, np.equal(distance, 0.0), weights)

    @functools.cached_property
    def table(self) -> np.ndarray:
        """Weights at `N_PHASES` + 1 phases from 0 to 1 (`numpy.ndarray` of
        `numpy.float32`, ``(N_PHASES + 1, n_taps)``).
        """
        return self.weights(np.linspace(0.0, 1.0, N_PHASES + 1)).astype(np.float32)

    @functools.cached_property
    def padded_table(self) -> np.ndarray:
        """The same with columns of zeros, to fill vector registers
        (`numpy.ndarray`).
        """
        return np.pad(self.table, ((0, 0), (0, len(self.lanes) - self.n_taps)))


def _lanczos(radius: int) -> Kernel:
    return Kernel(f"lanczos{radius}", radius, functools.partial(_lanczos_weights, radius=radius))


def _lanczos_weights(distance: np.ndarray, *, radius: int) -> np.ndarray:
    """Return Lanczos weights that are right for all linear functions.

    As they are, they do not sum to one at every phase (lanczos3 is up to 1 %
    off), and a flat sky would get ripples: they are divided by their sum. And
    their mean is up to 0.02 pixels off. That moves stars, and where rotation
    makes the phase drift over a star, it changes the flux by up to 0.5 %: a
    line under the window of the kernel is added that puts it right. Weights
    change by at most 0.003 by it, and sum(weights^2) by 1e-4.
    """
    window = np.where(np.abs(distance) < radius, np.sinc(distance / radius), 0.0)
    weights = np.sinc(distance) * window
    weights /= weights.sum(axis=1, keepdims=True)
    s0, s1, s2 = (np.sum(window * distance**power, axis=1, keepdims=True) for power in range(3))
    slope = -np.sum(weights * distance, axis=1, keepdims=True) / (s2 - s1**2 / s0)
    return weights + window * slope * (distance - s1 / s0)


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Cubic convolution with a = -0.5, which is exact for parabolas (Keys
    1981, IEEE Trans. ASSP 29, 1153).
    """
    x = np.abs(x)
    inner = (1.5 * x - 2.5) * x**2 + 1.0
    outer = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - np.abs(x), 0.0)


KERNELS: Mapping[str, Kernel] = {
    kernel.name: kernel
    for kernel in (_lanczos(3), _lanczos(5), Kernel("bicubic", 2, _bicubic), Kernel("bilinear", 1, _bilinear))
}
"""Interpolation kernels, by name."""


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of arrays when it is first called.

    It runs without the interpreter's lock, so that threads may share the
    work. The compiled code is kept on disk where a place can be written to;
    numba raises where there is none, as on a batch node without a home.

    Sums may be taken in another order than written, which lets them use
    vector instructions; NaN keeps its meaning.

    Parameters
    ----------
    function
        Function to compile.
    """
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "contract", "nsz"},
    }
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(**options)(function)
