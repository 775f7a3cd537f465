# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of the simulated survey, against its own truth and GalSim's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import astropy.units as u
import galsim
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table

from lsst.daf.butler import Butler
from lsst.images import Box, DifferenceImage, VisitImage
from lsst.meas.tno import BANDS, SCHEMAS, validate_table
from lsst.meas.tno.geometry import gnomonic
from lsst.meas.tno.photometry import TNO_COLOURS, ab_mag_to_njy
from lsst.meas.tno.simulation import (
    SimulateSurveyConfig,
    SurveyExistsError,
    SurveySummary,
    TnoSimCam,
    simulate_survey,
)
from lsst.meas.tno.simulation._camera import make_camera
from lsst.meas.tno.simulation._galaxies import BULGE, DISK, draw_galaxies
from lsst.meas.tno.simulation._observations import plan_visits, zenith_angle_azimuth
from lsst.meas.tno.simulation._pixels import saturate
from lsst.meas.tno.simulation._psf import VisitPsf
from lsst.meas.tno.simulation._render import make_scene
from lsst.meas.tno.simulation._scene import Galaxies, band_magnitude
from lsst.meas.tno.simulation._sky import make_patches, tract_half_size, tract_polygon
from lsst.pipe.base import Instrument
from lsst.sphgeom import ConvexPolygon, HtmPixelization, LonLat


def make_config(**overrides: Any) -> SimulateSurveyConfig:
    """Configure a survey of a few small images."""
    config = SimulateSurveyConfig()
    config.n_visits = 4
    config.n_detectors_y = 1
    config.detector_width = config.detector_height = 200
    config.n_patches_x = config.n_patches_y = 1
    config.dither_radius = 2.0
    config.tract_margin = 1.0
    config.update(**overrides)
    return config


def make_blank_config(**overrides: Any) -> SimulateSurveyConfig:
    """Configure a survey that sees nothing unless told to."""
    nothing = {"star_density": 0.0, "galaxy_density": 0.0, "cosmic_ray_rate": 0.0, "n_bad_columns": 0}
    return make_config(**{**nothing, "n_objects": 0, **overrides})


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> tuple[SurveySummary, SimulateSurveyConfig]:
    config = make_config(
        n_detectors_x=2, detector_width=150, n_patches_x=2, n_objects=3, cosmic_ray_rate=300.0
    )
    return simulate_survey(str(tmp_path_factory.mktemp("survey") / "repo"), config), config


def data_id(summary: SurveySummary, visit: int = 0, detector: int = 0) -> dict[str, Any]:
    return {
        "instrument": summary.instrument,
        "visit": summary.visits[visit],
        "detector": summary.detectors[detector],
    }


def test_components(survey: tuple[SurveySummary, SimulateSurveyConfig]) -> None:
    summary, config = survey
    with Butler.from_config(summary.root, collections=summary.collection) as butler:
        for name, cls in (("visit_image", VisitImage), ("difference_image", DifferenceImage)):
            # Reading the PSF after other parts of the same file fails, because
            # Piff changes what lsst.images keeps of it.
            kernel = butler.get(f"{name}.psf", data_id(summary)).compute_kernel_image(x=40.0, y=150.0).array
            assert kernel.shape == (25, 25)
            assert kernel.sum() == pytest.approx(1.0)
            image = butler.get(name, data_id(summary))
            assert type(image) is cls
            assert image.image.unit == u.nJy
            assert image.variance.unit == u.nJy**2
            assert image.bbox == butler.get(f"{name}.bbox", data_id(summary)) == Box.factory[0:200, 0:150]
            assert image.band == "r"
            assert image.mask.get("NO_DATA").sum() == np.isnan(image.image.array).sum() > 0
            assert image.summary_stats.zeroPoint == pytest.approx(28.36 + 2.5 * np.log10(30), abs=0.2)
            box = Box.factory[20:70, 90:140]
            cutout = butler.get(name, data_id(summary), parameters={"bbox": box})
            np.testing.assert_array_equal(cutout.image.array, image.image.array[20:70, 90:140])
            np.testing.assert_array_equal(cutout.mask.array, image.mask.array[20:70, 90:140])
            projection = butler.get(f"{name}.sky_projection", data_id(summary))
            assert projection == image.sky_projection
        obs_info = butler.get("visit_image.obs_info", data_id(summary, visit=1))
    assert obs_info.datetime_begin.scale == "tai"
    assert obs_info.visit_id == summary.visits[1]
    assert obs_info.exposure_time == 30.0 * u.s
    begin = (obs_info.datetime_begin.mjd - config.mjd_begin) * 86400.0
    assert begin == pytest.approx(config.visit_interval, abs=1e-3)
    end = (obs_info.datetime_end - obs_info.datetime_begin).to_value(u.s)
    assert end == pytest.approx(config.exposure_time, abs=1e-6)


