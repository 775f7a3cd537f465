# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is to know of a visit image without its pixels."""

from __future__ import annotations

__all__ = ("PixelToSky", "VisitMetadata")

import dataclasses
from abc import ABC, abstractmethod

import numpy as np

from lsst.images import Box

from .geometry import gnomonic

MAX_WCS_CLOSURE = 0.1
"""Largest distance between a position and that of its pixel, arcsec."""


class PixelToSky(ABC):
    """Map between the pixels of a detector and the sky."""

    @abstractmethod
    def sky_to_pixel(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixel positions of sky positions.

        Parameters
        ----------
        ra, dec
            Sky positions, deg.
        """

    @abstractmethod
    def pixel_to_sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the sky positions, deg, of pixel positions.

        Parameters
        ----------
        x, y
            Pixel positions.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisitMetadata:
    """What there is to know of a visit image without reading its pixels."""

    visit: int
    """Visit ID (`int`)."""

    detector: int
    """Detector ID (`int`)."""

    band: int
    """Index of the band in `BANDS` (`int`)."""

    mjd: float
    """TAI MJD of mid-exposure (`float`)."""

    exposure_time: float
    """Exposure time, s (`float`)."""

    bbox: Box
    """Box of the pixels (`lsst.images.Box`)."""

    pixel_map: PixelToSky
    """Map between pixels and the sky (`PixelToSky`)."""

    def sky_to_pixel(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixel positions of sky positions.

        Parameters
        ----------
        ra, dec
            Sky positions, deg.

        Returns
        -------
        x, y : `numpy.ndarray`
            Pixel positions; NaN so far off the image that the WCS folds them
            back on it.
        """
        x, y = self.pixel_map.sky_to_pixel(ra, dec)
        back_ra, back_dec = self.pixel_map.pixel_to_sky(x, y)
        xi, eta = gnomonic(back_ra, back_dec, ra, dec)
        folded = ~(np.hypot(xi, eta) < MAX_WCS_CLOSURE)
        return np.where(folded, np.nan, x), np.where(folded, np.nan, y)

    def contains(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Tell which pixel positions are on the image.

        Parameters
        ----------
        x, y
            Pixel positions.
        """
        inside_x = (x >= self.bbox.x.start - 0.5) & (x < self.bbox.x.stop - 0.5)
        return inside_x & (y >= self.bbox.y.start - 0.5) & (y < self.bbox.y.stop - 0.5)

    def coverage(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        """Return the fraction of each cutout that is on the image.

        Parameters
        ----------
        x0, y0
            Origins of the cutouts, ``(n,)``, pixels.
        size
            Width and height of the cutouts, pixels.
        """
        width = np.minimum(x0 + size, self.bbox.x.stop) - np.maximum(x0, self.bbox.x.start)
        height = np.minimum(y0 + size, self.bbox.y.stop) - np.maximum(y0, self.bbox.y.start)
        return np.clip(width, 0, None) * np.clip(height, 0, None) / size**2

    def pixel_to_sky(
        self, x0: np.ndarray, y0: np.ndarray, size: int, centre_ra: np.ndarray, centre_dec: np.ndarray
    ) -> np.ndarray:
        """Fit the affine maps from cutout pixels to the tangent plane.

        Parameters
        ----------
        x0, y0
            Origins of the cutouts, ``(n,)``, pixels.
        size
            Width and height of the cutouts, pixels.
        centre_ra, centre_dec
            Tangent points, ``(n,)``, deg.

        Returns
        -------
        affine : `numpy.ndarray`
            Maps from cutout pixel (x, y, 1) to arcsec, ``(n, 2, 3)``, fitted
            by least squares to nine points that span the cutout.
        """
        grid_y, grid_x = (axis.ravel() for axis in np.mgrid[0 : size - 1 : 3j, 0 : size - 1 : 3j])
        ra, dec = self.pixel_map.pixel_to_sky(x0[:, None] + grid_x, y0[:, None] + grid_y)
        plane = np.stack(gnomonic(ra, dec, centre_ra[:, None], centre_dec[:, None]), axis=1)
        design = np.stack([grid_x, grid_y, np.ones_like(grid_x)], axis=1)
        return plane @ np.linalg.pinv(design).T
