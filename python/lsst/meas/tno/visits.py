# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading of visit images: the one module that knows the image formats.

Pixel positions are those of the detector, in which the centre of the lower
left pixel of an image with the origin (0, 0) is (0, 0). Sky positions are ICRS
in degrees.
"""

from __future__ import annotations

__all__ = (
    "OpenVisit",
    "OpenVisits",
    "PixelToSky",
    "VisitError",
    "VisitHandle",
    "VisitMetadata",
    "open_visit",
)

import dataclasses
import errno
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any, Self

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord

from lsst.daf.butler import DataCoordinate, DeferredDatasetHandle
from lsst.images import Box, Image, Mask, MaskedImage, get_legacy_difference_image_mask_planes
from lsst.pipe.base import InMemoryDatasetHandle
from lsst.resources import ResourcePath

from ._archives import open_image, read_tile_shape
from ._pixels import Pixels
from ._read_plan import ReadCosts
from ._sequences import BANDS
from ._visit_metadata import PixelToSky, VisitMetadata

type VisitHandle = DeferredDatasetHandle | InMemoryDatasetHandle
type DataId = Mapping[str, Any] | DataCoordinate

type ImagePlanes = tuple[Image, Mask, Image]
"""Image, mask and variance."""

MAX_OPEN = 128
"""Number of files that stay open: half of what macOS lets a process have."""

UNREACHABLE = frozenset(
    {
        "BotoCoreError",
        "ClientError",
        "ConnectionError",
        "RequestException",
        "RetryError",
        "TimeoutError",
    }
)
"""What the errors of a store that is not reached, or refuses, are called, or
their base classes; Python, requests, aiohttp and botocore have their own. None
becomes a `VisitError`: the visit is not to be left out, but the quantum to
fail, so that it can be run again. Without aiohttp, lsst.resources has one
error for all that a server of HTTP answers but the file: it is taken as gone.
"""

UNREACHABLE_ERRNO = frozenset(
    {
        errno.EACCES,
        errno.EBUSY,
        errno.EDQUOT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EIO,
        errno.EMFILE,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.ENOTCONN,
        errno.EPERM,
        errno.ESTALE,
    }
)
"""Numbers of errors of an operating system that are no fault of a file. Those
of s3fs have them, too.
"""

GONE = frozenset({404, 410, 416})
"""Statuses of HTTP for a file that is not there, or not all of it."""


class VisitError(RuntimeError):
    """A visit image cannot be used; the message says which and why."""


class OpenVisit(ABC):
    """A visit image whose parts are read as they are asked for.

    Parameters
    ----------
    data_id
        Data ID of the image.
    """

    def __init__(self, data_id: DataId) -> None:
        self._data_id = data_id

    @property
    def data_id(self) -> DataId:
        """Data ID of the image (`DataCoordinate` or mapping)."""
        return self._data_id

    @property
    def is_local(self) -> bool:
        """Whether this is a file that can stay open at no cost (`bool`)."""
        return False

    @property
    def read_costs(self) -> ReadCosts:
        """What it costs to read pixels (`ReadCosts`)."""
        return ReadCosts()

    def read_metadata(self) -> VisitMetadata:
        """Read what there is to know without the pixels.

        Raises
        ------
        VisitError
            Raised if the file is damaged or lacks a part.
        """
        with _naming(self._data_id):
            return self._read_metadata()

    def read_pixels(self, bbox: Box) -> Pixels:
        """Read the pixels of a box that lies inside the image.

        Parameters
        ----------
        bbox
            Box to read.

        Raises
        ------
        VisitError
            Raised if the file is damaged or lacks a part.
        """
        with _naming(self._data_id):
            return self._read_pixels(bbox)

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
    def _read_pixels(self, bbox: Box) -> Pixels: ...

    @abstractmethod
    def _psf_kernel(self, x: float, y: float) -> np.ndarray: ...


@contextmanager
def open_visit(handle: VisitHandle, *, metadata_only: bool = False) -> Iterator[OpenVisit]:
    """Open a visit image.

    Parameters
    ----------
    handle
        Handle of the visit image.
    metadata_only
        Whether no pixels will be read.

    Yields
    ------
    visit : `OpenVisit`
        Visit, which can be read until it is closed.

    Raises
    ------
    VisitError
        Raised if the file is damaged.
    """
    data_id = handle.dataId
    with ExitStack() as stack:
        visit: OpenVisit
        if isinstance(handle, InMemoryDatasetHandle):
            image = handle.get()
            component = functools.partial(getattr, image)
            visit = _ImagesVisit(data_id, component, lambda bbox: _planes(image[bbox]))
        elif handle.ref.datasetType.storageClass_name.startswith("Exposure"):
            visit = _AfwVisit(handle)
        else:
            with _naming(data_id):
                origin = handle.butler.getURI(handle.ref)
                reader, uri = stack.enter_context(open_image(origin, metadata_only=metadata_only))
            visit = _ArchivedVisit(data_id, reader, uri, is_local=origin.isLocal)
        yield visit


class OpenVisits:
    """Visit images of which first the metadata are read, then the pixels.

    Opening one takes a third of the time of reading a cutout, so those in
    local files stay open in between, up to a number of them; less than 0.1 MB
    each are in memory.

    Parameters
    ----------
    max_open
        Number of files that stay open.

    Notes
    -----
    Use it as a context manager, which closes all that is still open.
    """

    def __init__(self, max_open: int = MAX_OPEN) -> None:
        self._max_open = max_open
        self._open: dict[int, tuple[OpenVisit, ExitStack]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with ExitStack() as stack:
            for _, opened in self._open.values():
                stack.enter_context(opened)
            self._open.clear()

    def read_metadata(self, handle: VisitHandle) -> VisitMetadata:
        """Read what there is to know of a visit image without its pixels.

        Parameters
        ----------
        handle
            Handle of the visit image, which must be kept while this is in use.

        Raises
        ------
        VisitError
            Raised if the file is damaged or lacks a part.
        """
        with ExitStack() as stack:
            visit = stack.enter_context(open_visit(handle, metadata_only=True))
            metadata = visit.read_metadata()
            if visit.is_local and len(self._open) < self._max_open:
                self._open[id(handle)] = visit, stack.pop_all()
        return metadata

    @contextmanager
    def read(self, handle: VisitHandle) -> Iterator[OpenVisit]:
        """Give the pixels of a visit image, and close it.

        Parameters
        ----------
        handle
            Handle of the visit image.

        Yields
        ------
        visit : `OpenVisit`
            Visit, which can be read until it is closed.

        Raises
        ------
        VisitError
            Raised if the file is damaged.
        """
        with ExitStack() as stack:
            if id(handle) in self._open:
                visit, opened = self._open.pop(id(handle))
                stack.enter_context(opened)
            else:
                visit = stack.enter_context(open_visit(handle))
            yield visit

    def close(self, handle: VisitHandle) -> None:
        """Close a visit image that is not going to be read.

        Parameters
        ----------
        handle
            Handle of the visit image.
        """
        if id(handle) in self._open:
            self._open.pop(id(handle))[1].close()


@contextmanager
def _naming(data_id: DataId) -> Iterator[None]:
    """Turn what the readers raise into an error that names the image.

    Damaged files make them raise almost anything: errors of zlib, of astropy
    and of lsst.pex.exceptions are only `Exception`.
    """
    try:
        yield
    except (ImportError, MemoryError):
        # They are no fault of the file.
        raise
    except Exception as error:
        if _is_unreachable(error):
            error.add_note(f"While reading {data_id}.")
            raise
        raise VisitError(f"{data_id}: {type(error).__name__}: {error}") from error


def _is_unreachable(error: BaseException | None) -> bool:
    """Return whether a store that is not reached is behind an error; the
    butler and fsspec wrap what they get.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in UNREACHABLE_ERRNO:
            return True
        if any(base.__name__ in UNREACHABLE for base in type(error).__mro__):
            return _http_status(error) not in GONE
        error = error.__cause__ or error.__context__
    return False


