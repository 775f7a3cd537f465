# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Configuration of a simulated survey."""

from __future__ import annotations

__all__ = ("SimulateSurveyConfig",)

import numpy as np

from lsst.pex.config import ChoiceField, Config, DictField, Field, ListField, RangeField

from .._sequences import BANDS
from ..photometry import RUBIN_ZERO_POINTS, TNO_COLOURS

SKY_BRIGHTNESS = {"u": 22.95, "g": 22.24, "r": 21.20, "i": 20.47, "z": 19.60, "y": 18.63}
"""AB magnitudes per arcsec^2 of the dark sky at the zenith of Cerro Pachon,
by band (Ivezic et al. 2019, ApJ 873, 111, table 2).
"""

EXTINCTION = {"u": 0.47, "g": 0.21, "r": 0.13, "i": 0.10, "z": 0.07, "y": 0.18}
"""Extinction per unit airmass, mag, by band (Rubin Observatory, SMTN-002)."""

_TRACT_MINIMUM = 5.0
"""Smallest useful half-width of the area that all visits cover, arcsec."""


class SimulateSurveyConfig(Config):
    """What a simulated survey looks at, with what, and when.

    Everything that is random follows from ``seed``: the same configuration
    gives the same pixels, with any number of processes.
    """

    seed = RangeField(dtype=int, doc="Seed of everything that is random.", default=1, min=0)

    # Where and when.
    ra = RangeField(
        dtype=float,
        doc="ICRS right ascension of the field, deg (default: COSMOS).",
        default=150.1192,
        min=0.0,
        max=360.0,
        inclusiveMax=False,
    )
    dec = RangeField(
        dtype=float,
        doc="ICRS declination of the field, deg (default: COSMOS).",
        default=2.2058,
        min=-89.0,
        max=89.0,
        inclusiveMax=True,
    )
    mjd_begin = Field[float](
        doc="TAI MJD at which the first exposure begins; every visit must be below max_airmass.",
        default=61090.18,
    )
    n_nights = RangeField(dtype=int, doc="Number of nights.", default=1, min=1)
    night_spacing = RangeField(dtype=int, doc="Days from one night to the next.", default=1, min=1)
    n_visits = RangeField(dtype=int, doc="Visits a night, all bands together.", default=96, min=1)
    bands = ListField[str](
        doc="Bands of a night, observed one after the other in blocks of equal length.",
        default=["r", "i"],
        minLength=1,
        itemCheck=lambda band: len(band) == 1 and band in BANDS,
    )
    exposure_time = RangeField(
        dtype=float, doc="Exposure time, s.", default=30.0, min=0.0, inclusiveMin=False
    )
    visit_interval = RangeField(
        dtype=float,
        doc="Time from the beginning of one visit to that of the next, s.",
        default=41.0,
        min=0.0,
        inclusiveMin=False,
    )
    band_change_time = RangeField(
        dtype=float, doc="Time that a change of filter takes in addition, s.", default=120.0, min=0.0
    )
    dither_radius = RangeField(
        dtype=float,
        doc="Radius of the circle that pointings are drawn from, uniformly and per visit, arcsec.",
        default=5.0,
        min=0.0,
    )
    rotation = Field[float](
        doc="Position angle of the detectors' y axis, deg east of north, without rotation_range.", default=0.0
    )
    rotation_range = RangeField(
        dtype=float,
        doc="Half-width of the interval that the rotation of the camera is drawn from, uniformly and once "
        "a night and band, deg.",
        default=5.0,
        min=0.0,
        max=180.0,
        inclusiveMax=True,
    )
    max_airmass = RangeField(
        dtype=float, doc="Airmass that no visit may pass.", default=2.5, min=1.0, inclusiveMin=False
    )

    # The camera.
    n_detectors_x = RangeField(dtype=int, doc="Columns of detectors.", default=1, min=1)
    n_detectors_y = RangeField(dtype=int, doc="Rows of detectors.", default=2, min=1)
    detector_width = RangeField(dtype=int, doc="Columns of a detector, pixels.", default=1536, min=64)
    detector_height = RangeField(dtype=int, doc="Rows of a detector, pixels.", default=768, min=64)
    detector_gap = RangeField(dtype=int, doc="Gap between detectors, pixels.", default=20, min=0)
    pixel_scale = RangeField(
        dtype=float, doc="Size of a pixel at the boresight, arcsec.", default=0.2, min=0.0, inclusiveMin=False
    )
    distortion = RangeField(
        dtype=float,
        doc="Shift by the (cubic) optical distortion at the corner of the camera, pixels.",
        default=1.0,
        min=0.0,
    )
    read_noise = RangeField(dtype=float, doc="Read noise, electrons.", default=9.0, min=0.0)
    saturation = RangeField(
        dtype=float, doc="Full well of a pixel, electrons.", default=1.2e5, min=0.0, inclusiveMin=False
    )
    n_bad_columns = RangeField(dtype=int, doc="Bad columns of a detector, at most.", default=3, min=0)
    edge_width = RangeField(
        dtype=int, doc="Width of the NO_DATA edge of a detector, pixels.", default=2, min=0
    )
    cosmic_ray_rate = RangeField(
        dtype=float, doc="Cosmic rays per million pixels in an exposure of 30 s.", default=12.0, min=0.0
    )
    cosmic_ray_missed = RangeField(
        dtype=float,
        doc="Fraction of the cosmic rays that are neither masked nor interpolated.",
        default=0.05,
        min=0.0,
        max=1.0,
        inclusiveMax=True,
    )

    # The atmosphere.
    seeing = RangeField(
        dtype=float, doc="Median FWHM of the PSF, arcsec.", default=0.8, min=0.0, inclusiveMin=False
    )
    seeing_scatter = RangeField(
        dtype=float, doc="Scatter of the natural logarithm of the FWHM.", default=0.12, min=0.0
    )
    seeing_min = RangeField(
        dtype=float, doc="Smallest FWHM of a visit, arcsec.", default=0.6, min=0.0, inclusiveMin=False
    )
    seeing_max = RangeField(
        dtype=float, doc="Largest FWHM of a visit, arcsec.", default=1.1, min=0.0, inclusiveMin=False
    )
    psf_beta = RangeField(
        dtype=float,
        doc="Exponent of the PSF's Moffat profile; 4.765 is nearest to Kolmogorov turbulence.",
        default=4.765,
        min=1.5,
        max=10.0,
        inclusiveMax=True,
    )
    psf_ellipticity = RangeField(
        dtype=float,
        doc="Scatter per component of the PSF's shear, per visit.",
        default=0.02,
        min=0.0,
        max=0.1,
        inclusiveMax=True,
    )
    psf_variation = RangeField(
        dtype=float,
        doc="Amplitude of the change over the camera of the PSF's relative width and of its shear.",
        default=0.02,
        min=0.0,
        max=0.1,
        inclusiveMax=True,
    )
    psf_size = RangeField(
        dtype=int,
        doc="Width and height of the PSF model's images, pixels (odd).",
        default=25,
        min=11,
        max=101,
        inclusiveMax=True,
    )
    sky_brightness = DictField[str, float](
        doc="AB magnitude per arcsec^2 of the sky, by band.", default=SKY_BRIGHTNESS
    )
    sky_scatter = RangeField(
        dtype=float, doc="Scatter of the sky brightness of a visit, mag.", default=0.03, min=0.0
    )
    zero_points = DictField[str, float](
        doc="AB magnitude of one photo-electron a second at airmass 1, by band.",
        default=dict(RUBIN_ZERO_POINTS),
    )
    extinction = DictField[str, float](doc="Extinction per unit airmass, mag, by band.", default=EXTINCTION)

    # The scene.
    star_density = RangeField(dtype=float, doc="Stars per arcmin^2.", default=5.0, min=0.0)
    star_mag_min = Field[float](doc="r magnitude of the brightest stars.", default=15.0)
    star_mag_max = Field[float](doc="r magnitude of the faintest stars.", default=25.5)
    star_mag_slope = RangeField(
        dtype=float,
        doc="Slope of log10 of the number of stars per magnitude.",
        default=0.16,
        min=0.0,
        inclusiveMin=False,
    )
    galaxy_density = RangeField(dtype=float, doc="Galaxies per arcmin^2.", default=40.0, min=0.0)
    galaxy_mag_min = Field[float](doc="r magnitude of the brightest galaxies.", default=18.0)
    galaxy_mag_max = Field[float](doc="r magnitude of the faintest galaxies.", default=25.5)
    galaxy_mag_slope = RangeField(
        dtype=float,
        doc="Slope of log10 of the number of galaxies per magnitude.",
        default=0.33,
        min=0.0,
        inclusiveMin=False,
    )

    # The template of the difference images.
    make_difference_images = Field[bool](doc="Write difference images?", default=True)
    template_visits = RangeField(
        dtype=float,
        doc="Number of visits of the survey that the template is as deep as.",
        default=50.0,
        min=0.0,
        inclusiveMin=False,
    )
    residual_shift = RangeField(
        dtype=float,
        doc="Scatter, per axis and image, of the misalignment with the template, pixels.",
        default=0.03,
        min=0.0,
    )
    residual_width = RangeField(
        dtype=float,
        doc="Scatter, per image, of the relative error of the matched PSF's width.",
        default=0.005,
        min=0.0,
    )

    # What moves.
    object_motion = ChoiceField[str](
        doc="How moving objects move.",
        allowed={
            "lines": "On straight lines, drawn between the limits below, or those of object_file.",
            "orbits": "About the Sun: orbits of orbit_file, or else synthetic ones of TNOs, turned about the "
            "barycentre so that they are seen in the tract at the middle of the survey.",
            "true_orbits": "On the orbits of orbit_file, where they are, and as bright as they are.",
        },
        default="lines",
    )
    orbit_file = Field[str](
        doc="Catalog of orbits, in any format that lsst.meas.tno.orbits.read_orbits takes.",
        default=None,
        optional=True,
    )
    n_objects = RangeField(
        dtype=int,
        doc="Number of moving objects, if they are not those of object_file or on true_orbits.",
        default=10,
        min=0,
    )
    object_mag_min = Field[float](doc="r magnitude of the brightest moving objects.", default=23.0)
    object_mag_max = Field[float](doc="r magnitude of the faintest moving objects.", default=25.0)
    object_rate_min = RangeField(
        dtype=float, doc="Slowest rate of motion, arcsec/hour.", default=1.0, min=0.0
    )
    object_rate_max = RangeField(
        dtype=float, doc="Fastest rate of motion, arcsec/hour.", default=3.0, min=0.0
    )
    object_position_angle_min = Field[float](
        doc="Smallest position angle of the motion, deg east of north.", default=0.0
    )
    object_position_angle_max = Field[float](
        doc="Largest position angle of the motion, deg east of north.", default=360.0
    )
    object_colours = DictField[str, float](
        doc="AB magnitude of moving objects in each band less that in r, mag; by default TNO_COLOURS, those "
        "of injected objects: sunlight off a moderately red surface (slope of Sheppard 2010, AJ 139, 1394).",
        default=dict(TNO_COLOURS),
    )
    object_file = Field[str](
        doc="Table of moving objects that astropy can read, with the columns object_id, ra, dec (deg, at "
        "mjd), mjd (TAI), rate_ra_cosdec, rate_dec (arcsec/hour) and mag (r).",
        default=None,
        optional=True,
    )

    # What is written.
    n_patches_x = RangeField(dtype=int, doc="Columns of patches.", default=2, min=1)
    n_patches_y = RangeField(dtype=int, doc="Rows of patches.", default=2, min=1)
    patch_border = RangeField(
        dtype=float, doc="Width by which a patch reaches into its neighbours, arcsec.", default=5.0, min=0.0
    )
    tract_margin = RangeField(
        dtype=float,
        doc="Distance that the tract keeps from the edge of what all visits cover, arcsec.",
        default=5.0,
        min=0.0,
    )
    skymap = Field[str](doc="Name of the skymap.", default="tno_sim")
    run = Field[str](doc="RUN collection of the images.", default="TnoSim/runs/survey")
    collection = Field[str](doc="CHAINED collection to search, made new.", default="TnoSim/defaults")
    visit_image_name = Field[str](doc="Dataset type of the images.", default="visit_image")
    difference_image_name = Field[str](
        doc="Dataset type of the difference images.", default="difference_image"
    )
    objects_name = Field[str](
        doc="Dataset type of the truth of the moving objects.", default="tno_simulated_objects"
    )
    quantization = RangeField(
        dtype=float,
        doc="Step that pixel values are rounded to, in units of the sky noise, as Rubin does; 0 for none.",
        default=1.0 / 16.0,
        min=0.0,
        max=0.5,
        inclusiveMax=True,
    )

    def validate(self) -> None:
        """Check each field, and those that depend on each other.

        Raises
        ------
        ValueError
            Raised if a survey like this is impossible; the message names the
            fields. `lsst.pex.config.FieldValidationError` is one.
        """
        super().validate()
        self._validate_order()
        self._validate_bands()
        if self.visit_interval < self.exposure_time:
            raise ValueError(
                f"visit_interval={self.visit_interval} s is less than exposure_time={self.exposure_time} s."
            )
        if self.psf_size % 2 == 0:
            raise ValueError(f"psf_size={self.psf_size} must be odd.")
        if min(self.detector_width, self.detector_height) <= 2 * self.edge_width + self.psf_size:
            raise ValueError(
                "detector_width or detector_height leaves nothing inside edge_width and psf_size."
            )
        if 2 * self.pixel_scale > self.seeing_min:
            raise ValueError(
                f"pixel_scale={self.pixel_scale} arcsec undersamples a PSF of seeing_min={self.seeing_min}."
            )
        self._validate_names()
        self._validate_objects()
        self._validate_coverage()
        self._validate_airmass()

    def _validate_order(self) -> None:
        ordered = (
            ("seeing_min", "seeing", "seeing_max"),
            ("star_mag_min", "star_mag_max"),
            ("galaxy_mag_min", "galaxy_mag_max"),
            ("object_mag_min", "object_mag_max"),
            ("object_rate_min", "object_rate_max"),
            ("object_position_angle_min", "object_position_angle_max"),
        )
        for names in ordered:
            values = [getattr(self, name) for name in names]
            if values != sorted(values):
                raise ValueError(f"{' <= '.join(names)} does not hold: {values}.")

    def _validate_bands(self) -> None:
        if len(self.bands) > self.n_visits:
            raise ValueError(
                f"n_visits={self.n_visits} is less than one for each of bands={list(self.bands)}."
            )
        for name in ("sky_brightness", "zero_points", "extinction", "object_colours"):
            if missing := [band for band in BANDS if band not in getattr(self, name)]:
                raise ValueError(f"{name} has no value for the bands {missing}.")

    def _validate_names(self) -> None:
        if self.run == self.collection:
            raise ValueError(f"run and collection must differ: {self.run!r}.")
        names = [self.visit_image_name, self.difference_image_name, self.objects_name]
        if len(set(names)) < len(names):
            raise ValueError(
                f"visit_image_name, difference_image_name and objects_name must differ: {names}."
            )

    def _validate_objects(self) -> None:
        from ._objects import read_objects
        from ._orbits import read_orbit_file

        if self.object_colours["r"] != 0:
            raise ValueError(
                f"object_colours['r']={self.object_colours['r']} mag must be 0: they are less r."
            )
        if bad := {band: value for band, value in self.object_colours.items() if not np.isfinite(value)}:
            raise ValueError(f"object_colours must be finite: {bad}.")
        if self.object_file:
            if self.object_motion != "lines":
                raise ValueError(f"object_file is for object_motion='lines', not {self.object_motion!r}.")
            read_objects(self.object_file, self.object_colours)
        if self.object_motion == "true_orbits" and not self.orbit_file:
            raise ValueError("object_motion='true_orbits' needs orbit_file.")
        if self.orbit_file:
            if self.object_motion == "lines":
                raise ValueError("orbit_file is for object_motion='orbits' or 'true_orbits', not 'lines'.")
            read_orbit_file(self.orbit_file)

    def _validate_coverage(self) -> None:
        from ._sky import tract_half_size

        half_size = tract_half_size(self)
        if min(half_size) < _TRACT_MINIMUM:
            raise ValueError(
                "No useful area is covered by all visits: its half-width would be "
                f"{min(half_size):.1f} arcsec. Reduce dither_radius, rotation_range or tract_margin, or "
                "raise detector_width, detector_height, n_detectors_x or n_detectors_y."
            )

    def _validate_airmass(self) -> None:
        from ._observations import plan_times, zenith_angle_azimuth

        mjd = plan_times(self)
        zenith_angle, _ = zenith_angle_azimuth(self.ra, self.dec, mjd)
        worst = int(zenith_angle.argmax())
        if np.cos(np.radians(zenith_angle[worst])) * self.max_airmass < 1.0:
            raise ValueError(
                f"The field at ra={self.ra}, dec={self.dec} is {zenith_angle[worst]:.0f} deg from the zenith "
                f"at MJD {mjd[worst]:.3f}, past max_airmass={self.max_airmass}. Change mjd_begin."
            )
