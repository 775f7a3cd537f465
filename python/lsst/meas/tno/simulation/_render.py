# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drawing the images of a simulated survey."""

from __future__ import annotations

__all__ = ("RenderedPlanes", "Scene", "make_scene", "render_difference", "render_visit")

import dataclasses

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.stats import gaussian_sigma_to_fwhm

from lsst.images import DetectorFrame, SkyProjection

from ..photometry import ab_mag_to_njy
from ._camera import Camera, SimDetector, make_camera
from ._config import SimulateSurveyConfig
from ._galaxies import draw_galaxies
from ._objects import SimulatedObjects, magnitudes, make_objects, trail_times
from ._observations import Visit, plan_visits
from ._pixels import bad_columns, detect, draw_cosmic_rays, interpolate_rows, saturate
from ._psf import VisitPsf
from ._random import Stream, make_generator
from ._scene import Galaxies, Stars, band_magnitude, make_galaxies, make_stars

_WING_THRESHOLD = 0.1
"""Surface brightness down to which stars have wings, sigma of the sky."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """Everything that the images of a survey are drawn from."""

    config: SimulateSurveyConfig
    """Configuration of the survey."""

    camera: Camera
    """The camera."""

    visits: list[Visit]
    """Visits in order of time."""

    stars: Stars
    """The stars."""

    galaxies: Galaxies
    """The galaxies."""

    objects: SimulatedObjects
    """What moves."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RenderedPlanes:
    """The planes of one image."""

    image: np.ndarray
    """Flux per pixel, nJy, ``(height, width)``; NaN where there is none."""

    variance: np.ndarray
    """Variance of ``image``, nJy^2."""

    masks: dict[str, np.ndarray]
    """Pixels of each mask plane, by its name in lsst.images."""

    model: np.ndarray
    """What is seen of the static sky, without noise and flaws, nJy."""


def make_scene(config: SimulateSurveyConfig) -> Scene:
    """Draw everything but pixels.

    Parameters
    ----------
    config
        Configuration of the survey.
    """
    camera = make_camera(config)
    visits = plan_visits(config)
    return Scene(
        config=config,
        camera=camera,
        visits=visits,
        stars=make_stars(config, camera),
        galaxies=make_galaxies(config, camera),
        objects=make_objects(config, visits),
    )


def render_visit(
    scene: Scene,
    visit: Visit,
    detector: SimDetector,
    psf: VisitPsf,
    projection: SkyProjection[DetectorFrame],
) -> RenderedPlanes:
    """Draw the image of a detector in a visit.

    Parameters
    ----------
    scene
        What there is to see.
    visit, detector
        Which image.
    psf
        Its PSF.
    projection
        Its map of pixels to the sky.
    """
    rng = make_generator(scene.config, Stream.PIXELS, visit.index, detector.id)
    model = _draw_static_sky(scene, visit, psf, projection)
    image = model.copy()
    _draw_objects(image, scene, visit, psf, projection)
    full_well = max(scene.camera.saturation - visit.sky, 0.0) / visit.electrons_per_njy
    saturated = saturate(image, full_well)
    variance = visit.sky_variance + np.maximum(image, 0.0) / visit.electrons_per_njy
    image += np.sqrt(variance) * rng.standard_normal(image.shape, dtype=np.float32)
    masks = _spoil(image, scene.config, visit, detector, rng)
    masks["SATURATED"] = saturated
    masks["DETECTED"], _ = detect(image, visit.sky_variance, _psf_sigma(visit, psf))
    _cut_edge(image, variance, masks, scene.config)
    return RenderedPlanes(
        image=image.astype(np.float32), variance=variance.astype(np.float32), masks=masks, model=model
    )


def render_difference(
    scene: Scene, visit: Visit, detector: SimDetector, psf: VisitPsf, science: RenderedPlanes
) -> RenderedPlanes:
    """Subtract an imperfectly matched template from an image.

    Parameters
    ----------
    scene
        What there is to see.
    visit, detector
        Which image.
    psf
        Its PSF.
    science
        The image to subtract from.

    Notes
    -----
    The template is the static sky, shifted and blurred a little, with white
    noise of its own that is drawn anew for every image.
    """
    config = scene.config
    rng = make_generator(config, Stream.DIFFERENCES, visit.index, detector.id)
    sigma = _psf_sigma(visit, psf)
    template = _mismatch(science.model, config, sigma, rng)
    template_variance = np.maximum(template, 0.0) / visit.electrons_per_njy
    template_variance = (visit.sky_variance + template_variance) / config.template_visits
    full_well = max(scene.camera.saturation - visit.sky, 0.0) / visit.electrons_per_njy
    template_saturated = saturate(template, full_well)
    template += np.sqrt(template_variance) * rng.standard_normal(template.shape, dtype=np.float32)
    image = science.image - template
    variance = science.variance + template_variance
    masks = {name: mask for name, mask in science.masks.items() if name != "DETECTED"}
    masks["SAT_TEMPLATE"] = template_saturated
    filled = np.where(np.isfinite(image), image, 0.0)
    noise = visit.sky_variance * (1.0 + 1.0 / config.template_visits)
    masks["DETECTED"], masks["DETECTED_NEGATIVE"] = detect(filled, noise, sigma)
    return RenderedPlanes(
        image=image.astype(np.float32), variance=variance.astype(np.float32), masks=masks, model=template
    )