def _http_status(error: BaseException) -> int | None:
    """Return the status that aiohttp, requests or botocore were answered."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        response = response.get("ResponseMetadata", {})
        return response.get("HTTPStatusCode")
    return getattr(error, "status", getattr(response, "status_code", None))


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
    planes
        Function that returns image, mask and variance of a box, calibrated or
        not.
    """

    def __init__(
        self,
        data_id: DataId,
        component: Callable[[str], Any],
        planes: Callable[[Box], ImagePlanes],
    ) -> None:
        super().__init__(data_id)
        self._component = component
        self._planes = planes

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
            band=_band_index(self._component("band")),
            mjd=float((begin.tai + (end.tai - begin.tai) / 2).mjd),
            exposure_time=float(obs_info.exposure_time.to_value(u.s)),
            bbox=self._component("bbox"),
            pixel_map=_ProjectionMap(projection),
        )

    def _read_pixels(self, bbox: Box) -> Pixels:
        image, mask, variance = self._planes(bbox)
        flux, flux_variance = image.array, variance.array
        scale = self._njy_per_unit(bbox, image.unit)
        if np.any(scale != 1):
            flux, flux_variance = flux * scale, flux_variance * scale**2
        places = ((name, mask.schema.bit(name)) for name in mask.schema.names)
        bits = {name: (place.index, int(place.mask)) for name, place in places}
        return Pixels(bbox, flux, flux_variance, mask.array, bits)

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


