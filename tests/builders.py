# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Visit images and image sequences for the tests."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astro_metadata_translator import ObservationInfo
from astropy.time import Time, TimeDelta
from astropy.wcs import WCS

from lsst.daf.butler import Butler, DatasetType, Timespan
from lsst.images import (
    Box,
    DetectorFrame,
    Image,
    Mask,
    MaskSchema,
    SkyProjection,
    VisitImage,
    get_legacy_visit_image_mask_planes,
)
from lsst.images.cameras import Detector
from lsst.images.psfs import GaussianPointSpreadFunction, PointSpreadFunction
from lsst.images.serialization import read_archive
from lsst.meas.tno import ImageSequences
from lsst.meas.tno.geometry import north_up_affine
from lsst.meas.tno.simulation._camera import make_camera
from lsst.meas.tno.simulation._config import SimulateSurveyConfig
from lsst.meas.tno.simulation._observations import plan_visits
from lsst.pipe.base import InMemoryDatasetHandle
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
"""Real data, for those who have them."""

INSTRUMENT = "TestCam"
CENTRE = (150.1, 2.2)
"""ICRS position that the test images look at, deg."""

PLANES = tuple(get_legacy_visit_image_mask_planes().values())


def real_file(name: str) -> Path:
    """Return the path of a real image, or skip the test."""
    path = SHARED_DATA / "images" / name
    if not path.exists():
        pytest.skip(f"{path} does not exist")
    return path


def read_real(name: str) -> VisitImage:
    """Read a real Rubin image of 16x16 pixels, or skip the test."""
    return read_archive(real_file(name))


@dataclasses.dataclass
class VisitBuilder:
    """Makes visit images of blank sky, all of one pointing."""

    rng: np.random.Generator
    size: int = 200
    pixel_scale: float = 0.2
    rotation: float = 30.0
    sigma: float = 20.0
    psf_sigma: float = 1.8
    mjd_begin: float = 60980.1
    cadence: float = 41.0
    origin: tuple[int, int] = (0, 0)

    def frame(self, visit: int, detector: int) -> DetectorFrame:
        """Return the frame of the detector's pixels."""
        return DetectorFrame(instrument=INSTRUMENT, visit=visit, detector=detector, bbox=self.bbox)

    @property
    def bbox(self) -> Box:
        """Box of the pixels."""
        x0, y0 = self.origin
        return Box.factory[y0 : y0 + self.size, x0 : x0 + self.size]

    def mjd(self, index: int) -> float:
        """Return the TAI MJD of mid-exposure of the visit of an index."""
        return self.mjd_begin + index * self.cadence / 86400

    def wcs(self, index: int) -> WCS:
        """Return the WCS of an array of the box's pixels."""
        angle = np.radians(self.rotation + 3.0 * index)
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crval = CENTRE
        wcs.wcs.crpix = [self.size / 2 + 0.5 + 0.3 * index, self.size / 2 + 0.5 - 0.2 * index]
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        wcs.wcs.cd = rotation @ np.diag([-self.pixel_scale, self.pixel_scale]) / 3600
        wcs.wcs.radesys = "ICRS"
        return wcs

    def make(self, index: int = 0, *, detector: int = 0, band: str = "r") -> VisitImage:
        """Return the visit image of an index."""
        x0, y0 = self.origin
        projection = SkyProjection.from_fits_wcs(
            self.wcs(index), self.frame(100 + index, detector), pixel_bounds=self.bbox, x0=x0, y0=y0
        )
        psf = GaussianPointSpreadFunction(self.psf_sigma, bounds=self.bbox, stamp_size=25)
        return make_visit_image(
            self.rng, projection, psf, self.bbox, mjd=self.mjd(index), sigma=self.sigma, band=band
        )

    def handles(self, n_visits: int) -> list[InMemoryDatasetHandle]:
        """Return handles of visit images."""
        return [
            InMemoryDatasetHandle(self.make(index), instrument=INSTRUMENT, visit=100 + index, detector=0)
            for index in range(n_visits)
        ]


def make_visit_image(
    rng: np.random.Generator,
    projection: SkyProjection,
    psf: PointSpreadFunction,
    bbox: Box,
    *,
    mjd: float,
    sigma: float,
    band: str = "r",
    exposure_time: float = 30.0,
    detector: Detector | None = None,
) -> VisitImage:
    """Return a visit image of blank sky with white noise of a sigma, nJy."""
    frame = projection.pixel_frame
    begin = Time(mjd, format="mjd", scale="tai") - TimeDelta(exposure_time / 2, format="sec")
    shape = (bbox.y.size, bbox.x.size)
    return VisitImage(
        Image(rng.normal(0, sigma, shape).astype(np.float32), bbox=bbox, unit=u.nJy),
        mask=Mask(schema=MaskSchema(PLANES), bbox=bbox),
        variance=Image(np.full(shape, sigma**2, dtype=np.float32), bbox=bbox, unit=u.nJy**2),
        sky_projection=projection,
        obs_info=ObservationInfo(
            instrument=frame.instrument,
            visit_id=frame.visit,
            physical_filter=band,
            datetime_begin=begin,
            datetime_end=begin + TimeDelta(exposure_time, format="sec"),
            exposure_time=exposure_time * u.s,
        ),
        psf=psf,
        detector=make_detector(frame.visit) if detector is None else detector,
        band=band,
    )


