# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import numpy as np
import pytest
from astropy.time import Time
from builders import PLANES, VisitBuilder, read_real

from lsst.images import Mask, MaskSchema
from lsst.meas.tno import BANDS, MaskBit
from lsst.meas.tno.cutouts import cutout_origins, normalize_psf, read_cutouts, read_psfs
from lsst.meas.tno.geometry import apply_affine, gnomonic
from lsst.meas.tno.visits import VisitError, open_visit
from lsst.pipe.base import InMemoryDatasetHandle

REAL = ("visit_image-dp1.json", "visit_image-dp2.json", "difference_image-dp2.json")


def _handle(image):
    return InMemoryDatasetHandle(image, instrument="TestCam", visit=100, detector=0)


def _read(image, x, y, size=20, psf_size=25, bad_planes=("BAD",)):
    with open_visit(_handle(image)) as visit:
        return read_cutouts(
            visit,
            visit.read_metadata(),
            np.atleast_1d(x),
            np.atleast_1d(y),
            size=size,
            psf_size=psf_size,
            bad_planes=bad_planes,
        )


@pytest.fixture
def image():
    return VisitBuilder(np.random.default_rng(1), size=100).make()


def test_metadata_is_that_of_the_exposure(image):
    with open_visit(_handle(image)) as visit:
        metadata = visit.read_metadata()
    assert (metadata.visit, metadata.detector, BANDS[metadata.band]) == (100, 0, "r")
    assert metadata.exposure_time == 30.0
    # 1 microsecond; MJDs have 0.6 microseconds of rounding.
    assert metadata.mjd == pytest.approx(60980.1, abs=1e-6 / 86400)


def test_mid_exposure_is_tai_whatever_the_scale_of_obs_info(image):
    begin = Time(60980.1, format="mjd", scale="utc")
    with image.obs_info.edit_copy() as image._obs_info:
        image._obs_info.datetime_begin = begin
        image._obs_info.datetime_end = Time(60980.2, format="mjd", scale="utc")
    with open_visit(_handle(image)) as visit:
        # TAI is 37 s ahead of UTC since 2017.
        assert visit.read_metadata().mjd == pytest.approx(60980.15 + 37 / 86400, abs=1e-10)


@pytest.mark.parametrize("name", REAL)
def test_real_wcs_to_pixel_and_back(name):
    image = read_real(name)
    with open_visit(_handle(image)) as visit:
        metadata = visit.read_metadata()
    x, y = np.random.default_rng(2).uniform(0, 4000, (2, 200))
    ra, dec = metadata.pixel_map.pixel_to_sky(x, y)
    expected = image.sky_projection.pixel_to_sky(x=x, y=y)
    np.testing.assert_array_equal(ra, expected.ra.deg)
    np.testing.assert_allclose(metadata.sky_to_pixel(ra, dec), (x, y), atol=1e-3)


@pytest.mark.parametrize("name", REAL)
def test_affine_equals_the_real_wcs_over_64_pixels(name):
    image = read_real(name)
    with open_visit(_handle(image)) as visit:
        metadata = visit.read_metadata()
    x0, y0 = np.random.default_rng(3).integers(0, 3900, (2, 50))
    ra, dec = metadata.pixel_map.pixel_to_sky(x0 + 31.7, y0 + 31.2)
    affine = metadata.pixel_to_sky(x0, y0, 64, ra, dec)
    grid_y, grid_x = np.mgrid[0:64:9, 0:64:9]
    full = metadata.pixel_map.pixel_to_sky(x0[:, None, None] + grid_x, y0[:, None, None] + grid_y)
    xi, eta = gnomonic(*full, ra[:, None, None], dec[:, None, None])
    fitted_xi, fitted_eta = apply_affine(affine[:, None, None], grid_x, grid_y)
    assert np.hypot(xi - fitted_xi, eta - fitted_eta).max() < 0.01 * 0.2


