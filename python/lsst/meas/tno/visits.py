# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading of visit images: the one module that knows the image formats.

Pixel positions are those of the detector, in which the centre of the lower
left pixel of an image with the origin (0, 0) is (0, 0). Sky positions are ICRS
in degrees.
"""

from __future__ import annotations

__all__ = ("Block", "OpenVisit", "PixelToSky", "VisitError", "VisitHandle", "VisitMetadata", "open_visit")

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord

from lsst.daf.butler import DataCoordinate, DeferredDatasetHandle
from lsst.images import (
    Box,
    MaskedImage,
    VisitImage,
    get_legacy_difference_image_mask_planes,
)
from lsst.images.serialization import open_archive
from lsst.pipe.base import InMemoryDatasetHandle

from ._sequences import BANDS, MaskBit
from .geometry import gnomonic

type VisitHandle = DeferredDatasetHandle | InMemoryDatasetHandle
type DataId = Mapping[str, Any] | DataCoordinate

READ_ERRORS = (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError)
"""What the readers of damaged files raise. Not `ImportError` and
`MemoryError`, which are no fault of the file.
"""

MAX_WCS_CLOSURE = 0.1
"""Largest distance between a position and that of its pixel, arcsec."""


class VisitError(RuntimeError):
    """A visit image cannot be used; the message says which and why."""


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


@dataclasses.dataclass
class Block:
    """Pixels of a box of a visit image."""

    bbox: Box
    """Box of the pixels (`lsst.images.Box`)."""

    image: np.ndarray
    """Flux per pixel, nJy, ``(height, width)`` (`numpy.ndarray`)."""

    variance: np.ndarray
    """Variance of image, nJy^2 (`numpy.ndarray`)."""

    mask: np.ndarray
    """Bits of `MaskBit`, uint8 (`numpy.ndarray`)."""


class OpenVisit(ABC):
    """A visit image whose parts are read as they are asked for.

    Parameters
    ----------
    data_id
        Data ID of the image.
    """

    def __init__(self, data_id: DataId) -> None:
        self._data_id = data_id

    def read_metadata(self) -> VisitMetadata:
        """Read what there is to know without the pixels.

        Raises
        ------
        VisitError
            Raised if the file is damaged or lacks a part.
        """
        with _naming(self._data_id):
            return self._read_metadata()

    def read_pixels(self, bbox: Box, bad_planes: Sequence[str]) -> Block:
        """Read the pixels of a box that lies inside the image.

        Parameters
        ----------
        bbox
            Box to read.
        bad_planes
            Mask planes, by their names in `lsst.images`, that make a pixel
            BAD.

        Raises
        ------
        VisitError
            Raised if the file is damaged or lacks a part.
        """
        with _naming(self._data_id):
            return self._read_pixels(bbox, bad_planes)

    def psf_kernel(self, x: float, y: float) -> np.ndarray:
        """Return the image of the PSF, centred on its centre pixel.

        Parameters
        ----------
        x, y
            Pixel position to evaluate it at.

        Raises
        ------
        VisitError
            Raised if there is no PSF, or none at the position.
        """
        with _naming(self._data_id):
            kernel = self._psf_kernel(x, y)
            if not np.all(np.isfinite(kernel)) or kernel.sum() <= 0:
                raise ValueError(f"its PSF at ({x:.1f}, {y:.1f}) is not finite and positive")
            return kernel

    @abstractmethod
    def _read_metadata(self) -> VisitMetadata: ...

    @abstractmethod
    def _read_pixels(self, bbox: Box, bad_planes: Sequence[str]) -> Block: ...

    @abstractmethod
    def _psf_kernel(self, x: float, y: float) -> np.ndarray: ...


@contextmanager
def open_visit(handle: VisitHandle) -> Iterator[OpenVisit]:
    """Open a visit image.

    Parameters
    ----------
    handle
        Handle of the visit image.

    Returns
    -------
    manager : `contextlib.AbstractContextManager` [`OpenVisit`]
        Context manager; the visit can be read inside of it.

    Raises
    ------
    VisitError
        Raised if the file is damaged.
    """
    data_id = handle.dataId
    with ExitStack() as stack:
        visit: OpenVisit
        if isinstance(handle, InMemoryDatasetHandle):
            visit_image = handle.get()
            visit = _ImagesVisit(data_id, lambda name: getattr(visit_image, name), visit_image.__getitem__)
        elif handle.ref.datasetType.storageClass_name.startswith("Exposure"):
            visit = _AfwVisit(handle)
        else:
            with _naming(data_id):
                uri = handle.butler.getURI(handle.ref)
                reader = stack.enter_context(open_archive(uri, cls=VisitImage, partial=True))
            visit = _ImagesVisit(
                data_id, reader.get_component, lambda bbox: reader.get_component("masked_image", bbox=bbox)
            )
        yield visit


@contextmanager
def _naming(data_id: DataId) -> Iterator[None]:
    """Turn what the readers raise into an error that names the image."""
    try:
        yield
    except READ_ERRORS as error:
        raise VisitError(f"{data_id}: {type(error).__name__}: {error}") from error


@dataclasses.dataclass(frozen=True)
class _ProjectionMap(PixelToSky):
    projection: Any

    def sky_to_pixel(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pixel = self.projection.sky_to_pixel(SkyCoord(ra, dec, unit=u.deg))
        return np.asarray(pixel.x), np.asarray(pixel.y)

    def pixel_to_sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sky = self.projection.pixel_to_sky(x=x, y=y)
        return sky.ra.to_value(u.deg), sky.dec.to_value(u.deg)


class _ImagesVisit(OpenVisit):
    """A `lsst.images.VisitImage`, or a file of one.

    Parameters
    ----------
    data_id
        Data ID of the image.
    component
        Function that returns a component by name.
    subimage
        Function that returns the pixels of a box, calibrated or not.
    """

    def __init__(
        self,
        data_id: DataId,
        component: Callable[[str], Any],
        subimage: Callable[[Box], MaskedImage],
    ) -> None:
        super().__init__(data_id)
        self._component = component
        self._subimage = subimage

    def _read_metadata(self) -> VisitMetadata:
        obs_info, projection = self._component("obs_info"), self._component("sky_projection")
        if projection is None:
            raise ValueError("it has no WCS")
        begin, end = obs_info.datetime_begin, obs_info.datetime_end
        if begin is None or end is None:
            raise ValueError("it does not say when the exposure began and ended")
        return VisitMetadata(
            visit=int(self._data_id["visit"]),
            detector=int(self._data_id["detector"]),
            band=BANDS.index(self._component("band")),
            mjd=float((begin.tai + (end.tai - begin.tai) / 2).mjd),
            exposure_time=float(obs_info.exposure_time.to_value(u.s)),
            bbox=self._component("bbox"),
            pixel_map=_ProjectionMap(projection),
        )

    def _read_pixels(self, bbox: Box, bad_planes: Sequence[str]) -> Block:
        pixels = self._subimage(bbox)
        planes = ((name, pixels.mask.get(name)) for name in pixels.mask.schema.names)
        scale = self._njy_per_unit(bbox, pixels.unit)
        image, variance = pixels.image.array * scale, pixels.variance.array * scale**2
        return _make_block(bbox, image, variance, planes, bad_planes)

    def _njy_per_unit(self, bbox: Box, unit: u.UnitBase) -> np.ndarray | np.float32:
        """Return what the pixels of a box have to be multiplied by."""
        if unit.is_equivalent(u.nJy):
            return np.float32(unit.to(u.nJy))
        scaling = self._component("photometric_scaling")
        if scaling is None:
            raise ValueError(f"its pixels are in {unit}, and it has no photometric scaling to nJy")
        return scaling.render(bbox, dtype=np.float32).array * np.float32((unit * scaling.unit).to(u.nJy))

    def _psf_kernel(self, x: float, y: float) -> np.ndarray:
        return self._psf.compute_kernel_image(x=float(x), y=float(y)).array

    @cached_property
    def _psf(self) -> Any:
        psf = self._component("psf")
        if psf is None:
            raise ValueError("it has no PSF")
        return psf


@dataclasses.dataclass(frozen=True)
class _SkyWcsMap(PixelToSky):
    wcs: Any

    def sky_to_pixel(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = self.wcs.skyToPixelArray(np.ravel(ra), np.ravel(dec), degrees=True)
        return x.reshape(np.shape(ra)), y.reshape(np.shape(ra))

    def pixel_to_sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        ra, dec = self.wcs.pixelToSkyArray(x.ravel(), y.ravel(), degrees=True)
        return ra.reshape(x.shape), dec.reshape(x.shape)


class _AfwVisit(OpenVisit):
    """An `lsst.afw.image.ExposureF` in a repository.

    Parameters
    ----------
    handle
        Handle of the exposure.
    """

    def __init__(self, handle: DeferredDatasetHandle) -> None:
        super().__init__(handle.dataId)
        self._handle = handle

    def _read_metadata(self) -> VisitMetadata:
        from lsst.daf.base import DateTime

        visit_info, bbox = self._component("visitInfo"), self._component("bbox")
        return VisitMetadata(
            visit=int(self._data_id["visit"]),
            detector=int(self._data_id["detector"]),
            band=BANDS.index(self._component("filter").bandLabel),
            mjd=visit_info.date.get(DateTime.MJD, DateTime.TAI),
            exposure_time=visit_info.exposureTime,
            bbox=Box.from_legacy(bbox),
            pixel_map=_SkyWcsMap(self._component("wcs")),
        )

    def _read_pixels(self, bbox: Box, bad_planes: Sequence[str]) -> Block:
        from lsst.afw.image import PARENT

        exposure = self._handle.get(parameters={"bbox": bbox.to_legacy(), "origin": PARENT})
        pixels = exposure.maskedImage
        if exposure.metadata.get("BUNIT") != "nJy":
            # The calibration's own error is common to all pixels: no noise.
            calibration = self._component("photoCalib")
            pixels = calibration.calibrateImage(pixels, includeScaleUncertainty=False)
        mask = pixels.mask.array
        legacy_planes = get_legacy_difference_image_mask_planes()
        planes = (
            (legacy_planes[name].name if name in legacy_planes else name, ((mask >> bit) & 1) != 0)
            for name, bit in pixels.mask.getMaskPlaneDict().items()
        )
        return _make_block(bbox, pixels.image.array, pixels.variance.array, planes, bad_planes)

    def _psf_kernel(self, x: float, y: float) -> np.ndarray:
        from lsst.geom import Point2D

        return self._psf.computeKernelImage(Point2D(x, y)).array

    @cached_property
    def _psf(self) -> Any:
        return self._component("psf")

    def _component(self, name: str) -> Any:
        component = self._handle.get(component=name)
        if component is None:
            raise ValueError(f"it has no {name}")
        return component


def _make_block(
    bbox: Box,
    image: np.ndarray,
    variance: np.ndarray,
    planes: Iterable[tuple[str, np.ndarray]],
    bad_planes: Sequence[str],
) -> Block:
    """Return a block with our mask bits; pixels without a value and a
    variance are NO_DATA.
    """
    bits = dict.fromkeys(bad_planes, MaskBit.BAD) | {
        "NO_DATA": MaskBit.NO_DATA,
        "SATURATED": MaskBit.SATURATED,
        "DETECTED": MaskBit.DETECTED,
    }
    mask = np.zeros(image.shape, dtype=np.uint8)
    mask[~(np.isfinite(image) & (variance > 0))] = MaskBit.NO_DATA
    for name, is_set in planes:
        if name in bits:
            mask[is_set] |= np.uint8(bits[name])
    return Block(bbox, image, variance, mask)
