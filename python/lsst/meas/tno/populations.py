# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Populations of objects to inject."""

from __future__ import annotations

__all__ = (
    "DrawnPopulationConfig",
    "DrawnPopulationTask",
    "LinearPopulationConfig",
    "LinearPopulationTask",
    "PopulationConfig",
    "PopulationTask",
    "population_registry",
)

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lsst.pex.config import (
    ChoiceField,
    Config,
    DictField,
    Field,
    FieldValidationError,
    RangeField,
    makeRegistry,
    registerConfigurable,
)
from lsst.pipe.base import Task

from ._moving_objects import MovingObjects
from ._sequences import BANDS, ImageSequences
from .geometry import gnomonic, inverse_gnomonic
from .orbit_states import OrbitStates
from .photometry import TNO_COLOURS


class PopulationConfig(Config):
    """Configuration that populations have in common."""

    reference_band = ChoiceField[str](
        doc="Band of the magnitudes that are drawn, and of the mag column.",
        allowed={band: f"The {band} band." for band in BANDS},
        default="r",
    )
    colours = DictField[str, float](
        doc="AB magnitude in each band less that in r, mag.",
        default=dict(TNO_COLOURS),
    )
    window_size = RangeField(
        doc="Size of the square window about each image's centre that is searched, arcsec.",
        dtype=float,
        default=3.0,
        min=0.0,
        inclusiveMin=False,
    )
    edge_margin = RangeField(
        doc="Distance from the window's edge to which an object counts as inside, arcsec.",
        dtype=float,
        default=0.4,
        min=0.0,
    )
    min_times_inside = RangeField(
        doc="Images that an object is inside the window of; all of them, where a sequence has fewer.",
        dtype=int,
        default=50,
        min=1,
    )

    def validate(self) -> None:
        super().validate()
        if missing := sorted(set(BANDS) - set(self.colours)):
            raise FieldValidationError(
                type(self).colours, self, f"colours has no value for the bands {missing}."
            )
        if 2 * self.edge_margin >= self.window_size:
            raise FieldValidationError(
                type(self).edge_margin,
                self,
                f"edge_margin={self.edge_margin} leaves nothing of window_size={self.window_size} arcsec.",
            )


