# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Making the images of a simulated survey into files of lsst.images."""

from __future__ import annotations

__all__ = ("WrittenImages", "write_visit")

import dataclasses
from pathlib import Path

import astropy.units as u
import numpy as np
from astro_metadata_translator import ObservationInfo, makeObservationInfo
from astropy.coordinates import Angle, EarthLocation, SkyCoord
from astropy.table import Table
from astropy.time import Time

from lsst.images import (
    DetectorFrame,
    DifferenceImage,
    Image,
    Mask,
    MaskPlane,
    MaskSchema,
    ObservationSummaryStats,
    SkyProjection,
    VisitImage,
    fits,
    get_legacy_difference_image_mask_planes,
    get_legacy_visit_image_mask_planes,
)
from lsst.images.fields import ChebyshevField

from ..photometry import njy_to_ab_mag
from ._camera import INSTRUMENT, SimDetector
from ._objects import make_truth_rows
from ._observations import SECONDS, Visit
from ._psf import VisitPsf
from ._random import Stream, make_generator
from ._render import RenderedPlanes, Scene, render_difference, render_visit, sky_to_pixel

LOCATION = EarthLocation.from_geocentric(1818938.94, -5208470.95, -3195172.08, unit="m")
"""Rubin Observatory, as the headers of its images have it."""

_TILE = (256, 256)
"""Shape of the tiles that images are compressed in, pixels."""

_VARIANCE_STEP = 0.005
"""Step that the variance is rounded to, in units of that of the sky."""


@dataclasses.dataclass(frozen=True)
class WrittenImages:
    """The files of one detector in one visit."""

    visit: int
    """Number of the visit (`int`)."""

    detector: int
    """Number of the detector (`int`)."""

    paths: dict[str, Path]
    """Path of the file of each dataset type."""

    truth: Table
    """Truth of the moving objects on the detector."""


def write_visit(scene: Scene, visit: Visit, directory: Path) -> list[WrittenImages]:
    """Draw and write the images of a visit.

    Parameters
    ----------
    scene
        What there is to see.
    visit
        The visit.
    directory
        Where to write the files.
    """
    return [_write_detector(scene, visit, detector, directory) for detector in scene.camera.detectors]


def _write_detector(scene: Scene, visit: Visit, detector: SimDetector, directory: Path) -> WrittenImages:
    config = scene.config
    projection = scene.camera.projection(visit, detector)
    psf = VisitPsf.make(config, scene.camera, visit, detector)
    science = render_visit(scene, visit, detector, psf, projection)
    images = {
        config.visit_image_name: _make_image(VisitImage, scene, visit, detector, psf, projection, science)
    }
    if config.make_difference_images:
        difference = render_difference(scene, visit, detector, psf, science)
        images[config.difference_image_name] = _make_image(
            DifferenceImage, scene, visit, detector, psf, projection, difference
        )
    paths = {}
    for number, (name, image) in enumerate(images.items()):
        paths[name] = directory / f"{name}_{visit.id}_{detector.id}.fits"
        seed = make_generator(config, Stream.COMPRESSION, visit.index, detector.id, number)
        _write(image, paths[name], visit, config.quantization, int(seed.integers(1, 10_000)))
    truth = _truth(scene, visit, detector, projection)
    return WrittenImages(visit.id, detector.id, paths, truth)


def _write(image: VisitImage, path: Path, visit: Visit, quantization: float, seed: int) -> None:
    """Write an image, rounded as Rubin's own are, to steps that are a
    fraction of the noise.
    """
    rice = fits.FitsCompressionAlgorithm.RICE_1
    options = {
        "image": fits.FitsCompressionOptions(tile_shape=_TILE),
        "mask": fits.FitsCompressionOptions(algorithm=rice, tile_shape=_TILE),
        "variance": fits.FitsCompressionOptions(tile_shape=_TILE),
    }
    if quantization > 0:
        options["image"] = _lossy(quantization * np.sqrt(visit.sky_variance), "SUBTRACTIVE_DITHER_2")
        options["variance"] = _lossy(_VARIANCE_STEP * visit.sky_variance, "NO_DITHER")
    fits.write(image, path, compression_options=options, compression_seed=seed)


def _lossy(step: float, dither: str) -> fits.FitsCompressionOptions:
    return fits.FitsCompressionOptions(
        algorithm=fits.FitsCompressionAlgorithm.RICE_1,
        tile_shape=_TILE,
        # A negative level is a step in the image's own unit.
        quantization=fits.FitsQuantizationOptions(dither=fits.FitsDitherAlgorithm(dither), level=-step),
    )


def _make_image[T: VisitImage](
    cls: type[T],
    scene: Scene,
    visit: Visit,
    detector: SimDetector,
    psf: VisitPsf,
    projection: SkyProjection[DetectorFrame],
    planes: RenderedPlanes,
) -> T:
    if issubclass(cls, DifferenceImage):
        known = get_legacy_difference_image_mask_planes()
    else:
        known = get_legacy_visit_image_mask_planes()
    scaling = ChebyshevField(
        detector.bbox, np.array([[1.0 / visit.electrons_per_njy]]), unit=u.nJy / u.electron
    )
    return cls(
        Image(planes.image, bbox=detector.bbox, unit=u.nJy, sky_projection=projection),
        mask=_make_mask(planes.masks, list(known.values()), detector),
        variance=Image(planes.variance, bbox=detector.bbox, unit=u.nJy**2),
        obs_info=make_obs_info(scene, visit, detector),
        summary_stats=_summary_stats(visit, detector, psf, projection, planes),
        photometric_scaling=scaling,
        psf=psf.to_piff(),
        detector=scene.camera.make_detector(detector, visit),
        band=visit.band,
    )


