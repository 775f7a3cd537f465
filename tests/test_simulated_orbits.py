# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects that move about the Sun in the pixels of a simulated survey."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from lsst.daf.butler import Butler
from lsst.meas.tno import SCHEMAS, validate_table
from lsst.meas.tno.ephemerides import compute_ephemerides
from lsst.meas.tno.geometry import gnomonic
from lsst.meas.tno.orbits import make_synthetic_orbits, write_orbits
from lsst.meas.tno.photometry import TNO_COLOURS, V_MINUS_R, ab_mag_to_njy
from lsst.meas.tno.simulation import SimulateSurveyConfig, simulate_survey
from lsst.meas.tno.simulation._objects import make_objects
from lsst.meas.tno.simulation._observations import plan_visits
from lsst.meas.tno.simulation._sky import tract_half_size


def _config(**overrides: Any) -> SimulateSurveyConfig:
    """Configure a survey of blank sky."""
    config = SimulateSurveyConfig()
    config.update(
        n_visits=2,
        bands=["g"],
        n_detectors_y=1,
        detector_width=200,
        detector_height=200,
        n_patches_x=1,
        n_patches_y=1,
        dither_radius=2.0,
        tract_margin=1.0,
        star_density=0.0,
        galaxy_density=0.0,
        cosmic_ray_rate=0.0,
        n_bad_columns=0,
    )
    config.update(**overrides)
    config.validate()
    return config


def test_objects_are_turned_into_the_tract() -> None:
    config = _config(object_motion="orbits", n_objects=40, n_nights=3, night_spacing=10)
    visits = plan_visits(config)
    objects = make_objects(config, visits)
    middle = (visits[0].mjd + visits[-1].mjd) / 2
    offset = np.abs(gnomonic(*objects.positions(middle), config.ra, config.dec))
    assert np.all(offset <= np.array(tract_half_size(config))[:, None] + 1e-6)
    mag = objects.mags(middle)
    assert np.all((mag >= config.object_mag_min - 1e-9) & (mag <= config.object_mag_max + 1e-9))
    assert len(set(objects.object_id)) == len(objects) == 40
    # The default field is near opposition: all move to the west, those at 30
    # au by 4.3 arcsec/hour, and none faster.
    rate, angle = objects.rates(middle)
    assert np.all((rate > 0.1) & (rate < 5.0))
    assert np.all(angle > 180.0)
    np.testing.assert_array_equal(make_objects(config, visits).positions(middle), objects.positions(middle))


def test_given_orbits_are_where_their_ephemerides_are(tmp_path: Path) -> None:
    orbits = make_synthetic_orbits(20, 5)
    orbits["H"] = 3.0
    config = _config()
    seen = compute_ephemerides(orbits, [plan_visits(config)[0].mjd])
    # A survey that looks at one of them.
    target = int(np.argmin(np.abs(seen.ra[:, 0] - config.ra)))
    write_orbits(orbits, tmp_path / "orbits.csv")
    config = _config(
        object_motion="true_orbits",
        orbit_file=str(tmp_path / "orbits.csv"),
        ra=float(seen.ra[target, 0]),
        dec=float(seen.dec[target, 0]),
        visit_interval=1200.0,
        max_airmass=20.0,
    )
    summary = simulate_survey(str(tmp_path / "repo"), config)
    with Butler.from_config(summary.root, collections=summary.collection) as butler:
        truth = butler.get("tno_simulated_objects")
        images = [
            butler.get("visit_image", instrument=summary.instrument, visit=visit, detector=0)
            for visit in summary.visits
        ]
    validate_table(truth, SCHEMAS["tno_simulated_objects"])
    assert list(truth["object_id"]) == [orbits["name"][target]] * 2
    expected = compute_ephemerides(orbits[[target]], truth["mjd"])
    there = SkyCoord(expected.ra[0], expected.dec[0], unit="deg")
    assert np.all(there.separation(SkyCoord(truth["ra"], truth["dec"])).mas < 0.01)
    np.testing.assert_allclose(truth["mag"], expected.mag[0] - V_MINUS_R + TNO_COLOURS["g"], atol=1e-9)
    np.testing.assert_allclose(
        truth["rate"], np.hypot(expected.rate_ra_cosdec[0], expected.rate_dec[0]), rtol=1e-9
    )
    for image, row in zip(images, truth, strict=True):
        x, y = (round(float(row[axis])) for axis in ("x", "y"))
        stamp = image.image.array[y - 10 : y + 11, x - 10 : x + 11].astype(float)
        sigma = float(np.sqrt(np.sum(image.variance.array[y - 10 : y + 11, x - 10 : x + 11])))
        # A circle of 2 arcsec holds all but 1 % of a PSF of 0.8 arcsec.
        assert stamp.sum() == pytest.approx(ab_mag_to_njy(row["mag"]), rel=0.02, abs=4 * sigma)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"object_motion": "true_orbits"}, "needs orbit_file"),
        ({"orbit_file": "orbits.csv"}, "not 'lines'"),
        ({"object_motion": "orbits", "object_file": "x.ecsv"}, "not 'orbits'"),
        ({"object_motion": "orbits", "orbit_file": "/no/such/file.csv"}, "/no/such/file.csv"),
    ],
)
def test_configurations_that_are_impossible(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _config(**overrides)