@pytest.mark.parametrize(
    ("name", "observed"), [(REAL[0], "2024-11-09"), (REAL[1], "2025-05-24"), (REAL[2], "2025-05-21")]
)
def test_real_images_are_read_as_they_say(name, observed):
    image = read_real(name)
    with open_visit(_handle(image)) as visit:
        metadata = visit.read_metadata()
    assert Time(metadata.mjd, format="mjd", scale="tai").utc.isot.startswith(observed)
    info = image.obs_info
    assert (metadata.mjd - info.datetime_begin.tai.mjd) * 86400 == pytest.approx(
        (info.datetime_end.tai.mjd - metadata.mjd) * 86400, abs=1e-5
    )
    assert metadata.exposure_time == pytest.approx(30.0, abs=0.01)
    cutouts = _read(image, 7.5, 7.5, size=16)
    assert cutouts.psf[0].sum() == pytest.approx(1.0, abs=1e-6)
    assert cutouts.psf[0].argmax() == 12 * 25 + 12
    np.testing.assert_array_equal(cutouts.image[0], image.image.array)
    np.testing.assert_array_equal(cutouts.variance[0], image.variance.array)
    assert str(image.unit) == "nJy"


def test_the_centre_of_a_cutout_is_within_half_a_pixel():
    position = np.random.default_rng(4).uniform(-20, 200, 1000)
    for size in (15, 50):
        centre = cutout_origins(position, size) + (size - 1) / 2
        assert np.abs(centre - position).max() <= 0.5


def test_cutouts_are_the_pixels_of_the_image(image):
    cutouts = _read(image, [30.2, 70.0], [40.9, 20.0])
    np.testing.assert_array_equal(cutouts.image[0], image.image.array[31:51, 21:41])
    np.testing.assert_array_equal(cutouts.variance[1], image.variance.array[11:31, 61:81])
    assert not np.any(cutouts.mask)


def test_an_origin_other_than_zero_is_minded():
    builder = VisitBuilder(np.random.default_rng(1), size=100, origin=(1000, -300))
    image = builder.make()
    with open_visit(_handle(image)) as visit:
        metadata = visit.read_metadata()
    ra, dec = builder.wcs(0).wcs_pix2world(30.2, 40.9, 0)
    x, y = metadata.sky_to_pixel(np.atleast_1d(ra), np.atleast_1d(dec))
    assert (x[0], y[0]) == pytest.approx((1030.2, -259.1), abs=1e-6)
    np.testing.assert_array_equal(_read(image, x, y).image[0], image.image.array[31:51, 21:41])


def test_what_is_off_the_image_is_no_data(image):
    cutouts = _read(image, 2.0, 99.0)
    mask = cutouts.mask[0]
    assert np.all(mask[:, :7] == MaskBit.NO_DATA)
    assert np.all(mask[10:] == MaskBit.NO_DATA)
    assert not np.any(mask[:10, 7:])
    np.testing.assert_array_equal(np.isnan(cutouts.image[0]), mask != 0)
    np.testing.assert_array_equal(np.isnan(cutouts.variance[0]), mask != 0)


def test_mask_planes_become_our_bits(image):
    for plane, row in (
        ("BAD", 40),
        ("SATURATED", 41),
        ("DETECTED", 42),
        ("NO_DATA", 43),
        ("INTERPOLATED", 44),
    ):
        where = np.zeros((100, 100), dtype=bool)
        where[row] = True
        image.mask.set(plane, where)
    image.image.array[45] = np.nan
    image.variance.array[46] = 0.0
    image.variance.array[47] = np.inf
    cutouts = _read(image, 50.0, 43.0)
    rows = cutouts.mask[0, 6:15, 10]
    no_data = MaskBit.NO_DATA
    assert rows.tolist() == [
        MaskBit.BAD,
        MaskBit.SATURATED,
        MaskBit.DETECTED,
        no_data,
        0,
        no_data,
        no_data,
        no_data,
        0,
    ]
    with_interpolated = _read(image, 50.0, 43.0, bad_planes=("BAD", "INTERPOLATED", "UNHEARD_OF"))
    assert with_interpolated.mask[0, 10, 10] == MaskBit.BAD