def test_queries_join_visits_and_patches(survey: tuple[SurveySummary, SimulateSurveyConfig]) -> None:
    summary, _ = survey
    with Butler.from_config(summary.root, collections=summary.collection) as butler:
        where = "skymap = 'tno_sim' AND tract = 0 AND patch = 0"
        refs = butler.query_datasets("visit_image", where=where)
        assert {ref.dataId["visit"] for ref in refs} == set(summary.visits)
        # Low patches are to the east, which is at low x without rotation.
        assert (summary.visits[0], 0) in {(ref.dataId["visit"], ref.dataId["detector"]) for ref in refs}
        day = [record.id for record in butler.query_dimension_records("day_obs")]
        visits = butler.query_dimension_records("visit", order_by="visit.timespan.begin")
        definitions = butler.query_dimension_records("visit_definition")
        regions = butler.query_dimension_records("visit_detector_region")
    assert day == [summary.visits[0] // 100_000]
    assert tuple(record.id for record in visits) == summary.visits
    assert {(record.exposure, record.visit) for record in definitions} == {(v, v) for v in summary.visits}
    assert len(regions) == len(summary.visits) * len(summary.detectors)


def test_instrument_is_registered(survey: tuple[SurveySummary, SimulateSurveyConfig]) -> None:
    summary, _ = survey
    with Butler.from_config(summary.root) as butler:
        assert type(Instrument.fromName("TnoSim", butler.registry)) is TnoSimCam


def test_stars_have_their_positions_and_fluxes(tmp_path: Path) -> None:
    config = make_blank_config(
        n_visits=2,
        star_density=20.0,
        star_mag_min=17.0,
        star_mag_max=17.5,
        saturation=1e7,
        detector_width=300,
        detector_height=300,
        seed=5,
    )
    summary = simulate_survey(str(tmp_path / "repo"), config)
    stars = make_scene(config).stars
    n_tested = 0
    with Butler.from_config(summary.root, collections=summary.collection) as butler:
        for visit in range(2):
            image = butler.get("visit_image", data_id(summary, visit=visit))
            x, y = image.sky_projection.sky_to_pixel(SkyCoord(stars.ra, stars.dec, unit="deg"))
            flux = ab_mag_to_njy(band_magnitude(stars.mag, stars.color, image.band))
            for i in isolated(x, y, distance=40.0, size=300):
                stamp = cut(image.image.array, x[i], y[i], 12)
                # The wings of neighbours 8 arcsec away are 1e-4 of a star,
                # and noise is 0.1 per cent here.
                assert stamp.sum() == pytest.approx(flux[i], rel=5e-3)
                dx, dy = centroid(stamp)
                assert np.floor(x[i] + 0.5) + dx == pytest.approx(x[i], abs=0.01)
                assert np.floor(y[i] + 0.5) + dy == pytest.approx(y[i], abs=0.01)
                n_tested += 1
    assert n_tested > 5


def isolated(x: np.ndarray, y: np.ndarray, *, distance: float, size: int) -> np.ndarray:
    """Return the indices of positions far from the edge and each other."""
    separation = np.hypot(x - x[:, np.newaxis], y - y[:, np.newaxis])
    np.fill_diagonal(separation, np.inf)
    inside = (np.minimum(x, y) > 20) & (np.maximum(x, y) < size - 20)
    return np.flatnonzero(inside & (separation.min(axis=1) > distance))


def cut(array: np.ndarray, x: float, y: float, half: int) -> np.ndarray:
    column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    return array[row - half : row + half + 1, column - half : column + half + 1].astype(float)


def centroid(stamp: np.ndarray, sigma: float = 2.0) -> tuple[float, float]:
    """Return the position of a star from the middle of its stamp, by moments
    in a Gaussian window that is moved until it is centred.
    """
    offset = np.arange(stamp.shape[0]) - stamp.shape[0] // 2
    dx = dy = 0.0
    for _ in range(30):
        window = np.exp(-((offset - dx) ** 2 + (offset[:, np.newaxis] - dy) ** 2) / (2 * sigma**2)) * stamp
        dx += 2 * np.sum(window * (offset - dx)) / window.sum()
        dy += 2 * np.sum(window * (offset[:, np.newaxis] - dy)) / window.sum()
    return dx, dy


def test_noise_of_blank_sky_is_the_variance(tmp_path: Path) -> None:
    summary = simulate_survey(str(tmp_path / "repo"), make_blank_config(n_visits=3, template_visits=4.0))
    with Butler.from_config(summary.root, collections=summary.collection) as butler:
        for name, ratio in (("visit_image", 1.0), ("difference_image", 1.25)):
            for visit in range(3):
                image = butler.get(name, data_id(summary, visit=visit))
                pull = image.image.array / np.sqrt(image.variance.array)
                # 196^2 pixels: the scatter of a standard deviation is 0.4 %.
                assert np.nanstd(pull) == pytest.approx(1.0, abs=0.015)
                assert np.nanmean(pull) == pytest.approx(0.0, abs=0.02)
                sky = (image.summary_stats.skyNoise * image.photometric_scaling(x=5.0, y=5.0)) ** 2
                assert np.nanmedian(image.variance.array) == pytest.approx(ratio * sky, rel=0.01)


@pytest.mark.slow
def test_pixels_do_not_depend_on_processes(tmp_path: Path) -> None:
    config = make_config(n_visits=2)
    one = simulate_survey(str(tmp_path / "one"), config)
    two = simulate_survey(str(tmp_path / "two"), config, n_processes=2)
    with Butler.from_config(one.root) as a, Butler.from_config(two.root) as b:
        for visit in range(2):
            for name in ("visit_image", "difference_image"):
                first = a.get(name, data_id(one, visit=visit), collections=one.collection)
                second = b.get(name, data_id(two, visit=visit), collections=two.collection)
                for plane in ("image", "mask", "variance"):
                    np.testing.assert_array_equal(
                        getattr(first, plane).array, getattr(second, plane).array, strict=True
                    )
        tables = [x.get("tno_simulated_objects", collections=one.collection) for x in (a, b)]
    assert all(np.array_equal(tables[0][column], tables[1][column]) for column in tables[0].colnames)


def test_other_seeds_give_other_pixels() -> None:
    first, second = (make_scene(make_config(seed=seed)) for seed in (1, 2))
    assert first.visits[0].seeing != second.visits[0].seeing
    assert first.galaxies.ra[0] != second.galaxies.ra[0]


def test_moving_objects(tmp_path: Path) -> None:
    """A bright object of a file is where it should be, in all images."""
    path = tmp_path / "objects.ecsv"
    config = make_blank_config(n_visits=3, visit_interval=1200.0, object_file=str(path))
    config.object_colours = dict.fromkeys(BANDS, 0.0)
    row = {"object_id": "fast", "ra": config.ra, "dec": config.dec, "mjd": config.mjd_begin}
    Table([{**row, "rate_ra_cosdec": 12.0, "rate_dec": -9.0, "mag": 19.0}]).write(path)
    summary = simulate_survey(str(tmp_path / "repo"), config)
    with Butler.from_config(summary.root, collections=summary.collection) as butler:
        truth = butler.get("tno_simulated_objects")
        validate_table(truth, SCHEMAS["tno_simulated_objects"])
        assert list(truth["visit"]) == list(summary.visits)
        np.testing.assert_allclose(truth["rate"], 15.0)
        np.testing.assert_allclose(truth["position_angle"], np.degrees(np.arctan2(12.0, -9.0)))
        start = SkyCoord(config.ra, config.dec, unit="deg")
        now = SkyCoord(truth["ra"], truth["dec"])
        hours = (truth["mjd"] - config.mjd_begin) * 24.0
        np.testing.assert_allclose(start.separation(now).arcsec, 15.0 * hours, atol=1e-4)
        for i in range(3):
            for name in ("visit_image", "difference_image"):
                image = butler.get(name, data_id(summary, visit=i))
                stamp = cut(image.image.array, truth["x"][i], truth["y"][i], 12)
                # Noise of a sum over the stamp is 0.5 per cent of the flux.
                assert stamp.sum() == pytest.approx(ab_mag_to_njy(19.0), rel=0.02)
                dx, dy = centroid(stamp)
                assert np.floor(truth["x"][i] + 0.5) + dx == pytest.approx(truth["x"][i], abs=0.02)
                assert np.floor(truth["y"][i] + 0.5) + dy == pytest.approx(truth["y"][i], abs=0.02)
                pixel = image.sky_projection.sky_to_pixel(now[i])
                np.testing.assert_allclose(pixel, (truth["x"][i], truth["y"][i]), atol=1e-6)


def test_moving_objects_have_the_colours_of_tnos(tmp_path: Path) -> None:
    path = tmp_path / "objects.ecsv"
    config = make_blank_config(n_visits=3, bands=["g", "r", "z"], object_file=str(path))
    row = {"object_id": "red", "ra": config.ra, "dec": config.dec, "mjd": config.mjd_begin}
    Table([{**row, "rate_ra_cosdec": 3.0, "rate_dec": 0.0, "mag": 18.0}]).write(path)
    summary = simulate_survey(str(tmp_path / "repo"), config)
    with Butler.from_config(summary.root, collections=summary.collection) as butler:
        truth = butler.get("tno_simulated_objects")
        np.testing.assert_allclose(truth["mag"], [18.67, 18.0, 17.55])
        for i in range(3):
            image = butler.get("visit_image", data_id(summary, visit=i))
            assert image.band == "grz"[i]
            stamp = cut(image.image.array, truth["x"][i], truth["y"][i], 12)
            # Noise of a sum over the stamp is 0.5 per cent of the flux.
            assert stamp.sum() == pytest.approx(ab_mag_to_njy(truth["mag"][i]), rel=0.02)


def test_no_objects(tmp_path: Path) -> None:
    config = make_blank_config(n_visits=1, bands=["i"], make_difference_images=False)
    summary = simulate_survey(str(tmp_path / "repo"), config)
    assert summary.n_images == 1
    with Butler.from_config(summary.root, collections=summary.collection) as butler:
        truth = butler.get("tno_simulated_objects")
    assert len(truth) == 0
    validate_table(truth, SCHEMAS["tno_simulated_objects"])


def test_flaws_are_masked(survey: tuple[SurveySummary, SimulateSurveyConfig]) -> None:
    summary, _ = survey
    with Butler.from_config(summary.root, collections=summary.collection) as butler:
        images = [butler.get("visit_image", data_id(summary, visit=i)) for i in range(4)]
    assert sum(image.mask.get("COSMIC_RAY").sum() for image in images) > 10
    assert all(image.mask.get("DETECTED").sum() > 100 for image in images)
    bad = [image.mask.get("BAD") for image in images]
    assert all(np.array_equal(bad[0], other) for other in bad)
    for image in images:
        flawed = image.mask.get("BAD") | image.mask.get("COSMIC_RAY")
        np.testing.assert_array_equal(flawed, image.mask.get("INTERPOLATED"))
        good = ~flawed & ~image.mask.get("DETECTED") & ~image.mask.get("NO_DATA")
        pull = image.image.array[good] / np.sqrt(image.variance.array[good])
        # Sources below the threshold are left in it.
        assert 0.97 < np.std(pull) < 1.3


def test_difference_residuals_grow_with_flux(tmp_path: Path) -> None:
    config = make_blank_config(
        n_visits=1,
        bands=["r"],
        star_density=20.0,
        star_mag_min=16.9,
        star_mag_max=17.0,
        saturation=1e7,
        residual_shift=0.1,
        seed=3,
    )
    summary = simulate_survey(str(tmp_path / "repo"), config)
    with Butler.from_config(summary.root, collections=summary.collection) as butler:
        science = butler.get("visit_image", data_id(summary))
        difference = butler.get("difference_image", data_id(summary))
    bright = np.nan_to_num(science.image.array) > 1e4
    residual = difference.image.array[bright] / science.image.array[bright]
    assert 0.01 < np.abs(residual).mean() < 0.3
    assert difference.mask.get("DETECTED")[bright].any()
    assert difference.mask.get("DETECTED_NEGATIVE")[bright].any()
    assert np.all(difference.variance.array[bright] > science.variance.array[bright])


def test_point_sources_are_those_of_the_piff_model() -> None:
    config = make_config(psf_ellipticity=0.05, psf_variation=0.1)
    camera = make_camera(config)
    visit, detector = plan_visits(config)[0], camera.detectors[0]
    psf = VisitPsf.make(config, camera, visit, detector)
    x, y = np.array([30.27, 101.51, 150.0]), np.array([80.61, 99.49, 20.45])
    image = np.zeros((200, 200))
    psf.draw_points(image, x, y, np.array([1.0, 2.0, 3.0]))
    expected = np.zeros_like(image)
    for i in range(3):
        stamp = psf.to_piff().compute_stellar_image(x=x[i], y=y[i])
        expected[stamp.bbox.y.start : stamp.bbox.y.stop, stamp.bbox.x.start : stamp.bbox.x.stop] += (
            i + 1
        ) * stamp.array
    np.testing.assert_allclose(image, expected, atol=1e-12)
    kernels = psf.kernels(np.array([0.0, 100.0]), np.array([0.0, 100.0]))
    assert np.abs(kernels[0] - kernels[1]).max() > 0.003


def test_wings_continue_the_psf() -> None:
    config = make_config(psf_beta=3.0, psf_variation=0.0)
    camera = make_camera(config)
    visit = plan_visits(config)[0]
    psf = VisitPsf.make(config, camera, visit, camera.detectors[0])
    image = np.zeros((200, 200))
    psf.draw_points(image, np.array([100.3]), np.array([99.8]), np.array([1e6]))
    psf.draw_wing(image, 100.3, 99.8, 1e6, threshold=0.1)
    accurate = galsim.GSParams(folding_threshold=1e-4, maxk_threshold=1e-4)
    profile = galsim.Moffat(beta=3.0, fwhm=visit.seeing, gsparams=accurate)
    profile = profile.shear(g1=visit.shear[0], g2=visit.shear[1])
    expected = profile.drawImage(nx=200, ny=200, scale=0.2, offset=(100.3 - 99.5, 99.8 - 99.5)).array
    expected *= image.sum() / expected.sum()
    # Far out a pixel's flux is taken from the profile at its centre.
    np.testing.assert_allclose(image[100, 70:88], expected[100, 70:88], rtol=0.02, atol=1e-5 * image.max())
    np.testing.assert_allclose(
        image[100, 113:130], expected[100, 113:130], rtol=0.02, atol=1e-5 * image.max()
    )


@pytest.mark.parametrize("is_bulge", [False, True])
def test_galaxies_are_those_of_galsim(is_bulge: bool) -> None:
    config = make_config(psf_variation=0.0, psf_ellipticity=0.0)
    camera = make_camera(config)
    visit = plan_visits(config)[0]
    psf = VisitPsf.make(config, camera, visit, camera.detectors[0])
    galaxy = Galaxies(
        *(np.array([value]) for value in (config.ra, config.dec, 20.0, 0.0)),
        half_light_radius=np.array([0.5]),
        axis_ratio=np.array([0.5]),
        position_angle=np.array([30.0]),
        is_bulge=np.array([is_bulge]),
    )
    image = np.zeros((200, 200))
    position = {"x": np.array([100.3]), "y": np.array([99.8]), "flux": np.array([1.0])}
    draw_galaxies(image, galaxy, **position, psf=psf, rotation=20.0)
    profile = galsim.Spergel(nu=BULGE if is_bulge else DISK, half_light_radius=0.5)
    # East is left: the major axis, 30 - 20 deg east of the y axis, is that
    # far counter-clockwise of it.
    profile = profile.shear(q=0.5, beta=(90.0 + 10.0) * galsim.degrees)
    seen = galsim.Convolve(profile, galsim.Moffat(beta=config.psf_beta, fwhm=visit.seeing))
    expected = seen.drawImage(nx=200, ny=200, scale=0.2, offset=(100.3 - 99.5, 99.8 - 99.5)).array
    # What differs is the flux outside of the PSF's stamp and the galaxy's.
    np.testing.assert_allclose(image, expected, atol=0.005 * expected.max())
    assert image.sum() == pytest.approx(1.0, rel=0.01)


def test_bleeding_conserves_charge() -> None:
    image = np.full((101, 5), 1.0)
    image[50, 2] = 400.0
    total = image.sum()
    saturated = saturate(image, 10.0)
    assert image.sum() == pytest.approx(total)
    assert image.max() == pytest.approx(10.0)
    assert saturated[30:70, 2].all()
    np.testing.assert_array_equal(image[:, 1], 1.0)


def test_every_visit_covers_the_tract() -> None:
    config = SimulateSurveyConfig()
    config.rotation, config.rotation_range = 30.0, 20.0
    config.n_nights = 3
    camera = make_camera(config)
    points = [LonLat(vertex) for patch in make_patches(config) for vertex in patch.region.getVertices()]
    sky = SkyCoord([[p.getLon().asDegrees(), p.getLat().asDegrees()] for p in points], unit="deg")
    for visit in plan_visits(config)[::40]:
        on_camera = np.zeros(len(sky), bool)
        for detector in camera.detectors:
            x, y = camera.projection(visit, detector).sky_to_pixel(sky)
            gap = config.detector_gap
            on_camera |= (
                (x >= -gap)
                & (x <= detector.bbox.x.size + gap)
                & (y >= -gap)
                & (y <= detector.bbox.y.size + gap)
            )
        assert on_camera.all()
    assert min(tract_half_size(config)) > 60.0


def test_patches_tile_the_tract() -> None:
    config = SimulateSurveyConfig()
    patches = make_patches(config)
    assert len(patches) == 4
    tract = tract_polygon(config)
    half_width, half_height = tract_half_size(config)
    for patch in patches:
        points = [LonLat(vertex) for vertex in patch.region.getVertices()]
        ra, dec = zip(*((p.getLon().asDegrees(), p.getLat().asDegrees()) for p in points), strict=True)
        xi, eta = gnomonic(ra, dec, config.ra, config.dec)
        # The western column has the higher number.
        assert np.all((xi < 5.001) if patch.cell_x == 1 else (xi > -5.001))
        assert np.all((eta > -5.001) if patch.cell_y == 1 else (eta < 5.001))
        assert np.abs(xi).max() == pytest.approx(half_width)
        assert np.abs(eta).max() == pytest.approx(half_height)
    area = sum(polygon_area(patch.region) for patch in patches)
    # Each patch reaches 5 arcsec into its neighbours.
    expected = (2 * half_width + 10.0) * (2 * half_height + 10.0)
    assert area == pytest.approx(expected, rel=1e-5)
    envelope = HtmPixelization(12).envelope(tract)
    assert sum(end - begin for begin, end in envelope) >= 30


def polygon_area(polygon: ConvexPolygon) -> float:
    """Return the area of a small polygon, arcsec^2."""
    points = np.array([list(vertex) for vertex in polygon.getVertices()])
    centre = points.mean(axis=0)
    sides = points - centre
    crossed = np.cross(sides, np.roll(sides, -1, axis=0))
    return float(np.linalg.norm(crossed.sum(axis=0)) / 2 * np.degrees(3600.0) ** 2)


def test_zenith_angle_agrees_with_astropy() -> None:
    from astropy.coordinates import AltAz, EarthLocation
    from astropy.time import Time
    from astropy.utils import iers

    mjd = np.array([60000.1, 60000.3])
    with iers.conf.set_temp("auto_download", False):
        site = EarthLocation.from_geodetic(-70.7494, -30.2446, 2650.0)
        frame = AltAz(obstime=Time(mjd, format="mjd", scale="tai"), location=site)
        expected = SkyCoord(150.0, 2.0, unit="deg").transform_to(frame)
    zenith_angle, azimuth = zenith_angle_azimuth(150.0, 2.0, mjd)
    # Precession since 2000 is 0.3 deg.
    np.testing.assert_allclose(zenith_angle, expected.zen.deg, atol=0.5)
    np.testing.assert_allclose(azimuth, expected.az.deg, atol=1.0)


def test_bands_come_in_blocks() -> None:
    config = make_config(n_visits=5, bands=["g", "i"], n_nights=2)
    visits = plan_visits(config)
    assert [visit.band for visit in visits] == ["g", "g", "g", "i", "i"] * 2
    gap = np.diff([visit.mjd for visit in visits]) * 86400.0
    np.testing.assert_allclose(gap[:4], [41.0, 41.0, 161.0, 41.0], atol=1e-3)
    assert len({visit.day_obs for visit in visits}) == 2
    assert len({visit.id for visit in visits}) == 10
    assert len({visit.rotation for visit in visits}) == 4
    assert all(config.seeing_min <= visit.seeing <= config.seeing_max for visit in visits)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"visit_interval": 10.0}, "visit_interval=.* exposure_time"),
        ({"dither_radius": 500.0}, "dither_radius"),
        ({"mjd_begin": 61090.6}, "mjd_begin"),
        ({"bands": ["r", "q"]}, "bands"),
        ({"bands": ["r", "i", "z", "y", "g"]}, "n_visits=4 .*bands"),
        ({"seeing_min": 1.0}, "seeing_min <= seeing"),
        ({"psf_size": 24}, "psf_size"),
        ({"zero_points": {"r": 28.0}}, "zero_points"),
        ({"object_colours": {"r": 0.0}}, "object_colours"),
        ({"object_colours": {**TNO_COLOURS, "r": 0.1}}, "object_colours.'r'.=0.1"),
        ({"object_colours": {**TNO_COLOURS, "u": float("nan")}}, "object_colours must be finite: .'u'"),
        ({"run": "x", "collection": "x"}, "run and collection"),
        ({"object_file": "/no/such/file.ecsv"}, "object_file"),
    ],
)
def test_impossible_configurations(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(**overrides).validate()


def test_existing_surveys_are_not_touched(
    survey: tuple[SurveySummary, SimulateSurveyConfig], tmp_path: Path
) -> None:
    summary, config = survey
    with pytest.raises(SurveyExistsError, match="TnoSim"):
        simulate_survey(summary.root, config)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        simulate_survey(str(tmp_path / "full"), config)
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["file"]
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_existing_repository(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    Butler.makeRepo(str(root))
    config = make_blank_config(n_visits=1, bands=["r"], make_difference_images=False)
    summary = simulate_survey(str(root), config)
    assert summary.n_images == 1
    assert [path.name for path in tmp_path.iterdir()] == ["repo"]
