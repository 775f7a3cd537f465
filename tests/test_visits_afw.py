# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading of exposures of lsst.afw: with stand-ins for what is used of it,
and with lsst.afw itself where it can be imported.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from collections import namedtuple
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time
from astropy.wcs import WCS
from builders import VisitBuilder, real_file, region_about

from lsst.images import Box
from lsst.meas.tno import BANDS, MaskBit
from lsst.meas.tno._pixels import make_mask
from lsst.meas.tno.cutouts import cutout_origins, read_cutouts
from lsst.meas.tno.geometry import apply_affine, gnomonic, invert_affine
from lsst.meas.tno.tasks import ExtractCutoutsConfig, ExtractCutoutsTask
from lsst.meas.tno.visits import VisitError, open_visit

REAL = ("exp0.fits", "exp1.fits", "exp2.fits", "extra_xy0.fits")
BAD_PLANES = ("BAD", "COSMIC_RAY")
PARENT = object()
Box2I = namedtuple("Box2I", "x y")
Point2D = namedtuple("Point2D", "x y")


def _interval(min, max):
    return SimpleNamespace(begin=min, end=max + 1)


@dataclasses.dataclass
class _DateTime:
    MJD, TAI, UTC = "mjd", "tai", "utc"
    time: Time

    def get(self, system, scale):
        return float(getattr(getattr(self.time, scale), system))


def _visit_info(tai, form, exposure_time):
    return SimpleNamespace(date=_DateTime(Time(tai, format=form, scale="tai")), exposureTime=exposure_time)


@dataclasses.dataclass
class _SkyWcs:
    """Takes and returns flat arrays, in radians unless told otherwise."""

    wcs: WCS

    def pixelToSkyArray(self, x, y, degrees=False):
        sky = self.wcs.wcs_pix2world(np.vstack((x, y)).T, 0).T
        return sky if degrees else np.radians(sky)

    def skyToPixelArray(self, ra, dec, degrees=False):
        sky = np.vstack((ra, dec)).T
        return self.wcs.wcs_world2pix(sky if degrees else np.degrees(sky), 0).T


def _gaussian_psf(sigma):
    profile = np.exp(-0.5 * (np.arange(-15, 16) / sigma) ** 2)
    kernel = SimpleNamespace(array=np.outer(profile, profile) / profile.sum() ** 2)
    return SimpleNamespace(computeKernelImage=lambda position: kernel)


def _masked_image(image, mask, variance, planes):
    return SimpleNamespace(
        clone=lambda: _masked_image(image.copy(), mask.copy(), variance.copy(), planes),
        image=SimpleNamespace(array=image),
        mask=SimpleNamespace(array=mask, getMaskPlaneDict=lambda: planes),
        variance=SimpleNamespace(array=variance),
    )


@dataclasses.dataclass
class _PhotoCalib:
    """Adds its own error, as older versions of lsst.afw do unless they are
    told not to; newer ones have no such option.
    """

    mean: float
    err: float

    def calibrateImage(self, maskedImage):
        image, mask = maskedImage.image.array, maskedImage.mask
        variance = self.mean**2 * maskedImage.variance.array + (self.err * image) ** 2
        return _masked_image(self.mean * image, mask.array, variance, mask.getMaskPlaneDict())