class _ArchivedVisit(_ImagesVisit):
    """A file of a `lsst.images.VisitImage`.

    Parameters
    ----------
    data_id
        Data ID of the image.
    reader
        Reader of the file.
    uri
        Where it is read from.
    is_local
        Whether that is where it is kept.
    """

    def __init__(self, data_id: DataId, reader: Any, uri: ResourcePath, *, is_local: bool) -> None:
        # One by one: a masked image would come with its WCS each time.
        planes = ("image", "mask", "variance")
        super().__init__(
            data_id,
            reader.get_component,
            lambda bbox: tuple(reader.get_component(name, bbox=bbox) for name in planes),
        )
        self._uri = uri
        self._is_local = is_local

    @property
    def is_local(self) -> bool:
        # Docstring inherited.
        return self._is_local

    @property
    def read_costs(self) -> ReadCosts:
        # Docstring inherited.
        with _naming(self._data_id):
            tile_shape = read_tile_shape(self._uri)
        return ReadCosts() if tile_shape is None else ReadCosts(tile_shape=tile_shape)


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
        try:
            from lsst.daf.base import DateTime
        except ModuleNotFoundError as error:
            raise ImportError(
                "images that are stored as ExposureF are read with lsst.afw, which is not here: "
                "run this in an LSST stack (setup lsst_distrib)"
            ) from error

        visit_info, bbox = self._component("visitInfo"), self._component("bbox")
        return VisitMetadata(
            visit=int(self._data_id["visit"]),
            detector=int(self._data_id["detector"]),
            band=_band_index(self._component("filter").bandLabel),
            mjd=visit_info.date.get(DateTime.MJD, DateTime.TAI),
            exposure_time=visit_info.exposureTime,
            bbox=Box.from_legacy(bbox),
            pixel_map=_SkyWcsMap(self._component("wcs")),
        )

    @property
    def read_costs(self) -> ReadCosts:
        # Docstring inherited. Each call reads all that an exposure has beside
        # its pixels, as long as a hundred rows take.
        return ReadCosts(call=20_000.0)

    def _read_pixels(self, bbox: Box) -> Pixels:
        from lsst.afw.image import PARENT

        exposure = self._handle.get(parameters={"bbox": bbox.to_legacy(), "origin": PARENT})
        pixels = exposure.maskedImage
        flux, variance = pixels.image.array, pixels.variance.array
        if exposure.metadata.get("BUNIT") != "nJy":
            scale = self._njy_per_count(pixels)
            flux, variance = flux * scale, variance * scale**2
        names = get_legacy_difference_image_mask_planes()
        bits = {
            names[name].name if name in names else name: (0, 1 << bit)
            for name, bit in pixels.mask.getMaskPlaneDict().items()
        }
        # As signed integers, they would have no number for the last bit.
        planes = pixels.mask.array.astype(np.uint32)[..., np.newaxis]
        return Pixels(bbox, flux, variance, planes, bits)

    def _njy_per_count(self, pixels: Any) -> np.ndarray:
        """Return what the pixels of a masked image have to be multiplied by.

        Older versions of lsst.afw would put the calibration's own error, which
        is common to all pixels and no noise, into a calibrated variance.
        """
        ones = pixels.clone()
        ones.image.array[:] = 1.0
        return self._component("photoCalib").calibrateImage(ones).image.array

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


def _band_index(band: str) -> int:
    if band not in tuple(BANDS):
        raise ValueError(f"its band {band!r} is none of {BANDS!r}")
    return BANDS.index(band)


def _planes(pixels: MaskedImage) -> ImagePlanes:
    return pixels.image, pixels.mask, pixels.variance