class PopulationTask(Task):
    """Base of the tasks that draw objects to inject."""

    ConfigClass: ClassVar = PopulationConfig
    _DefaultName: ClassVar[str] = "population"

    needs_orbits: ClassVar[bool] = False
    """Whether the objects move on the orbits of a catalog (`bool`)."""

    is_survey: ClassVar[bool] = False
    """Whether objects have places of their own, and get into all sequences
    that they cross (`bool`).
    """

    config: PopulationConfig

    def check(self, sequences: ImageSequences, orbits: OrbitStates | None) -> None:
        """Check that objects can be inside for as long as they must.

        Parameters
        ----------
        sequences
            Sequences that objects are to be drawn for.
        orbits
            The catalog, if `needs_orbits`.

        Raises
        ------
        ValueError
            Raised if there is no sequence that any object can be drawn for.
        """

    def draw(
        self,
        sequences: ImageSequences,
        index: np.ndarray,
        rngs: Sequence[np.random.Generator],
        orbits: OrbitStates | None,
    ) -> MovingObjects:
        """Draw one object for each of some sequences.

        Parameters
        ----------
        sequences
            Image sequences.
        index
            Rows to draw objects for, ``(n,)``.
        rngs
            One generator for each of these rows: what is drawn for a row must
            not depend on other rows.
        orbits
            The catalog, if `needs_orbits`.

        Returns
        -------
        objects : `MovingObjects`
            Objects, ``n`` rows. Where none was found that is inside in
            enough images, ``drawn`` is False.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement draw.")

    def relative_flux(self, band: np.ndarray) -> np.ndarray:
        """Return the flux in a band over that in the reference band.

        Parameters
        ----------
        band
            Index of the band in `BANDS`; 255 where there is no image.

        Returns
        -------
        relative_flux : `numpy.ndarray`
            Ratio of the fluxes; NaN where there is no image.
        """
        by_band = np.full(256, np.nan)
        reference = self.config.colours[self.config.reference_band]
        by_band[: len(BANDS)] = [10.0 ** (-0.4 * (self.config.colours[name] - reference)) for name in BANDS]
        return by_band[band]

    def required_times(self, sequences: ImageSequences, row: int) -> int:
        """Return in how many images of a sequence an object must be inside.

        Parameters
        ----------
        sequences
            Image sequences.
        row
            Row of the sequence.
        """
        return min(self.config.min_times_inside, int(sequences.valid[row].sum()))

    def shortest_span(self, sequences: ImageSequences, row: int) -> float:
        """Return the shortest time that the required number of images takes.

        Parameters
        ----------
        sequences
            Image sequences.
        row
            Row of a sequence that has images.

        Returns
        -------
        span : `float`
            Time, hours; 0 if a window that moves makes it no limit.
        """
        n_valid = int(sequences.valid[row].sum())
        centre = sequences.centre_ra[row, :n_valid], sequences.centre_dec[row, :n_valid]
        if np.ptp(centre[0]) > 0 or np.ptp(centre[1]) > 0:
            return 0.0
        required = self.required_times(sequences, row)
        mjd = sequences.mjd[row, :n_valid]
        return float(np.min(mjd[required - 1 :] - mjd[: n_valid - required + 1]) * 24.0)

    def is_inside(
        self, ra: np.ndarray, dec: np.ndarray, centre_ra: np.ndarray, centre_dec: np.ndarray
    ) -> np.ndarray:
        """Return whether positions are inside the window of an image.

        Parameters
        ----------
        ra, dec
            Positions, deg.
        centre_ra, centre_dec
            Positions that the images are centred on, deg.

        Returns
        -------
        inside : `numpy.ndarray` of `bool`
            Whether a position is in the window, and no nearer to its edge
            than ``edge_margin``.
        """
        xi, eta = gnomonic(ra, dec, centre_ra, centre_dec)
        return np.maximum(np.abs(xi), np.abs(eta)) <= self.half_size

    @property
    def half_size(self) -> float:
        """Half the size of the window less its margin (`float`, arcsec)."""
        return self.config.window_size / 2 - self.config.edge_margin


population_registry = makeRegistry("Populations of objects to inject.", PopulationConfig)
"""Registry of populations, subclasses of `PopulationTask`."""


class DrawnPopulationConfig(PopulationConfig):
    """Configuration for objects whose brightness is drawn."""

    brightness = ChoiceField[str](
        doc="What the brightness is drawn in.",
        allowed={
            "snr": "S/N of the whole sequence, between snr_min and snr_max.",
            "mag": "Magnitude in the reference band, uniform between mag_min and mag_max.",
        },
        default="snr",
    )
    snr_min = RangeField(doc="Lowest S/N.", dtype=float, default=3.0, min=0.0, inclusiveMin=False)
    snr_max = RangeField(
        doc="Highest S/N. In visit images a classifier that saw no bright objects takes them for stars.",
        dtype=float,
        default=60.0,
        min=0.0,
        inclusiveMin=False,
    )
    snr_distribution = ChoiceField[str](
        doc="Distribution of the S/N.",
        allowed={"uniform": "Uniform in the S/N.", "log_uniform": "Uniform in its logarithm."},
        default="log_uniform",
    )
    mag_min = Field[float](doc="Brightest magnitude, AB.", default=23.0)
    mag_max = Field[float](doc="Faintest magnitude, AB.", default=27.0)
    max_tries = RangeField(
        doc="Tracks tried for an object before its sequence is left without one.",
        dtype=int,
        default=100,
        min=1,
    )

    ranges: ClassVar[tuple[str, ...]] = ("snr", "mag")
    """Names of pairs of fields with ``_min`` and ``_max``."""

    def validate(self) -> None:
        super().validate()
        for name in self.ranges:
            low, high = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
            if low > high:
                raise FieldValidationError(
                    getattr(type(self), f"{name}_min"), self, f"{name}_min={low} is above {name}_max={high}."
                )


class DrawnPopulationTask(PopulationTask):
    """Base of the tasks that draw the brightness of objects."""

    ConfigClass: ClassVar = DrawnPopulationConfig
    _DefaultName: ClassVar[str] = "drawnPopulation"

    config: DrawnPopulationConfig

    def draw_brightness(self, objects: MovingObjects, row: int, rng: np.random.Generator) -> None:
        """Draw the magnitude or the S/N of an object.

        Parameters
        ----------
        objects
            Objects to write it to.
        row
            Row of the object.
        rng
            Source of randomness.
        """
        if self.config.brightness == "snr":
            objects.target_snr[row] = _draw(
                rng, self.config.snr_distribution, self.config.snr_min, self.config.snr_max
            )
        elif self.config.brightness == "mag":
            objects.mag[row] = rng.uniform(self.config.mag_min, self.config.mag_max)


class LinearPopulationConfig(DrawnPopulationConfig):
    """Configuration for objects on straight lines."""

    rate_min = RangeField(doc="Lowest rate of motion, arcsec/hour.", dtype=float, default=0.5, min=0.0)
    rate_max = RangeField(doc="Highest rate of motion, arcsec/hour.", dtype=float, default=2.5, min=0.0)
    rate_distribution = ChoiceField[str](
        doc="Distribution of the rate.",
        allowed={"uniform": "Uniform in the rate.", "log_uniform": "Uniform in its logarithm."},
        default="uniform",
    )
    position_angle_min = Field[float](doc="Lowest position angle, deg east of north.", default=0.0)
    position_angle_max = Field[float](doc="Highest position angle, deg east of north.", default=360.0)

    ranges: ClassVar[tuple[str, ...]] = ("rate", "position_angle", *DrawnPopulationConfig.ranges)

    def validate(self) -> None:
        super().validate()
        if self.rate_distribution == "log_uniform" and self.rate_min <= 0:
            raise FieldValidationError(
                type(self).rate_min, self, "rate_min must be above 0 for rate_distribution='log_uniform'."
            )


@registerConfigurable("linear", population_registry)
class LinearPopulationTask(DrawnPopulationTask):
    """Objects that move on straight lines at constant rates.

    The lines are on the tangent plane about the sequence's position, each
    through a random point of the window of a random valid image, at that
    image's time. Where the object is inside too few images, another point and
    image are drawn; rate, position angle and brightness are kept, so that the
    geometry favours slow objects no more than it must.
    """

    ConfigClass: ClassVar = LinearPopulationConfig
    _DefaultName: ClassVar[str] = "linearPopulation"

    config: LinearPopulationConfig

    def check(self, sequences: ImageSequences, orbits: OrbitStates | None) -> None:
        # Docstring inherited.
        rows = np.flatnonzero(sequences.valid.any(axis=1))
        spans = [self.shortest_span(sequences, row) for row in rows.tolist()]
        longest = self._longest_path()
        if not spans or min(spans) * self.config.rate_min <= longest:
            return
        raise ValueError(
            f"No object of rate_min={self.config.rate_min} to rate_max={self.config.rate_max} arcsec/hour "
            f"can stay inside of window_size={self.config.window_size} arcsec, less "
            f"edge_margin={self.config.edge_margin} arcsec at each edge, for "
            f"min_times_inside={self.config.min_times_inside} images: they span at least "
            f"{min(spans):.6g} hours, in which the slowest moves {min(spans) * self.config.rate_min:.6g} "
            f"arcsec, and the longest path is {longest:.6g} arcsec. Lower the rates, enlarge the window or "
            "use sequences that are shorter in time."
        )

    def draw(
        self,
        sequences: ImageSequences,
        index: np.ndarray,
        rngs: Sequence[np.random.Generator],
        orbits: OrbitStates | None,
    ) -> MovingObjects:
        # Docstring inherited.
        objects = MovingObjects.full(len(index), sequences.n_times)
        objects.relative_flux[:] = self.relative_flux(sequences.band[index])
        for i, (row, rng) in enumerate(zip(index, rngs, strict=True)):
            objects.rate[i] = _draw(
                rng, self.config.rate_distribution, self.config.rate_min, self.config.rate_max
            )
            angle = rng.uniform(self.config.position_angle_min, self.config.position_angle_max)
            objects.position_angle[i] = np.mod(angle, 360.0)
            self.draw_brightness(objects, i, rng)
            track = self._draw_track(sequences, row, objects.rate[i], angle, rng)
            if track is not None:
                images = slice(0, len(track[0]))
                objects.ra[i, images], objects.dec[i, images] = track
                objects.drawn[i] = True
        return objects

    def _draw_track(
        self, sequences: ImageSequences, row: int, rate: float, angle: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return positions at the valid images, or `None` if no try fits."""
        n_valid = int(sequences.valid[row].sum())
        if n_valid == 0:
            return None
        position = sequences.ra[row], sequences.dec[row]
        centre = sequences.centre_ra[row, :n_valid], sequences.centre_dec[row, :n_valid]
        hours = sequences.mjd[row, :n_valid] * 24.0
        start = rng.integers(n_valid, size=self.config.max_tries)
        point = rng.uniform(-self.half_size, self.half_size, size=(2, self.config.max_tries))
        xi, eta = point + np.array(gnomonic(*centre, *position))[:, start]
        elapsed = hours - hours[start, np.newaxis]
        east, north = np.sin(np.radians(angle)), np.cos(np.radians(angle))
        ra, dec = inverse_gnomonic(
            xi[:, np.newaxis] + rate * east * elapsed, eta[:, np.newaxis] + rate * north * elapsed, *position
        )
        n_inside = self.is_inside(ra, dec, *centre).sum(axis=1)
        fits = np.flatnonzero(n_inside >= self.required_times(sequences, row))
        return (ra[fits[0]], dec[fits[0]]) if len(fits) else None

    def _longest_path(self) -> float:
        """Return the longest straight line inside a window, arcsec."""
        low, high = np.radians([self.config.position_angle_min, self.config.position_angle_max])
        # The longest is at an end of the range, or a diagonal.
        diagonals = np.pi / 4 + np.pi / 2 * np.arange(np.floor(low / (np.pi / 2)), high / (np.pi / 2))
        angles = np.array([low, high, *diagonals[(diagonals >= low) & (diagonals <= high)]])
        slant = np.maximum(np.abs(np.sin(angles)), np.abs(np.cos(angles)))
        return float(2 * self.half_size / slant.min())


def _draw(rng: np.random.Generator, distribution: str, low: float, high: float) -> float:
    """Draw a value between two others from a named distribution."""
    if distribution == "uniform":
        return rng.uniform(low, high)
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