class _Handle:
    """Deferred handle of an exposure, whose WCS is that of its array."""

    ref = SimpleNamespace(datasetType=SimpleNamespace(storageClass_name="ExposureF"))

    def __init__(self, arrays, planes, wcs, origin, *, visit=100, bunit="electron", **components):
        self.arrays, self.planes, self.origin, self.bunit = arrays, planes, origin, bunit
        self.dataId = {"instrument": "TestCam", "visit": visit, "detector": 0}
        wcs.wcs.crpix = wcs.wcs.crpix + origin
        height, width = self.shape = arrays[0].shape
        x, y = _interval(origin[0], origin[0] + width - 1), _interval(origin[1], origin[1] + height - 1)
        self.components = components | {"bbox": Box2I(x, y), "wcs": _SkyWcs(wcs)}

    def get(self, *, component=None, parameters=None):
        if component is not None:
            return self.components[component]
        assert parameters["origin"] is PARENT
        rows, columns = (
            slice(axis.begin - first, axis.end - first)
            for axis, first in zip(parameters["bbox"][::-1], self.origin[::-1], strict=True)
        )
        for part, size in zip((rows, columns), self.shape, strict=True):
            assert 0 <= part.start < part.stop <= size
        pixels = _masked_image(*(array[rows, columns] for array in self.arrays), self.planes)
        return SimpleNamespace(maskedImage=pixels, metadata={"BUNIT": self.bunit})


@dataclasses.dataclass
class _ReaderHandle:
    """Deferred handle of a file, read as the formatter of a repository does,
    with lsst.afw.
    """

    path: str
    dataId: dict

    ref = SimpleNamespace(datasetType=SimpleNamespace(storageClass_name="ExposureF"))

    def get(self, *, component=None, parameters=None):
        from lsst.afw.image import ExposureFitsReader

        reader = ExposureFitsReader(self.path)
        if component is None:
            return reader.read(**parameters)
        name = "BBox" if component == "bbox" else component[0].upper() + component[1:]
        return getattr(reader, f"read{name}")()


@pytest.fixture
def stand_ins(monkeypatch):
    """Modules that are imported for exposures."""
    for name, contents in (
        ("lsst.afw.image", {"PARENT": PARENT}),
        ("lsst.daf.base", {"DateTime": _DateTime}),
        ("lsst.geom", {"Box2I": Box2I, "IntervalI": _interval, "Point2D": Point2D}),
    ):
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)


def _expected(name):
    """Return what lsst.afw says of an exposure that it wrote."""
    return json.loads(real_file("afw/expected.json").read_text())[name]


def _planes(name):
    """Return image, mask and variance of a file."""
    with fits.open(real_file(f"afw/{name}")) as hdus:
        return [hdus[part].data.copy() for part in ("IMAGE", "MASK", "VARIANCE")]


def _stand_in(name):
    """Return a handle with the contents of a file."""
    with fits.open(real_file(f"afw/{name}")) as hdus:
        primary, image, calibration = hdus[0].header, hdus["IMAGE"].header, hdus["PhotoCalib"].data[0]
        return _Handle(
            _planes(name),
            {key[3:]: bit for key, bit in hdus["MASK"].header["MP_*"].items()},
            WCS(image),
            (int(image["CRVAL1A"]), int(image["CRVAL2A"])),
            visit=primary["IDNUM"],
            bunit=image["BUNIT"],
            psf=_gaussian_psf(hdus["GaussianPsf"].data["sigma"][0]),
            photoCalib=_PhotoCalib(calibration["calibrationMean"], calibration["calibrationErr"]),
            filter=SimpleNamespace(bandLabel=hdus["FilterLabel"].data["band"][0]),
            visitInfo=_visit_info(primary["DATE-AVG"], "isot", primary["EXPTIME"]),
        )


@pytest.fixture(params=["stand-ins", "lsst.afw"])
def handle_of(request):
    """Return a handle of an exposure that lsst.afw wrote, by its name."""
    if request.param == "stand-ins":
        request.getfixturevalue("stand_ins")
        return _stand_in
    pytest.importorskip("lsst.afw.image")

    def make_handle(name):
        data_id = {"instrument": "TestCam", "visit": _expected(name)["visit"], "detector": 0}
        return _ReaderHandle(str(real_file(f"afw/{name}")), data_id)

    return make_handle