def _make_mask(masks: dict[str, np.ndarray], planes: list[MaskPlane], detector: SimDetector) -> Mask:
    # Some ten times faster than `Mask.set` on each plane.
    schema = MaskSchema(planes)
    array = np.zeros((*detector.bbox.shape, schema.mask_size), schema.dtype)
    for name, pixels in masks.items():
        bit = schema.bit(name)
        array[:, :, bit.index] |= pixels.astype(schema.dtype) * schema.dtype.type(bit.mask)
    return Mask(array, schema=schema, bbox=detector.bbox)


def make_obs_info(scene: Scene, visit: Visit, detector: SimDetector) -> ObservationInfo:
    """Return what an image says of its observation.

    Parameters
    ----------
    scene
        The survey.
    visit, detector
        Which image.
    """
    begin = Time(visit.mjd_begin, format="mjd", scale="tai")
    exposure_time = visit.exposure_time * u.s
    return makeObservationInfo(
        telescope="Simulated Survey Telescope",
        instrument=INSTRUMENT,
        location=LOCATION,
        exposure_id=visit.id,
        visit_id=visit.id,
        physical_filter=visit.physical_filter,
        datetime_begin=begin,
        datetime_end=Time(visit.mjd_begin + visit.exposure_time / SECONDS, format="mjd", scale="tai"),
        exposure_time=exposure_time,
        exposure_time_requested=exposure_time,
        dark_time=exposure_time,
        boresight_airmass=visit.airmass,
        boresight_rotation_angle=Angle(visit.rotation * u.deg),
        boresight_rotation_coord="sky",
        detector_num=detector.id,
        detector_name=detector.name_in_raft,
        detector_unique_name=detector.full_name,
        detector_group=detector.raft,
        detector_exposure_id=visit.id * 1000 + detector.id,
        object="tno_sim",
        tracking_radec=SkyCoord(visit.ra, visit.dec, unit="deg"),
        science_program="tno_sim",
        observation_type="science",
        observation_id=f"{INSTRUMENT}_{visit.day_obs}_{visit.seq_num:05d}",
        observation_reason="science",
        exposure_group=str(visit.id),
        observing_day=visit.day_obs,
        observation_counter=visit.seq_num,
        has_simulated_content=True,
        can_see_sky=True,
    )


def _summary_stats(
    visit: Visit,
    detector: SimDetector,
    psf: VisitPsf,
    projection: SkyProjection[DetectorFrame],
    planes: RenderedPlanes,
) -> ObservationSummaryStats:
    """Return the statistics; as Rubin's, those of pixel values are in
    electrons.
    """
    x, y = detector.corners()
    corners = projection.pixel_to_sky(x=x, y=y)
    centre = projection.pixel_to_sky(x=detector.bbox.x.center, y=detector.bbox.y.center)
    kernel = psf.kernels(np.array([detector.bbox.x.center]), np.array([detector.bbox.y.center]))[0]
    area = float(1.0 / np.sum(kernel**2))
    ixx, iyy, ixy = _moments(kernel)
    noise = np.sqrt(visit.sky_variance)
    gain = visit.electrons_per_njy
    return ObservationSummaryStats(
        psfSigma=float((ixx * iyy - ixy**2) ** 0.25),
        psfArea=area,
        psfIxx=ixx,
        psfIyy=iyy,
        psfIxy=ixy,
        ra=float(centre.ra.deg),
        dec=float(centre.dec.deg),
        pixelScale=psf.pixel_scale,
        zenithDistance=visit.zenith_angle,
        expTime=visit.exposure_time,
        zeroPoint=float(njy_to_ab_mag(1.0 / gain)),
        skyBg=visit.sky,
        skyNoise=float(noise * gain),
        meanVar=float(np.nanmean(planes.variance)) * gain**2,
        raCorners=tuple(float(value) for value in corners.ra.deg),
        decCorners=tuple(float(value) for value in corners.dec.deg),
        magLim=float(njy_to_ab_mag(5.0 * noise * np.sqrt(area))),
    )


def _moments(kernel: np.ndarray) -> tuple[float, float, float]:
    """Return the second moments of an image, weighted by itself, times the
    factor of 2 that makes them those of a Gaussian.
    """
    offset = np.arange(kernel.shape[0]) - kernel.shape[0] // 2
    weight = kernel**2 / np.sum(kernel**2)
    ixx = 2.0 * np.sum(weight * offset**2)
    iyy = 2.0 * np.sum(weight * offset[:, np.newaxis] ** 2)
    ixy = 2.0 * np.sum(weight * offset * offset[:, np.newaxis])
    return float(ixx), float(iyy), float(ixy)


def _truth(
    scene: Scene, visit: Visit, detector: SimDetector, projection: SkyProjection[DetectorFrame]
) -> Table:
    x, y = sky_to_pixel(projection, *scene.objects.positions(visit.mjd))
    x1, y1 = detector.bbox.x.stop - 0.5, detector.bbox.y.stop - 0.5
    inside = (x >= -0.5) & (x < x1) & (y >= -0.5) & (y < y1)
    return make_truth_rows(scene.objects, visit, detector.id, x, y, inside)
