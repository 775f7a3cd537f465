# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import numpy as np
import pytest
from astropy.wcs import WCS

from lsst.meas.tno.geometry import (
    apply_affine,
    gnomonic,
    inverse_gnomonic,
    invert_affine,
    north_up_affine,
    pixel_area,
    polar_rate,
)


@pytest.mark.parametrize("centre", [(53.1, -27.8), (0.01, 2.0), (200.0, 89.9)])
def test_gnomonic_equals_astropy_tan(centre):
    """The TAN projection of wcslib is an independent implementation."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = centre
    wcs.wcs.crpix = [1.0, 1.0]
    wcs.wcs.cdelt = [1 / 3600, 1 / 3600]
    xi, eta = np.random.default_rng(1).uniform(-600, 600, (2, 100))
    ra, dec = wcs.wcs_pix2world(xi, eta, 0)
    # 1e-6 arcsec is the rounding of degrees near the pole.
    np.testing.assert_allclose(gnomonic(ra, dec, *centre), (xi, eta), atol=1e-6)
    back_ra, back_dec = inverse_gnomonic(xi, eta, *centre)
    np.testing.assert_allclose(np.mod(back_ra - ra + 180, 360) - 180, 0, atol=1e-9)
    np.testing.assert_allclose(back_dec, dec, atol=1e-11)


def test_gnomonic_keeps_digits_near_the_centre():
    xi, eta = gnomonic(150.1 + 1e-6 / 3600, 2.2, 150.1, 2.2)
    assert xi == pytest.approx(1e-6 * np.cos(np.radians(2.2)), rel=1e-4)
    assert abs(eta) < 1e-12


def test_gnomonic_has_no_image_of_the_far_side():
    assert np.all(np.isnan(gnomonic(330.1, -2.2, 150.1, 2.2)))


def test_affine_inverse():
    rng = np.random.default_rng(2)
    affine = rng.normal(size=(7, 2, 3))
    x, y = rng.normal(size=(2, 7))
    np.testing.assert_allclose(apply_affine(invert_affine(affine), *apply_affine(affine, x, y)), (x, y))


def test_north_up_grid():
    affine = north_up_affine(15, 0.2)
    assert apply_affine(affine, 7.0, 7.0) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert apply_affine(affine, 8.0, 8.0) == pytest.approx((-0.2, 0.2)), "x runs west and y north"
    assert pixel_area(affine) == pytest.approx(0.04)


def test_polar_rate():
    rate, angle = polar_rate([0.0, 3.0, 0.0, -1.0, -1e-20], [2.0, 0.0, -1.0, 1.0, 1.0])
    np.testing.assert_allclose(rate, [2.0, 3.0, 1.0, np.sqrt(2.0), 1.0])
    np.testing.assert_allclose(angle, [0.0, 90.0, 180.0, 315.0, 0.0], atol=1e-9)
    assert np.all(angle < 360.0)
