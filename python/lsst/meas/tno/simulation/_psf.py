# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PSF of a simulated visit: a Piff model, and point sources drawn with it.

The images that `PiffWrapper` computes from the model are what is drawn, to
rounding: a grid of pixel values, interpolated to sub-pixel positions by a
Lanczos kernel, whose sum over the stamp is 1.
"""

from __future__ import annotations

__all__ = ("VisitPsf", "add_stamps")

import dataclasses
from typing import TYPE_CHECKING

import galsim
import numpy as np
import piff

from lsst.images import Box
from lsst.images.psfs import PiffWrapper

from ._camera import Camera, SimDetector

if TYPE_CHECKING:
    from ._config import SimulateSurveyConfig
    from ._observations import Visit

_INTERPOLANT = galsim.Lanczos(7)
_PAD = 4
"""Pixels by which the model's grid is wider than its images on each side, so
that interpolation does not reach past it where there is flux.
"""

_ORDER = 2
"""Order of the polynomial in x and y that each grid point follows."""

_OVERSAMPLING = 5
"""Sub-pixels along the side of a pixel, odd."""

_MAX_WING = 300
"""Largest distance from a star at which its light is drawn, pixels."""


@dataclasses.dataclass(frozen=True, eq=False)
class VisitPsf:
    """The PSF of one detector in one visit."""

    coefficients: np.ndarray
    """Polynomial coefficients of the grid points, ``(6, n, n)``; row 0 is
    the lowest.
    """

    size: int
    """Width and height of its images, pixels (`int`)."""

    pixel_scale: float
    """Size of a pixel, arcsec (`float`)."""

    profile: galsim.GSObject
    """Profile at the centre of the detector, in arcsec."""

    bbox: Box
    """Pixels of the detector."""

    @classmethod
    def make(
        cls, config: SimulateSurveyConfig, camera: Camera, visit: Visit, detector: SimDetector
    ) -> VisitPsf:
        """Make the PSF of a detector in a visit.

        Parameters
        ----------
        config
            Configuration of the survey.
        camera
            The camera.
        visit
            The visit, which has the seeing.
        detector
            The detector.
        """
        nodes = np.meshgrid(_nodes(detector.bbox.x.size), _nodes(detector.bbox.y.size))
        x, y = nodes[0].ravel(), nodes[1].ravel()
        size = config.psf_size + 2 * _PAD
        profiles = [
            _profile(config, camera, visit, float(u), float(v))
            for u, v in zip(x - detector.boresight_x, y - detector.boresight_y, strict=True)
        ]
        grids = np.stack([_draw_pixels(profile, size, config.pixel_scale) for profile in profiles])
        coefficients, *_ = np.linalg.lstsq(_basis(x, y), grids.reshape(len(x), -1), rcond=None)
        # The nodes are in order of y, then x: the middle one is the centre.
        centre = profiles[len(profiles) // 2]
        return cls(
            coefficients.reshape(-1, size, size),
            config.psf_size,
            config.pixel_scale,
            centre,
            detector.bbox,
        )

    def to_piff(self) -> PiffWrapper:
        """Return the PSF as images carry it."""
        size = self.coefficients.shape[-1]
        model = piff.PixelGrid(scale=self.pixel_scale, size=size, interp=_INTERPOLANT, centered=False)
        interpolation = piff.BasisPolynomial(order=_ORDER, keys=("x", "y"))
        # Piff holds surface brightness, one row a grid point.
        interpolation.q = self.coefficients.reshape(len(self.coefficients), -1).T / self.pixel_scale**2
        psf = piff.SimplePSF(model, interpolation)
        psf.wcs, psf.pointing = {0: galsim.PixelScale(self.pixel_scale)}, None
        psf.stars = []
        return PiffWrapper(psf, self.bbox, self.size)

    def grids(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the grids of pixel values, centred on a pixel.

        Parameters
        ----------
        x, y
            Positions, pixels.

        Returns
        -------
        grids : `numpy.ndarray`
            Values, ``(n_positions, n, n)``.
        """
        # einsum, because its order of summation does not depend on the
        # number of threads.
        return np.einsum("ik,kyx->iyx", _basis(x, y), self.coefficients)

    def kernels(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return images of the PSF centred on a pixel.

        Parameters
        ----------
        x, y
            Positions, pixels.

        Returns
        -------
        kernels : `numpy.ndarray`
            Images, ``(n_positions, size, size)``, of sum 1.
        """
        kernels = self.grids(x, y)[:, _PAD:-_PAD, _PAD:-_PAD]
        return kernels / kernels.sum(axis=(1, 2), keepdims=True)

    def stamps(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return images of point sources of flux 1.

        Parameters
        ----------
        x, y
            Positions, pixels.

        Returns
        -------
        stamps : `numpy.ndarray`
            Images, ``(n_positions, size, size)``, of sum 1.
        x0, y0 : `numpy.ndarray` of `int`
            Pixel of their lower left corners.
        """
        column, row = np.floor(x + 0.5).astype(int), np.floor(y + 0.5).astype(int)
        stamps = self._shift_rows(self.grids(x, y), y - row)
        stamps = self._shift_rows(stamps.transpose(0, 2, 1), x - column).transpose(0, 2, 1)
        stamps = stamps / stamps.sum(axis=(1, 2), keepdims=True)
        return stamps, column - self.size // 2, row - self.size // 2

    def draw_points(self, image: np.ndarray, x: np.ndarray, y: np.ndarray, flux: np.ndarray) -> None:
        """Add point sources to an image.

        Parameters
        ----------
        image
            Image to add to, in place.
        x, y
            Positions, pixels.
        flux
            Fluxes, those in the PSF's stamp.
        """
        stamps, x0, y0 = self.stamps(x, y)
        add_stamps(image, stamps * flux[:, np.newaxis, np.newaxis], x0, y0)

    def draw_wing(self, image: np.ndarray, x: float, y: float, flux: float, threshold: float) -> None:
        """Add to an image the light of a bright star outside its stamp.

        Parameters
        ----------
        image
            Image to add to, in place.
        x, y
            Position, pixels.
        flux
            Flux in the PSF's stamp.
        threshold
            Surface brightness from which on it is left out, per pixel.
        """
        half = self.size // 2
        wing = flux * self.pixel_scale**2
        radius = half
        while radius < _MAX_WING and wing * self.profile.xValue(radius * self.pixel_scale, 0.0) > threshold:
            radius += half
        if radius == half:
            return
        column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        drawn = self.profile.drawImage(
            nx=2 * radius + 1,
            ny=2 * radius + 1,
            scale=self.pixel_scale,
            offset=(x - column, y - row),
            method="no_pixel",
        ).array
        stamp = drawn[radius - half : radius + half + 1, radius - half : radius + half + 1]
        outside = drawn * (flux / stamp.sum())
        outside[radius - half : radius + half + 1, radius - half : radius + half + 1] = 0.0
        add_stamps(image, outside[np.newaxis], np.array([column - radius]), np.array([row - radius]))

    def _shift_rows(self, grids: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """Interpolate the rows of each grid to those of a stamp shifted by
        less than a pixel.
        """
        n = grids.shape[1]
        target = np.arange(_PAD, n - _PAD)
        distance = target[:, np.newaxis] - np.arange(n) - shift[:, np.newaxis, np.newaxis]
        weights = _INTERPOLANT.xval(distance.ravel()).reshape(distance.shape)
        return np.matmul(weights, grids)


def add_stamps(image: np.ndarray, stamps: np.ndarray, x0: np.ndarray, y0: np.ndarray) -> None:
    """Add small images to a large one, as far as they overlap.

    Parameters
    ----------
    image
        Image to add to, in place.
    stamps
        Images to add, ``(n_stamps, height, width)``.
    x0, y0
        Pixel of the image that each one's lower left pixel falls on.
    """
    height, width = stamps.shape[1:]
    for stamp, x, y in zip(stamps, x0, y0, strict=True):
        left, bottom = max(x, 0), max(y, 0)
        right, top = min(x + width, image.shape[1]), min(y + height, image.shape[0])
        if left < right and bottom < top:
            image[bottom:top, left:right] += stamp[bottom - y : top - y, left - x : right - x]


def _nodes(size: int) -> np.ndarray:
    """Return three positions along an axis of a detector."""
    return np.linspace(0.0, size - 1.0, 3)


def _basis(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the terms of the polynomial, in the order of Piff's
    BasisPolynomial: ``(n_positions, 6)``.
    """
    return np.stack(
        [x**i * y**j for i in range(_ORDER + 1) for j in range(_ORDER + 1 - i)],
        axis=-1,
    )


def _draw_pixels(profile: galsim.GSObject, size: int, pixel_scale: float) -> np.ndarray:
    """Return the profile's flux in pixels, ``(size, size)``.

    It is summed over sub-pixels, because GalSim's convolution with a pixel
    takes some of the wings to be periodic.
    """
    n, scale = size * _OVERSAMPLING, pixel_scale / _OVERSAMPLING
    fine = profile.drawImage(nx=n, ny=n, scale=scale, method="no_pixel", dtype=float).array
    return fine.reshape(size, _OVERSAMPLING, size, _OVERSAMPLING).sum(axis=(1, 3))


def _profile(
    config: SimulateSurveyConfig, camera: Camera, visit: Visit, u: float, v: float
) -> galsim.GSObject:
    """Return the profile at a point of the camera, u and v pixels from the
    boresight.
    """
    u, v = u / camera.radius, v / camera.radius
    fwhm = visit.seeing * (1.0 + config.psf_variation * (u**2 + v**2))
    g1 = visit.shear[0] + config.psf_variation * (u**2 - v**2)
    g2 = visit.shear[1] + config.psf_variation * 2 * u * v
    return galsim.Moffat(beta=config.psf_beta, fwhm=fwhm).shear(g1=g1, g2=g2)