@pytest.fixture
def handle(stand_ins):
    """Handle of a made-up exposure with an origin, whose mask planes are not
    where they usually are.
    """
    planes = {"DETECTED": 0, "NO_DATA": 1, "SAT": 2, "CR": 3, "BAD": 4, "INTRP": 5, "OWN": 31}
    mask = np.zeros((60, 80), dtype=np.int32)
    mask[: len(planes)] = np.array([1 << bit for bit in planes.values()])[:, None]
    rng = np.random.default_rng(1)
    image, variance = rng.normal(500, 20, mask.shape), np.full(mask.shape, 400.0)
    return _Handle(
        [image, mask, variance],
        planes,
        VisitBuilder(rng, size=60).wcs(0),
        (1000, -300),
        psf=_gaussian_psf(1.8),
        photoCalib=_PhotoCalib(2.0, 0.1),
        filter=SimpleNamespace(bandLabel="r"),
        visitInfo=_visit_info(60980.1, "mjd", 30.0),
    )


def _read_all(handle, bad_planes=BAD_PLANES):
    """Return the pixels, and their mask in our bits."""
    with open_visit(handle) as visit:
        pixels = visit.read_pixels(visit.read_metadata().bbox)
    mask = make_mask(pixels.image, pixels.variance, pixels.planes, pixels.bits, bad_planes)
    return SimpleNamespace(image=pixels.image, variance=pixels.variance, mask=mask)


