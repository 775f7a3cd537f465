# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving objects in the pixels of a simulated survey, and their truth."""

from __future__ import annotations

__all__ = (
    "SimulatedObjects",
    "StraightTrajectories",
    "magnitudes",
    "make_objects",
    "make_truth_table",
    "read_objects",
)

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
from astropy.table import Column, Table

from .._schema import SIMULATED_OBJECT_COLUMNS
from .._sequences import BANDS
from ..geometry import inverse_gnomonic, polar_rate
from ..photometry import ab_mag_to_njy
from ._observations import SECONDS
from ._orbits import make_orbiting_objects
from ._random import Stream, make_generator
from ._sky import tract_half_size

if TYPE_CHECKING:
    from ._config import SimulateSurveyConfig
    from ._observations import Visit

FILE_COLUMNS = ("object_id", "ra", "dec", "mjd", "rate_ra_cosdec", "rate_dec", "mag")
"""Columns of a table of moving objects."""


class SimulatedObjects(Protocol):
    """What images need to know of moving objects."""

    @property
    def object_id(self) -> np.ndarray:
        """Names."""

    @property
    def colours(self) -> Mapping[str, float]:
        """AB magnitude in each band less that in r, mag."""

    def __len__(self) -> int: ...

    def positions(self, mjd: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the ICRS positions, deg.

        Parameters
        ----------
        mjd
            TAI MJD.
        """

    def rates(self, mjd: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the rates, arcsec/hour, and the position angles of the
        motion, deg east of north.

        Parameters
        ----------
        mjd
            TAI MJD.
        """

    def mags(self, mjd: float) -> np.ndarray:
        """Return the AB magnitudes in r.

        Parameters
        ----------
        mjd
            TAI MJD.
        """


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class StraightTrajectories:
    """Objects that move along great circles, nearly uniformly."""

    object_id: np.ndarray
    """Names."""

    ra: np.ndarray
    """ICRS right ascensions at ``mjd``, deg."""

    dec: np.ndarray
    """ICRS declinations at ``mjd``, deg."""

    mjd: np.ndarray
    """Reference times, TAI MJD."""

    rate_ra_cosdec: np.ndarray
    """Rates to the east, arcsec/hour."""

    rate_dec: np.ndarray
    """Rates to the north, arcsec/hour."""

    mag: np.ndarray
    """AB magnitudes in r."""

    colours: Mapping[str, float]
    """AB magnitude in each band less that in r, mag."""

    def __len__(self) -> int:
        return len(self.object_id)

    def positions(self, mjd: float) -> tuple[np.ndarray, np.ndarray]:
        """Return where the objects are.

        Parameters
        ----------
        mjd
            TAI MJD.

        Returns
        -------
        ra, dec : `numpy.ndarray`
            ICRS positions, deg.
        """
        hours = (mjd - self.mjd) * 24.0
        return inverse_gnomonic(self.rate_ra_cosdec * hours, self.rate_dec * hours, self.ra, self.dec)

    def rates(self, mjd: float) -> tuple[np.ndarray, np.ndarray]:
        """Return how fast the objects move, and where to.

        Parameters
        ----------
        mjd
            TAI MJD; the motion is that of the reference time.

        Returns
        -------
        rate, position_angle : `numpy.ndarray`
            Rates, arcsec/hour, and position angles, deg east of north.
        """
        return polar_rate(self.rate_ra_cosdec, self.rate_dec)

    def mags(self, mjd: float) -> np.ndarray:
        """Return the AB magnitudes in r, which do not change.

        Parameters
        ----------
        mjd
            TAI MJD.
        """
        return self.mag


def make_objects(config: SimulateSurveyConfig, visits: list[Visit]) -> SimulatedObjects:
    """Draw the moving objects, or read them from the configured file.

    Parameters
    ----------
    config
        Configuration of the survey.
    visits
        Visits of the survey; the reference time is the middle of them.

    Raises
    ------
    ValueError
        Raised if the file lacks a column or has values that are not finite.
    """
    if config.object_motion != "lines":
        return make_orbiting_objects(config, visits)
    if config.object_file:
        return read_objects(config.object_file, dict(config.object_colours))
    rng = make_generator(config, Stream.OBJECTS)
    n = config.n_objects
    half_width, half_height = tract_half_size(config)
    mjd = (visits[0].mjd + visits[-1].mjd) / 2
    ra, dec = inverse_gnomonic(
        rng.uniform(-half_width, half_width, n),
        rng.uniform(-half_height, half_height, n),
        config.ra,
        config.dec,
    )
    rate = rng.uniform(config.object_rate_min, config.object_rate_max, n)
    angle = np.radians(rng.uniform(config.object_position_angle_min, config.object_position_angle_max, n))
    return StraightTrajectories(
        object_id=np.array([f"sim-{i:04d}" for i in range(n)], dtype=str),
        ra=ra,
        dec=dec,
        mjd=np.full(n, mjd),
        rate_ra_cosdec=rate * np.sin(angle),
        rate_dec=rate * np.cos(angle),
        mag=rng.uniform(config.object_mag_min, config.object_mag_max, n),
        colours=dict(config.object_colours),
    )


def magnitudes(objects: SimulatedObjects, band: str, mjd: float) -> np.ndarray:
    """Return the AB magnitudes of objects in a band.

    Parameters
    ----------
    objects
        The objects.
    band
        The band.
    mjd
        TAI MJD.
    """
    return objects.mags(mjd) + objects.colours[band]


def trail_times(objects: SimulatedObjects, visit: Visit, pixel_scale: float) -> np.ndarray:
    """Return the times at which to draw the objects in an exposure, so that
    none moves by more than a quarter of a pixel from one to the next.

    Parameters
    ----------
    objects
        The objects.
    visit
        The visit.
    pixel_scale
        Size of a pixel, arcsec.

    Returns
    -------
    mjd : `numpy.ndarray`
        Times, TAI MJD, of mean mid-exposure.
    """
    if len(objects) == 0:
        return np.empty(0)
    rate, _ = objects.rates(visit.mjd)
    length = rate.max() * visit.exposure_time / 3600.0 / pixel_scale
    n = max(1, int(np.ceil(length / 0.25)))
    return visit.mjd + (np.arange(n) - (n - 1) / 2) / n * visit.exposure_time / SECONDS


def make_truth_rows(
    objects: SimulatedObjects, visit: Visit, detector: int, x: np.ndarray, y: np.ndarray, inside: np.ndarray
) -> Table:
    """Return the truth of the objects on a detector in a visit.

    Parameters
    ----------
    objects
        The objects.
    visit
        The visit.
    detector
        Number of the detector.
    x, y
        Positions of the objects at mid-exposure, pixels.
    inside
        Which of them are on the detector.
    """
    ra, dec = objects.positions(visit.mjd)
    rate, position_angle = objects.rates(visit.mjd)
    mag = magnitudes(objects, visit.band, visit.mjd)
    values = {
        "object_id": objects.object_id,
        "visit": np.full(len(objects), visit.id),
        "detector": np.full(len(objects), detector),
        "band": np.full(len(objects), BANDS.index(visit.band)),
        "mjd": np.full(len(objects), visit.mjd),
        "ra": ra,
        "dec": dec,
        "x": x,
        "y": y,
        "flux": ab_mag_to_njy(mag),
        "mag": mag,
        "rate": rate,
        "position_angle": position_angle,
    }
    return _to_table({name: value[inside] for name, value in values.items()})


def make_truth_table(parts: Iterable[Table]) -> Table:
    """Put the truth of the images together.

    Parameters
    ----------
    parts
        Truth of each image, in order.

    Returns
    -------
    table : `astropy.table.Table`
        Table with the columns of `SIMULATED_OBJECT_COLUMNS`, in order of
        object and time; without rows if there is none.
    """
    parts = list(parts)
    arrays = {
        column.name: np.concatenate([column.full(0), *(np.asarray(part[column.name]) for part in parts)])
        for column in SIMULATED_OBJECT_COLUMNS
    }
    order = np.lexsort((arrays["detector"], arrays["mjd"], arrays["object_id"]))
    return _to_table({name: array[order] for name, array in arrays.items()})


def _to_table(values: dict[str, np.ndarray]) -> Table:
    return Table(
        [
            Column(
                values[column.name] if column.dtype == "U" else values[column.name].astype(column.dtype),
                name=column.name,
                unit=column.unit,
                description=column.doc,
            )
            for column in SIMULATED_OBJECT_COLUMNS
        ]
    )


def read_objects(path: str, colours: Mapping[str, float]) -> StraightTrajectories:
    """Read moving objects from a file.

    Parameters
    ----------
    path
        Path of a table with the columns of `FILE_COLUMNS`.
    colours
        Their AB magnitude in each band less that in r, mag.

    Raises
    ------
    ValueError
        Raised if the file cannot be read, lacks a column or has values that
        are not finite.
    """
    try:
        table = Table.read(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"object_file={path!r} cannot be read as a table: {error}") from error
    if missing := [name for name in FILE_COLUMNS if name not in table.colnames]:
        raise ValueError(f"object_file={path!r} lacks the columns {missing}; it needs {list(FILE_COLUMNS)}.")
    arrays = {name: np.asarray(table[name], dtype=float) for name in FILE_COLUMNS[1:]}
    if bad := [name for name, array in arrays.items() if not np.all(np.isfinite(array))]:
        raise ValueError(f"object_file={path!r} has values that are not finite in the columns {bad}.")
    return StraightTrajectories(
        object_id=np.asarray(table["object_id"], dtype=str), colours=colours, **arrays
    )
