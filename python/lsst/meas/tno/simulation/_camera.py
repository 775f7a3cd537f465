# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The camera of a simulated survey: detectors, and their view of the sky."""

from __future__ import annotations

__all__ = ("Camera", "SimDetector", "make_camera")

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from astropy.wcs import WCS, Sip

from lsst.images import Box, DetectorFrame, SkyProjection
from lsst.images._transforms import _ast as ast
from lsst.images.cameras import (
    Amplifier,
    AmplifierCalibrations,
    CameraFrameSet,
    Detector,
    DetectorAttributes,
    DetectorType,
    Orientation,
    ReadoutCorner,
)

if TYPE_CHECKING:
    from ._config import SimulateSurveyConfig
    from ._observations import Visit

INSTRUMENT = "TnoSim"
"""Name of the instrument."""

PIXEL_SIZE = 0.01
"""Size of a pixel on the focal plane, mm."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimDetector:
    """A detector: its place in the camera."""

    id: int
    """Number of the detector (`int`)."""

    column: int
    """Its column in the camera (`int`)."""

    row: int
    """Its row in the camera (`int`)."""

    bbox: Box
    """Its pixels."""

    boresight_x: float
    """x of the boresight in its pixels, centre of the lower left one 0
    (`float`).
    """

    boresight_y: float
    """y of the boresight in its pixels (`float`)."""

    @property
    def raft(self) -> str:
        """Name of the group of detectors (`str`)."""
        return "R00"

    @property
    def name_in_raft(self) -> str:
        """Name in the group (`str`)."""
        return f"S{self.column:02d}{self.row:02d}"

    @property
    def full_name(self) -> str:
        """Full name (`str`)."""
        return f"{self.raft}_{self.name_in_raft}"

    def corners(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the outer corners of the detector, in pixels."""
        x0, x1 = self.bbox.x.start - 0.5, self.bbox.x.stop - 0.5
        y0, y1 = self.bbox.y.start - 0.5, self.bbox.y.stop - 0.5
        return np.array([x0, x1, x1, x0]), np.array([y0, y0, y1, y1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Camera:
    """The detectors and optics of the camera."""

    detectors: tuple[SimDetector, ...]
    """Detectors, row by row."""

    pixel_scale: float
    """Size of a pixel at the boresight, arcsec (`float`)."""

    distortion: float
    """Coefficient of the cubic distortion, pixels^-2 (`float`): a point
    (u, v) pixels from the boresight sees what is at
    (u, v) * (1 + distortion * (u^2 + v^2)) times the pixel scale.
    """

    radius: float
    """Distance of the camera's corners from the boresight, pixels
    (`float`).
    """

    read_noise: float
    """Read noise, electrons (`float`)."""

    saturation: float
    """Full well, electrons (`float`)."""

    def projection(self, visit: Visit, detector: SimDetector) -> SkyProjection[DetectorFrame]:
        """Return the map of a detector's pixels to the sky.

        Parameters
        ----------
        visit
            The visit.
        detector
            One of the detectors.

        Returns
        -------
        projection : `lsst.images.SkyProjection`
            A TAN-SIP projection about the boresight.
        """
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
        wcs.wcs.crval = [visit.ra, visit.dec]
        wcs.wcs.crpix = [detector.boresight_x + 1.0, detector.boresight_y + 1.0]
        wcs.wcs.cd = sky_jacobian(visit.rotation, self.pixel_scale) / 3600.0
        wcs.wcs.radesys = "ICRS"
        a, b = np.zeros((4, 4)), np.zeros((4, 4))
        a[3, 0] = a[1, 2] = b[0, 3] = b[2, 1] = self.distortion
        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
        frame = DetectorFrame(instrument=INSTRUMENT, visit=visit.id, detector=detector.id, bbox=detector.bbox)
        return SkyProjection.from_fits_wcs(wcs, frame, pixel_bounds=detector.bbox)

    def make_detector(self, detector: SimDetector, visit: Visit) -> Detector:
        """Return a detector as images carry it.

        Parameters
        ----------
        detector
            One of the detectors.
        visit
            The visit, whose gain the amplifier states.
        """
        attributes = DetectorAttributes(
            name=detector.full_name,
            id=detector.id,
            type=DetectorType.SCIENCE,
            serial=f"SIM-{detector.id:03d}",
            bbox=detector.bbox,
            orientation=_orientation(detector),
            pixel_size=PIXEL_SIZE,
            physical_type="SIM",
        )
        amplifier = Amplifier(
            name="C00",
            bbox=detector.bbox,
            readout_corner=ReadoutCorner.LL,
            nominal_calibrations=AmplifierCalibrations(
                gain=1.0,
                read_noise=self.read_noise,
                saturation=self.saturation,
                suspect_level=np.nan,
                linearity_coefficients=np.zeros(1),
                linearity_type="NONE",
            ),
        )
        return Detector(attributes, [amplifier], self._frames(detector), visit=visit.id)

    def _frames(self, detector: SimDetector) -> CameraFrameSet:
        """Return the coordinate systems of a detector and the camera."""
        focal_plane = _frame("FOCAL_PLANE", "mm")
        frames = ast.FrameSet(focal_plane)
        scale = np.radians(self.pixel_scale / 3600.0) / PIXEL_SIZE
        cubic = scale * self.distortion / PIXEL_SIZE**2
        # Rows are (coefficient, output, power of x, power of y).
        polynomial = [(scale, 1, 1, 0), (cubic, 1, 3, 0), (cubic, 1, 1, 2)]
        polynomial += [(scale, 2, 0, 1), (cubic, 2, 0, 3), (cubic, 2, 2, 1)]
        optics = ast.PolyMap(np.array(polynomial), 2, "IterInverse=1, NiterInverse=20, TolInverse=1e-10")
        frames.addFrame(1, optics, _frame("FIELD_ANGLE", "rad"))
        limits = f", Bottom(1)=0, Bottom(2)=0, Top(1)={detector.bbox.x.max}, Top(2)={detector.bbox.y.max}"
        to_pixels = ast.ZoomMap(2, 1.0 / PIXEL_SIZE).then(
            ast.ShiftMap([detector.boresight_x, detector.boresight_y])
        )
        frames.addFrame(1, to_pixels, _frame(f"DETECTOR_{detector.id:03d}", "pix", limits))
        return CameraFrameSet(INSTRUMENT, frames)


def make_camera(config: SimulateSurveyConfig) -> Camera:
    """Build the camera.

    Parameters
    ----------
    config
        Configuration of the survey.
    """
    step_x = config.detector_width + config.detector_gap
    step_y = config.detector_height + config.detector_gap
    centre_x = (config.n_detectors_x * step_x - config.detector_gap - 1) / 2
    centre_y = (config.n_detectors_y * step_y - config.detector_gap - 1) / 2
    detectors = tuple(
        SimDetector(
            id=row * config.n_detectors_x + column,
            column=column,
            row=row,
            bbox=Box.factory[0 : config.detector_height, 0 : config.detector_width],
            boresight_x=centre_x - column * step_x,
            boresight_y=centre_y - row * step_y,
        )
        for row in range(config.n_detectors_y)
        for column in range(config.n_detectors_x)
    )
    radius = float(np.hypot(centre_x, centre_y))
    return Camera(
        detectors=detectors,
        pixel_scale=config.pixel_scale,
        distortion=config.distortion / radius**3,
        radius=radius,
        read_noise=config.read_noise,
        saturation=config.saturation,
    )


def sky_jacobian(rotation: float, pixel_scale: float) -> np.ndarray:
    """Return the derivative of (xi, eta) by (x, y) at the boresight.

    Parameters
    ----------
    rotation
        Position angle of the y axis, deg east of north.
    pixel_scale
        Size of a pixel, arcsec.

    Returns
    -------
    jacobian : `numpy.ndarray`
        Matrix, ``(2, 2)``, arcsec a pixel; without rotation north is up and
        east left.
    """
    cos, sin = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    return pixel_scale * np.array([[-cos, sin], [sin, cos]])


def _orientation(detector: SimDetector) -> Orientation:
    x, y = detector.bbox.x.center, detector.bbox.y.center
    return Orientation(
        focal_plane_x=(x - detector.boresight_x) * PIXEL_SIZE,
        focal_plane_y=(y - detector.boresight_y) * PIXEL_SIZE,
        focal_plane_z=0.0,
        pixel_reference_x=x,
        pixel_reference_y=y,
    )


def _frame(name: str, unit: str, options: str = "") -> ast.Frame:
    frame = ast.Frame(2, f"Ident={name}{options}")
    for axis, label in ((1, "x"), (2, "y")):
        frame.setLabel(axis, label)
        frame.setUnit(axis, unit)
    return frame