@pytest.mark.parametrize("name", REAL)
def test_metadata_and_wcs_are_what_afw_says(handle_of, name):
    expected = _expected(name)
    with open_visit(handle_of(name)) as visit:
        metadata = visit.read_metadata()
    # 1 microsecond; MJDs have 0.6 microseconds of rounding.
    assert metadata.mjd == pytest.approx(expected["mjd_tai_mid"], abs=1e-6 / 86400)
    assert metadata.exposure_time == expected["exposure_time_s"]
    assert (metadata.visit, BANDS[metadata.band]) == (expected["visit"], expected["band"])
    (x0, y0), (width, height) = expected["bbox_min_xy"], expected["bbox_size_xy"]
    assert metadata.bbox == Box.factory[y0 : y0 + height, x0 : x0 + width]
    x, y = np.array(expected["pixels_xy"], dtype=float).reshape(2, 2, 2).T
    sky = np.array(expected["sky_ra_dec_deg"]).reshape(2, 2, 2).T
    # 0.4 microarcsec; headers have 15 digits of the WCS.
    np.testing.assert_allclose(metadata.pixel_map.pixel_to_sky(x, y), sky, rtol=0, atol=1e-10)
    np.testing.assert_allclose(metadata.sky_to_pixel(*sky), (x, y), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", REAL)
def test_pixels_and_masks_are_what_afw_says(handle_of, name):
    expected = _expected(name)
    block, (image, mask, _) = _read_all(handle_of(name)), _planes(name)
    scale = expected["flux_1000_counts_at_centre_njy"] / 1000
    np.testing.assert_allclose(block.image, scale * image, rtol=1e-6)
    assert np.nanmedian(block.variance) == pytest.approx(scale**2 * expected["variance_median"], rel=1e-6)
    assert np.count_nonzero(block.mask & MaskBit.NO_DATA) == expected["n_nan"]
    for ours, planes in (("BAD", "BAD CR"), ("SATURATED", "SAT"), ("DETECTED", "DETECTED"), ("NO_DATA",) * 2):
        theirs = mask & sum(1 << expected["mask_planes"][plane] for plane in planes.split())
        np.testing.assert_array_equal((block.mask & MaskBit[ours]) != 0, theirs != 0)


@pytest.mark.parametrize("name", REAL)
def test_psf_is_what_afw_says(handle_of, name):
    expected = _expected(name)
    (x0, y0), (width, height) = expected["bbox_min_xy"], expected["bbox_size_xy"]
    with open_visit(handle_of(name)) as visit:
        kernel = visit.psf_kernel(x0 + width // 2, y0 + height // 2)
    assert kernel.shape == tuple(expected["psf_kernel_shape"])
    assert kernel.sum() == pytest.approx(expected["psf_kernel_sum"], rel=1e-6)
    assert kernel.max() == pytest.approx(expected["psf_kernel_max"], rel=1e-6)


@pytest.mark.parametrize("name", REAL)
def test_stars_have_their_fluxes(handle_of, name):
    """Fits of the PSF at the stars' places give their fluxes."""
    expected = _expected(name)
    stars = Table.read(real_file("afw/stars.csv"))
    with open_visit(handle_of(name)) as visit:
        metadata = visit.read_metadata()
        x, y = metadata.sky_to_pixel(stars["ra"], stars["dec"])
        bbox = metadata.bbox
        distance = np.hypot(x[:, None] - x, y[:, None] - y) + np.where(np.eye(len(x)), np.inf, 0.0)
        margin = np.minimum.reduce([x - bbox.x.start, bbox.x.stop - x, y - bbox.y.start, bbox.y.stop - y])
        use = (distance.min(axis=1) > 25) & (margin > 15)
        cutouts = read_cutouts(visit, metadata, x[use], y[use], size=21, psf_size=31, bad_planes=())
    dx, dy = ((at[use] - cutout_origins(at[use], 21))[:, None] for at in (x, y))
    rows, columns = (
        np.exp(-0.5 * ((np.arange(21) - middle) / expected["psf_sigma_pixels"]) ** 2) for middle in (dy, dx)
    )
    model = rows[:, :, None] * columns[:, None, :] / (2 * np.pi * expected["psf_sigma_pixels"] ** 2)
    weight = np.where(cutouts.mask & MaskBit.NO_DATA, 0.0, 1.0) / np.nanmedian(cutouts.variance)
    information = np.sum(model**2 * weight, axis=(1, 2))
    flux = np.sum(model * np.nan_to_num(cutouts.image) * weight, axis=(1, 2)) / information
    assert use.sum() >= 5
    error = np.hypot(4 / np.sqrt(information), 0.02 * stars["flux_njy"][use])
    # Something else may be in the way of a star.
    assert np.mean(np.abs(flux - stars["flux_njy"][use]) < error) > 0.9


def test_the_task_makes_sequences_of_stars_out_of_exposures(handle_of):
    names = REAL[:3]
    config = ExtractCutoutsConfig()
    config.positions, config.catalog_file = "catalog", str(real_file("afw/stars.csv"))
    config.input_storage_class, config.windowing, config.min_times = "ExposureF", "all", len(names)
    config.cutout_size = 21
    region = region_about(150.095, 2.1985, 80.0)
    task = ExtractCutoutsTask(config=config)
    sequences = task.run([handle_of(name) for name in names[::-1]], region=region, tract=0, patch=0).cutouts
    assert len(sequences) >= 10
    taken = slice(len(names))
    for key, column in (("mjd_tai_mid", "mjd"), ("visit", "visit"), ("exposure_time_s", "exposure_time")):
        expected = [_expected(name)[key] for name in names]
        np.testing.assert_allclose(
            getattr(sequences, column)[:, taken], [expected] * len(sequences), rtol=0, atol=1e-6
        )
    sky = gnomonic(
        sequences.ra[:, None],
        sequences.dec[:, None],
        sequences.centre_ra[:, taken],
        sequences.centre_dec[:, taken],
    )
    x, y = apply_affine(invert_affine(sequences.pixel_to_sky[:, taken]), *sky)
    images = np.nan_to_num(sequences.image[:, taken], nan=-np.inf)
    peak_y, peak_x = np.unravel_index(images.reshape(*images.shape[:2], -1).argmax(axis=2), images.shape[2:])
    # Some are faint, or have a brighter neighbour, or no data.
    assert np.mean(np.hypot(peak_x - x, peak_y - y) < 1.5) > 0.7


def test_pixels_without_a_value_are_no_data_even_if_no_plane_says_so(stand_ins):
    handle = _stand_in("exp0.fits")
    handle.planes.clear()
    assert np.count_nonzero(_read_all(handle).mask == MaskBit.NO_DATA) == _expected("exp0.fits")["n_nan"]


def test_cutouts_of_a_part_with_an_origin_equal_those_of_the_whole(handle_of):
    cutouts = []
    for name in ("exp2.fits", "extra_xy0.fits"):
        with open_visit(handle_of(name)) as visit:
            metadata = visit.read_metadata()
            x, y = metadata.sky_to_pixel(np.array([150.0992]), np.array([2.2003]))
            cutouts.append(read_cutouts(visit, metadata, x, y, size=40, psf_size=25, bad_planes=BAD_PLANES))
    for name, whole in vars(cutouts[0]).items():
        np.testing.assert_allclose(vars(cutouts[1])[name], whole, rtol=1e-6)
    assert not np.any(cutouts[0].mask & MaskBit.NO_DATA)


def test_the_uncertainty_of_the_calibration_is_not_in_the_variance(handle):
    # It is common to all pixels, and depends on their flux.
    np.testing.assert_allclose(_read_all(handle).variance, 2.0**2 * 400)


def test_images_in_njy_are_not_calibrated_again(handle):
    handle.bunit = "nJy"
    block = _read_all(handle)
    np.testing.assert_array_equal([block.image, block.variance], handle.arrays[::2])


def test_mask_planes_are_found_by_name_whatever_their_bits(handle):
    bad, no_data = MaskBit.BAD, MaskBit.NO_DATA
    rows = _read_all(handle).mask[:8, 7].tolist()
    assert rows == [MaskBit.DETECTED, no_data, MaskBit.SATURATED, bad, bad, 0, 0, 0]
    assert _read_all(handle, ("INTERPOLATED", "OWN")).mask[3:8, 7].tolist() == [0, 0, bad, bad, 0]


@pytest.mark.parametrize("name", ["bbox", "wcs", "visitInfo", "filter", "psf", "photoCalib"])
def test_errors_name_the_visit_and_what_is_missing(handle, name):
    handle.components[name] = None
    with open_visit(handle) as visit, pytest.raises(VisitError, match=rf"100.*no {name}"):
        visit.psf_kernel(1020.0, -290.0) if name == "psf" else _read_all(handle)


class _LogicError(Exception):
    """What lsst.pex.exceptions has of this name is no error of Python's."""


class _NoBand:
    @property
    def bandLabel(self):
        raise _LogicError("FilterLabel has no band.")


def test_errors_of_lsst_itself_name_the_visit(handle):
    handle.components["filter"] = _NoBand()
    with open_visit(handle) as visit, pytest.raises(VisitError, match=r"100.*has no band"):
        visit.read_metadata()


@pytest.mark.skipif(importlib.util.find_spec("lsst.afw") is None, reason="needs lsst.afw")
def test_a_real_image_of_an_older_afw():
    """It has a WCS with SIP terms, a PCA PSF, an origin, and no FilterLabel
    that could be held against its header.
    """
    path = real_file("hsc_r_exposure_afw.fits")
    handle = _ReaderHandle(str(path), {"instrument": "HSC", "visit": 1, "detector": 1})
    with open_visit(handle) as visit:
        metadata = visit.read_metadata()
        x, y = (
            metadata.bbox.x.start + np.array([60.0, 150.5]),
            metadata.bbox.y.start + np.array([80.0, 201.2]),
        )
        cutouts = read_cutouts(visit, metadata, x, y, size=50, psf_size=31, bad_planes=BAD_PLANES)
    ra, dec = metadata.pixel_map.pixel_to_sky(x, y)
    np.testing.assert_allclose(metadata.sky_to_pixel(ra, dec), (x, y), atol=1e-3)
    np.testing.assert_allclose(cutouts.psf.sum(axis=(1, 2)), 1.0, atol=1e-5)
    assert np.mean(cutouts.mask == 0) > 0.5
    assert np.all(cutouts.variance[cutouts.mask == 0] > 0)