def _draw_static_sky(
    scene: Scene, visit: Visit, psf: VisitPsf, projection: SkyProjection[DetectorFrame]
) -> np.ndarray:
    model = np.zeros(psf.bbox.shape)
    stars, galaxies = scene.stars, scene.galaxies
    x, y = sky_to_pixel(projection, stars.ra, stars.dec)
    flux = ab_mag_to_njy(band_magnitude(stars.mag, stars.color, visit.band))
    near = _near(x, y, psf, psf.size)
    psf.draw_points(model, x[near], y[near], flux[near])
    threshold = _WING_THRESHOLD * np.sqrt(visit.sky_variance)
    for i in np.flatnonzero(_near(x, y, psf, 300)):
        psf.draw_wing(model, x[i], y[i], flux[i], threshold)
    x, y = sky_to_pixel(projection, galaxies.ra, galaxies.dec)
    flux = ab_mag_to_njy(band_magnitude(galaxies.mag, galaxies.color, visit.band))
    draw_galaxies(model, galaxies, x=x, y=y, flux=flux, psf=psf, rotation=visit.rotation)
    return model


def _draw_objects(
    image: np.ndarray,
    scene: Scene,
    visit: Visit,
    psf: VisitPsf,
    projection: SkyProjection[DetectorFrame],
) -> None:
    times = trail_times(scene.objects, visit, psf.pixel_scale)
    flux = ab_mag_to_njy(magnitudes(scene.objects, visit.band, visit.mjd)) / max(1, len(times))
    for mjd in times:
        x, y = sky_to_pixel(projection, *scene.objects.positions(mjd))
        near = _near(x, y, psf, psf.size)
        psf.draw_points(image, x[near], y[near], flux[near])


def sky_to_pixel(
    projection: SkyProjection[DetectorFrame], ra: np.ndarray, dec: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixel positions of sky positions.

    Parameters
    ----------
    projection
        Map of the pixels to the sky.
    ra, dec
        ICRS positions, deg.

    Returns
    -------
    x, y : `numpy.ndarray`
        Positions, pixels; empty if there are none.
    """
    if len(ra) == 0:
        return np.empty(0), np.empty(0)
    x, y = projection.sky_to_pixel(SkyCoord(ra, dec, unit="deg"))
    return np.asarray(x), np.asarray(y)


def _near(x: np.ndarray, y: np.ndarray, psf: VisitPsf, margin: float) -> np.ndarray:
    """Return which positions are on the detector, or near it."""
    height, width = psf.bbox.shape
    return (x > -margin) & (x < width + margin) & (y > -margin) & (y < height + margin)


def _psf_sigma(visit: Visit, psf: VisitPsf) -> float:
    return visit.seeing / gaussian_sigma_to_fwhm / psf.pixel_scale


def _spoil(
    image: np.ndarray,
    config: SimulateSurveyConfig,
    visit: Visit,
    detector: SimDetector,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Add cosmic rays and bad columns, mask them and interpolate over them."""
    masks = {name: np.zeros(image.shape, bool) for name in ("BAD", "COSMIC_RAY", "INTERPOLATED")}
    fixed = make_generator(config, Stream.DETECTORS, detector.id)
    columns = bad_columns(image.shape[1], config.n_bad_columns, config.edge_width, fixed)
    masks["BAD"][:, columns] = True
    rays = config.cosmic_ray_rate * image.size / 1e6 * visit.exposure_time / 30.0
    tracks = draw_cosmic_rays(image, int(rng.poisson(rays)), visit.electrons_per_njy, rng)
    for pixels in tracks:
        if rng.uniform() >= config.cosmic_ray_missed:
            masks["COSMIC_RAY"].reshape(-1)[pixels] = True
    masks["INTERPOLATED"] = masks["BAD"] | masks["COSMIC_RAY"]
    interpolate_rows(image, masks["INTERPOLATED"])
    return masks


def _cut_edge(
    image: np.ndarray, variance: np.ndarray, masks: dict[str, np.ndarray], config: SimulateSurveyConfig
) -> None:
    masks["NO_DATA"] = _frame_of(image.shape, config.edge_width)
    masks["DETECTION_EDGE"] = _frame_of(image.shape, config.edge_width + config.psf_size // 2)
    masks["DETECTED"] &= ~masks["DETECTION_EDGE"]
    image[masks["NO_DATA"]] = np.nan
    variance[masks["NO_DATA"]] = np.nan


def _frame_of(shape: tuple[int, int], width: int) -> np.ndarray:
    """Return the pixels nearer than ``width`` to the edge."""
    frame = np.ones(shape, bool)
    frame[width : shape[0] - width, width : shape[1] - width] = False
    return frame


def _mismatch(
    model: np.ndarray, config: SimulateSurveyConfig, sigma: float, rng: np.random.Generator
) -> np.ndarray:
    """Return the model shifted by a small random vector and blurred by a
    small random amount, both to first order.
    """
    dx, dy = rng.normal(0.0, config.residual_shift, 2)
    width = rng.normal(0.0, config.residual_width)
    gradient_y, gradient_x = np.gradient(model)
    mismatched = model - dx * gradient_x - dy * gradient_y
    # A Gaussian of variance s^2 that is widened by ds^2 gains ds^2/2 times
    # its Laplacian, and ds^2 = 2 s^2 times the relative change of width.
    inner = model[1:-1, 1:-1]
    laplacian = model[2:, 1:-1] + model[:-2, 1:-1] + model[1:-1, 2:] + model[1:-1, :-2] - 4.0 * inner
    mismatched[1:-1, 1:-1] += sigma**2 * width * laplacian
    return mismatched