@functools.cache
def make_detector(visit: int) -> Detector:
    """Return a detector, which images cannot be written without."""
    config = SimulateSurveyConfig()
    camera = make_camera(config)
    return camera.make_detector(camera.detectors[0], dataclasses.replace(plan_visits(config)[0], id=visit))


def make_repository(root: Path, images: Sequence[VisitImage], patch: ConvexPolygon) -> Butler:
    """Make a repository of visit images, one visit each, in run ``images``,
    and a skymap ``test`` of one patch.
    """
    butler = Butler.from_config(Butler.makeRepo(str(root)), writeable=True, run="images")
    detector = {"instrument": INSTRUMENT, "id": 0, "full_name": "only"}
    band = images[0].band
    insert = butler.registry.insertDimensionData
    insert("instrument", {"name": INSTRUMENT, "class_name": "lsst.pipe.base.Instrument"})
    insert("detector", detector)
    insert("physical_filter", {"instrument": INSTRUMENT, "name": band, "band": band})
    insert("day_obs", {"instrument": INSTRUMENT, "id": 20251101})
    insert("skymap", {"name": "test", "hash": b"test", "tract_max": 1, "patch_nx_max": 1, "patch_ny_max": 1})
    insert("tract", {"skymap": "test", "id": 0, "region": patch})
    row = {"skymap": "test", "tract": 0, "id": 0, "cell_x": 0, "cell_y": 0, "region": patch}
    insert("patch", row)
    butler.registry.registerDatasetType(
        DatasetType(
            "visit_image", ("instrument", "visit", "detector"), "VisitImage", universe=butler.dimensions
        )
    )
    for index, image in enumerate(images):
        _insert_visit(butler, 100 + index, image)
        butler.put(image, "visit_image", instrument=INSTRUMENT, visit=100 + index, detector=0)
    return butler


def _insert_visit(butler: Butler, visit: int, image: VisitImage) -> None:
    corners_x = np.array([image.bbox.x.start, image.bbox.x.stop, image.bbox.x.stop, image.bbox.x.start])
    corners_y = np.array([image.bbox.y.start, image.bbox.y.start, image.bbox.y.stop, image.bbox.y.stop])
    sky = image.sky_projection.pixel_to_sky(x=corners_x - 0.5, y=corners_y - 0.5)
    vertices = [UnitVector3d(LonLat.fromDegrees(*at)) for at in zip(sky.ra.deg, sky.dec.deg, strict=True)]
    region = ConvexPolygon.convexHull(vertices)
    row = {
        "instrument": INSTRUMENT,
        "id": visit,
        "name": str(visit),
        "day_obs": 20251101,
        "physical_filter": image.band,
        "timespan": Timespan(image.obs_info.datetime_begin, image.obs_info.datetime_end),
        "region": region,
    }
    butler.registry.insertDimensionData("visit", row)
    region_row = {"instrument": INSTRUMENT, "visit": visit, "detector": 0, "region": region}
    butler.registry.insertDimensionData("visit_detector_region", region_row)


def region_about(ra: float, dec: float, size: float) -> ConvexPolygon:
    """Return a square region of a size in arcsec."""
    half_ra, half_dec = size / 7200 / np.cos(np.radians(dec)), size / 7200
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return ConvexPolygon(
        [UnitVector3d(LonLat.fromDegrees(ra + a * half_ra, dec + b * half_dec)) for a, b in corners]
    )


def white_sequences(
    rng: np.random.Generator, n: int, *, n_times: int = 50, size: int = 15, psf_sigma: float = 1.8
) -> ImageSequences:
    """Return sequences of white noise on the north-up grid, one a position."""
    sequences = ImageSequences.full(n, T=n_times, H=size, W=size, K=25)
    offset = np.arange(-12, 13)
    profile = np.exp(-0.5 * (offset / psf_sigma) ** 2)
    psf = np.outer(profile, profile)
    sequences.sequence_id[:] = np.arange(n)
    sequences.ra[:], sequences.dec[:] = CENTRE
    sequences.centre_ra[:], sequences.centre_dec[:] = CENTRE
    sequences.valid[:] = True
    sequences.visit[:], sequences.detector[:], sequences.band[:] = np.arange(n_times), 0, 2
    sequences.mjd[:] = 60980.1 + np.arange(n_times) * 41.0 / 86400
    sequences.exposure_time[:] = 30.0
    sequences.image[:] = rng.normal(0, 20.0, sequences.image.shape)
    sequences.variance[:] = 400.0
    sequences.noise_scale[:] = 1.0
    sequences.mask[:] = 0
    sequences.psf[:] = psf / psf.sum()
    sequences.pixel_to_sky[:] = north_up_affine(size, 0.2)
    return sequences
