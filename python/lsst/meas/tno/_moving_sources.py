# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Point sources in all images of many sequences at once."""

from __future__ import annotations

__all__ = ("MovingSources",)

from collections.abc import Mapping

import numpy as np

from ._sequences import UNUSABLE, MaskBit
from .injection import add_point_source, is_on_image, shift_psf

MIN_VARIANCE = 0.1
"""Least part of a variance that the subtraction of a source leaves."""


class MovingSources:
    """One source in each of some sequences.

    Parameters
    ----------
    columns
        Arrays of image, variance, mask, psf, noise_scale and valid, ``(n,
        ...)``. The first three are changed in place.
    rows
        Rows that have a source, ``(m,)``, each once.
    x, y
        Positions, ``(m, n_times)``, pixels. Images where one is NaN have no
        source.
    """

    def __init__(
        self, columns: Mapping[str, np.ndarray], rows: np.ndarray, x: np.ndarray, y: np.ndarray
    ) -> None:
        height, width = columns["image"].shape[2:]
        seen = columns["valid"][rows] & np.isfinite(x) & np.isfinite(y)
        seen &= np.isfinite(columns["psf"][rows].sum(axis=(2, 3)))
        self._columns = columns
        self._n_rows = len(rows)
        self._source, self._time = np.nonzero(seen)
        self._images = rows[self._source], self._time
        psf = columns["psf"][self._images]
        x, y = x[seen], y[seen]
        self._peak = psf.max(axis=(1, 2), initial=0.0)
        self._profile = shift_psf(psf, x, y, height, width)
        self._is_on = is_on_image(x, y, height, width)

    def add(self, flux: np.ndarray, electrons: np.ndarray, rng: np.random.Generator) -> None:
        """Add the sources and their Poisson noise.

        Parameters
        ----------
        flux
            Fluxes, ``(m, n_times)``, nJy.
        electrons
            Photo-electrons per nJy, ``(m, n_times)``.
        rng
            Source of the Poisson noise.
        """
        lit = flux[self._source, self._time] > 0
        images = self._images[0][lit], self._images[1][lit]
        at = self._source[lit], self._time[lit]
        image, variance, mask = (self._columns[name][images] for name in ("image", "variance", "mask"))
        add_point_source(
            image,
            variance,
            mask,
            profile=self._profile[lit],
            peak=self._peak[lit],
            flux=flux[at],
            electrons=electrons[at].astype(float),
            rng=rng,
        )
        for name, array in (("image", image), ("variance", variance), ("mask", mask)):
            self._columns[name][images] = array

    def subtract(self, flux: np.ndarray, electrons: np.ndarray) -> None:
        """Subtract the sources, and the variance of their Poisson noise.

        Parameters
        ----------
        flux
            Fluxes, ``(m, n_times)``, nJy.
        electrons
            Photo-electrons per nJy, ``(m, n_times)``.

        Notes
        -----
        The noise itself stays.
        """
        at = self._source, self._time
        model = self._profile * flux[at][:, np.newaxis, np.newaxis]
        variance = self._columns["variance"][self._images]
        less = variance - np.clip(model, 0, None) / electrons[at][:, np.newaxis, np.newaxis]
        self._columns["image"][self._images] -= model.astype(np.float32)
        self._columns["variance"][self._images] = np.maximum(less, MIN_VARIANCE * variance)
        self._columns["mask"][self._images] &= np.uint8(~MaskBit.INJECTED & 0xFF)

    def snr(self, flux: np.ndarray) -> np.ndarray:
        """Return the S/N of the matched filter that knows where they are.

        Parameters
        ----------
        flux
            Fluxes, ``(m, n_times)``, nJy.

        Returns
        -------
        snr : `numpy.ndarray`
            S/N, ``(m,)``, of the noise of ``variance * noise_scale`` as it is.
            Images off which the source's centre is do not count.
        """
        weight = self._weight()
        flux_here = np.where(self._is_on, flux[self._source, self._time], 0.0)
        return np.sqrt(self._sum(flux_here**2 * np.sum(self._profile * weight, axis=(1, 2))))

    def measure(self, flux: np.ndarray) -> np.ndarray:
        """Return the matched filter's S/N of what is in the images.

        Parameters
        ----------
        flux
            Fluxes that are expected, ``(m, n_times)``, nJy.

        Returns
        -------
        snr : `numpy.ndarray`
            Psi over the root of phi, ``(m,)``; NaN where no pixel counts.
        """
        weight = self._weight()
        flux_here = np.where(self._is_on, flux[self._source, self._time], 0.0)
        image = np.where(weight > 0, self._columns["image"][self._images], 0.0)
        psi = self._sum(flux_here * np.sum(weight * image, axis=(1, 2)))
        phi = self._sum(flux_here**2 * np.sum(self._profile * weight, axis=(1, 2)))
        return np.divide(psi, np.sqrt(phi), out=np.full(len(psi), np.nan), where=phi > 0)

    def _weight(self) -> np.ndarray:
        """Return PSF over variance; 0 in pixels that do not count."""
        noise_scale = self._columns["noise_scale"][self._images][:, np.newaxis, np.newaxis]
        variance = self._columns["variance"][self._images] * noise_scale
        usable = ((self._columns["mask"][self._images] & UNUSABLE) == 0) & (variance > 0)
        usable &= np.isfinite(self._columns["image"][self._images])
        return np.divide(self._profile, variance, out=np.zeros_like(self._profile), where=usable)

    def _sum(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self._source, weights=values, minlength=self._n_rows)
