# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The area of a simulated survey: its tract and patches."""

from __future__ import annotations

__all__ = ("Patch", "make_patches", "make_polygon", "tract_half_size", "tract_polygon")

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d

from ..geometry import inverse_gnomonic

if TYPE_CHECKING:
    from ._config import SimulateSurveyConfig

TRACT = 0
"""Number of the only tract."""


@dataclasses.dataclass(frozen=True)
class Patch:
    """A patch of the tract."""

    id: int
    """Number of the patch (`int`)."""

    cell_x: int
    """Its column (`int`)."""

    cell_y: int
    """Its row (`int`)."""

    region: ConvexPolygon
    """Outer region: it overlaps with those of its neighbours."""


def make_polygon(ra: ArrayLike, dec: ArrayLike) -> ConvexPolygon:
    """Return the convex hull of sky positions.

    Parameters
    ----------
    ra, dec
        Positions, deg.
    """
    points = [
        UnitVector3d(LonLat.fromDegrees(float(lon), float(lat)))
        for lon, lat in np.broadcast(np.ravel(ra), np.ravel(dec))
    ]
    return ConvexPolygon.convexHull(points)


def tract_half_size(config: SimulateSurveyConfig) -> tuple[float, float]:
    """Return the half-width and half-height of the tract.

    It is the largest rectangle with north up and the shape of the camera that
    every pointing and rotation that the configuration allows has on the
    camera, less the margin.

    Parameters
    ----------
    config
        Configuration of the survey.

    Returns
    -------
    half_width, half_height : `float`
        Half the extent in xi and eta, arcsec; not positive if there is none.
    """
    columns = config.n_detectors_x * (config.detector_width + config.detector_gap) - config.detector_gap
    rows = config.n_detectors_y * (config.detector_height + config.detector_gap) - config.detector_gap
    margin = config.dither_radius + config.tract_margin
    margin += (config.edge_width + config.distortion) * config.pixel_scale
    width = columns * config.pixel_scale / 2 - margin
    height = rows * config.pixel_scale / 2 - margin
    if min(width, height) <= 0:
        return min(width, height), min(width, height)
    angle = np.radians(config.rotation + config.rotation_range * np.linspace(-1.0, 1.0, 361))
    cos, sin = np.abs(np.cos(angle)), np.abs(np.sin(angle))
    scale = np.minimum(width / (width * cos + height * sin), height / (width * sin + height * cos)).min()
    return float(width * scale), float(height * scale)


def tract_polygon(config: SimulateSurveyConfig) -> ConvexPolygon:
    """Return the region of the tract.

    Parameters
    ----------
    config
        Configuration of the survey.
    """
    half_width, half_height = tract_half_size(config)
    return _rectangle(config, (-half_width, half_width), (-half_height, half_height))


def make_patches(config: SimulateSurveyConfig) -> list[Patch]:
    """Divide the tract into patches.

    Parameters
    ----------
    config
        Configuration of the survey.

    Returns
    -------
    patches : `list` [`Patch`]
        Patches, row by row from the south, each from east to west.
    """
    half_width, half_height = tract_half_size(config)
    patches: list[Patch] = []
    for cell_y in range(config.n_patches_y):
        for cell_x in range(config.n_patches_x):
            xi = _interval(cell_x, config.n_patches_x, half_width, config.patch_border)
            eta = _interval(cell_y, config.n_patches_y, half_height, config.patch_border)
            # Columns count with the pixels of a map that has east left.
            region = _rectangle(config, (-xi[1], -xi[0]), eta)
            patches.append(Patch(len(patches), cell_x, cell_y, region))
    return patches


def _interval(cell: int, n_cells: int, half_size: float, border: float) -> tuple[float, float]:
    """Return where a row or column of patches begins and ends, with its
    border but inside the tract.
    """
    size = 2 * half_size / n_cells
    begin = -half_size + cell * size - border
    end = -half_size + (cell + 1) * size + border
    return max(begin, -half_size), min(end, half_size)


def _rectangle(
    config: SimulateSurveyConfig, xi: tuple[float, float], eta: tuple[float, float]
) -> ConvexPolygon:
    ra, dec = inverse_gnomonic(
        [xi[0], xi[1], xi[1], xi[0]], [eta[0], eta[0], eta[1], eta[1]], config.ra, config.dec
    )
    return make_polygon(ra, dec)