def test_psf_is_cut_and_padded_about_its_centre():
    kernel = np.zeros((21, 21))
    kernel[10, 10], kernel[0, 0] = 1.0, 0.01
    small, large = normalize_psf(kernel, 5), normalize_psf(kernel, 31)
    assert small[2, 2] == 1.0
    assert (large[15, 15], large[5, 5]) == pytest.approx((1 / 1.01, 0.01 / 1.01))
    with pytest.raises(ValueError, match="raise psf_size"):
        normalize_psf(np.ones((21, 21)), 5)


def test_images_in_electrons_are_calibrated(image):
    from astropy import units as u

    from lsst.images import VisitImage
    from lsst.images.fields import ChebyshevField

    scaling = ChebyshevField(image.bbox, np.array([[2.0]]), unit=u.nJy / u.electron)
    electrons = VisitImage(
        type(image.image)(image.image.array.copy(), bbox=image.bbox, unit=u.electron),
        mask=Mask(schema=MaskSchema(PLANES), bbox=image.bbox),
        variance=type(image.image)(image.variance.array.copy(), bbox=image.bbox, unit=u.electron**2),
        sky_projection=image.sky_projection,
        obs_info=image.obs_info,
        psf=image.psf,
        detector=image.detector,
        band="r",
        photometric_scaling=scaling,
    )
    cutouts, expected = _read(electrons, 50.0, 50.0), _read(image, 50.0, 50.0)
    np.testing.assert_allclose(cutouts.image, 2 * expected.image, rtol=1e-6)
    np.testing.assert_allclose(cutouts.variance, 4 * expected.variance, rtol=1e-6)


def test_errors_name_the_visit(image):
    image._psf = None
    with pytest.raises(VisitError, match=r"100.*no PSF"):
        _read(image, 50.0, 50.0)


@pytest.mark.parametrize("band", ["", "gr", "white"])
def test_other_bands_are_named(image, band):
    image._band = band
    with open_visit(_handle(image)) as visit, pytest.raises(VisitError, match=rf"100.*band '{band}'"):
        visit.read_metadata()


def test_positions_far_away_are_not_on_the_image():
    image = read_real(REAL[0])
    with open_visit(_handle(image)) as visit:
        metadata = visit.read_metadata()
    ra, dec = metadata.pixel_map.pixel_to_sky(np.array([2000.0]), np.array([2000.0]))
    offsets = np.linspace(-60, 60, 1001)
    x, y = metadata.sky_to_pixel(ra + offsets, np.full(1001, dec[0]))
    near = np.abs(offsets) < 0.2
    assert np.all(np.isnan(x[~near]) | (np.abs(x[~near] - 2000) > 2000) | (np.abs(y[~near] - 2000) > 2000))


@pytest.mark.parametrize("name", REAL)
def test_interpolated_psfs_equal_the_real_model(name):
    image = read_real(name)
    x, y = np.random.default_rng(5).uniform(0, 4000, (2, 400))
    bbox = image.detector.bbox
    with open_visit(_handle(image)) as visit:
        many = read_psfs(visit, bbox, x, y, 25)
        few = read_psfs(visit, bbox, x[:2], y[:2], 25)
        direct = np.array([normalize_psf(visit.psf_kernel(*at), 25) for at in zip(x, y, strict=True)])
    np.testing.assert_array_equal(few, many[:2])
    # The pixels' root mean square difference, against the PSF's own.
    error = np.sqrt(np.sum((many - direct) ** 2, axis=(1, 2)) / np.sum(direct**2, axis=(1, 2)))
    assert error.max() < 2e-3
    np.testing.assert_allclose(many.sum(axis=(1, 2)), 1.0, atol=1e-12)
