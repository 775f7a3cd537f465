# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Populations of objects that move on the orbits of a catalog."""

from __future__ import annotations

__all__ = (
    "OrbitPopulationConfig",
    "OrbitPopulationTask",
    "SurveyPopulationConfig",
    "SurveyPopulationTask",
)

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from lsst.pex.config import ChoiceField, Field, RangeField, registerConfigurable

from ._integration import SPEED_OF_LIGHT
from ._moving_objects import MovingObjects
from ._placement import place_in_view, sky_direction
from ._sequences import ImageSequences
from .ephemerides import Ephemerides, InitialStates, ObserverStates, observe, observer_states
from .geometry import gnomonic, inverse_gnomonic, polar_rate
from .orbit_states import OrbitStates
from .photometry import V_MINUS_R
from .populations import (
    DrawnPopulationConfig,
    DrawnPopulationTask,
    PopulationConfig,
    PopulationTask,
    population_registry,
)
from .positions import SPLITS, split_of_orbits

TRIES_AT_ONCE = 8
"""Objects that are followed together while one that fits is looked for."""

ORBITS_AT_ONCE = 64
"""Objects of a survey whose places are in memory at a time."""

N_CHECKED = 16
"""Orbits, and short sequences, among which one must fit."""

N_SCALES = 32
"""Distances that each of these orbits is tried at."""


class OrbitPopulationConfig(DrawnPopulationConfig):
    """Configuration for objects on orbits like those of a catalog."""

    distance_scale_min = RangeField(
        doc="Smallest factor on an object's distance from the barycentre.",
        dtype=float,
        default=1.0,
        min=0.0,
        inclusiveMin=False,
    )
    distance_scale_max = RangeField(
        doc="Largest factor on an object's distance from the barycentre; uniform in its logarithm.",
        dtype=float,
        default=10.0,
        min=0.0,
        inclusiveMin=False,
    )
    brightness = ChoiceField[str](
        doc="What the brightness is drawn in, or that it is the object's own.",
        allowed={
            "snr": "S/N of the whole sequence, between snr_min and snr_max.",
            "mag": "Magnitude in the reference band, uniform between mag_min and mag_max.",
            "absolute": "The catalog's absolute magnitude, at the distance that the object is put to.",
        },
        default="snr",
    )
    v_minus_r = Field[float](doc="V of the catalog less AB magnitude in r, mag.", default=V_MINUS_R)

    ranges: ClassVar[tuple[str, ...]] = ("distance_scale", *DrawnPopulationConfig.ranges)


@registerConfigurable("orbits", population_registry)
class OrbitPopulationTask(DrawnPopulationTask):
    """Objects that move as those of an orbit catalog do, near and far.

    An object of the catalog, its orbit enlarged by a factor, is turned about
    the barycentre to where it is seen in the window of a random image. From
    there it moves in the field of the Sun and the planets. Objects that do not
    stay inside for long enough are drawn again, brightness excepted.

    The orbits of a sequence's objects are of the same split as the sequence,
    by a hash of their names.
    """

    ConfigClass: ClassVar = OrbitPopulationConfig
    _DefaultName: ClassVar[str] = "orbitPopulation"
    needs_orbits: ClassVar[bool] = True

    config: OrbitPopulationConfig

    def check(self, sequences: ImageSequences, orbits: OrbitStates | None) -> None:
        # Docstring inherited.
        orbits = self._usable_orbits(orbits)
        _check_times(sequences, orbits)
        splits = split_of_orbits(orbits.name)
        for split in np.setdiff1d(sequences.split, splits):
            self.log.warning(
                "None of the %d orbits is for sequences of the %s split, which get no objects: use a catalog "
                "with more orbits.",
                len(orbits),
                SPLITS[split],
            )
        self._check_reach(sequences, orbits)

    def draw(
        self,
        sequences: ImageSequences,
        index: np.ndarray,
        rngs: Sequence[np.random.Generator],
        orbits: OrbitStates | None,
    ) -> MovingObjects:
        # Docstring inherited.
        orbits = self._usable_orbits(orbits)
        split_of_orbit = split_of_orbits(orbits.name)
        rows_of_split = [np.flatnonzero(split_of_orbit == split) for split in range(len(SPLITS))]
        objects = MovingObjects.full(len(index), sequences.n_times)
        colour = self.relative_flux(sequences.band[index])
        observers = _observers(sequences, index)
        for i, (row, rng) in enumerate(zip(index.tolist(), rngs, strict=True)):
            self.draw_brightness(objects, i, rng)
            rows = rows_of_split[sequences.split[row]]
            if len(rows) and sequences.valid[row].any():
                self._draw_object(objects, i, sequences, row, orbits, rows, observers[i], rng)
        objects.relative_flux *= colour
        return objects

    def _usable_orbits(self, orbits: OrbitStates | None) -> OrbitStates:
        """Return the orbits of objects that have a brightness."""
        if orbits is None:
            raise ValueError("The population needs the ephemerides of an orbit catalog.")
        if self.config.brightness != "absolute":
            return orbits
        return _with_magnitudes(orbits)

    def _draw_object(
        self,
        objects: MovingObjects,
        i: int,
        sequences: ImageSequences,
        row: int,
        orbits: OrbitStates,
        rows: np.ndarray,
        observer: ObserverStates,
        rng: np.random.Generator,
    ) -> None:
        """Draw objects until one stays inside, and write it."""
        n_valid = len(observer.mjd_tdb) - 1
        centre = sequences.centre_ra[row, :n_valid], sequences.centre_dec[row, :n_valid]
        for n_tried in range(0, self.config.max_tries, TRIES_AT_ONCE):
            chosen = rng.choice(rows, TRIES_AT_ONCE)
            low, high = self.config.distance_scale_min, self.config.distance_scale_max
            scale = np.exp(rng.uniform(np.log(low), np.log(high), TRIES_AT_ONCE))
            image = rng.integers(n_valid, size=TRIES_AT_ONCE)
            point = rng.uniform(-self.half_size, self.half_size, size=(2, TRIES_AT_ONCE))
            ra, dec = inverse_gnomonic(point[0], point[1], centre[0][image], centre[1][image])
            seen = observe(
                _placed_states(orbits, chosen, scale, ra, dec, observer.select(image)), observer, n_threads=1
            )
            n_inside = self.is_inside(seen.ra[:, :n_valid], seen.dec[:, :n_valid], *centre).sum(axis=1)
            fits = np.flatnonzero(n_inside >= self.required_times(sequences, row))
            fits = fits[fits < self.config.max_tries - n_tried]
            if len(fits):
                _store(objects, i, seen, fits[0], orbits.name[chosen[fits[0]]])
                objects.distance_scale[i] = scale[fits[0]]
                if self.config.brightness == "absolute":
                    objects.mag[i] = _reference_mag(self.config, seen.mag[fits[0], -1])
                return

    def _check_reach(self, sequences: ImageSequences, orbits: OrbitStates) -> None:
        """Raise if none of some objects, the most distant as far away as they
        may be put first, stays inside of one of the shortest sequences.
        """
        rows = np.flatnonzero(sequences.valid.any(axis=1))
        if len(rows) == 0:
            return
        spans = [self.shortest_span(sequences, row) for row in rows.tolist()]
        rows = rows[np.argsort(spans, kind="stable")[:N_CHECKED]]
        observers = _observers(sequences, rows)
        shortest, distance = np.inf, 0.0
        for chosen, scale in self._examples(orbits):
            for row, observer in zip(rows.tolist(), observers, strict=True):
                seen, path = _paths(sequences, row, orbits, chosen, scale, observer)
                required = self.required_times(sequences, row)
                if np.any(_most_inside(path, 2 * self.half_size) >= required):
                    return
                shortest = min(shortest, np.nanmin(_smallest_extent(path, required), initial=np.inf))
                distance = np.nanmax(seen.topocentric_distance, initial=distance)
        raise ValueError(
            f"None of the {len(orbits)} objects can stay inside of window_size={self.config.window_size} "
            f"arcsec, less edge_margin={self.config.edge_margin} arcsec at each edge, for min_times_inside="
            f"{self.config.min_times_inside} images: even at {distance:.4g} au, where distance_scale_max="
            f"{self.config.distance_scale_max} puts the farthest, they move by at least {shortest:.4g} "
            "arcsec. Raise distance_scale_max, enlarge the window or use sequences that are shorter in time."
        )

    def _examples(self, orbits: OrbitStates) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield objects and factors on their distances: the farthest at the
        most, which are slow everywhere, and then all kinds, some of which the
        Earth's motion and their own let stand still.
        """
        outwards = np.argsort(-np.linalg.norm(orbits.position[:, 0], axis=1), kind="stable")
        far = outwards[:N_CHECKED]
        yield far, np.full(len(far), self.config.distance_scale_max)
        spread = outwards[np.linspace(0, len(outwards) - 1, len(far)).astype(int)]
        scales = np.geomspace(self.config.distance_scale_min, self.config.distance_scale_max, N_SCALES)
        yield np.repeat(spread, N_SCALES), np.tile(scales, len(spread))


class SurveyPopulationConfig(PopulationConfig):
    """Configuration for the objects of a catalog where they are."""

    v_minus_r = Field[float](doc="V of the catalog less AB magnitude in r, mag.", default=V_MINUS_R)
    faintest_mag = Field[float](
        doc="Magnitude in the reference band beyond which objects are not injected, AB.", default=30.0
    )

    def setDefaults(self) -> None:
        # Docstring inherited.
        super().setDefaults()
        self.min_times_inside = 1
        self.edge_margin = 0.0


@registerConfigurable("survey", population_registry)
class SurveyPopulationTask(PopulationTask):
    """The objects of an orbit catalog at their true places on the sky, in all
    sequences that they cross, as bright as their absolute magnitudes say.

    A sequence gets one object: if several cross it, the one that is inside
    for longest, and of those the brightest.
    """

    ConfigClass: ClassVar = SurveyPopulationConfig
    _DefaultName: ClassVar[str] = "surveyPopulation"
    needs_orbits: ClassVar[bool] = True
    is_survey: ClassVar[bool] = True

    config: SurveyPopulationConfig

    def check(self, sequences: ImageSequences, orbits: OrbitStates | None) -> None:
        # Docstring inherited.
        if orbits is None:
            raise ValueError("The population needs the ephemerides of an orbit catalog.")
        _check_times(sequences, orbits)
        n_left_out = len(orbits) - len(_with_magnitudes(orbits))
        self.metadata["n_without_magnitude"] = n_left_out
        if n_left_out:
            self.log.warning("Left out %d objects of the catalog that have no magnitude.", n_left_out)

    def draw(
        self,
        sequences: ImageSequences,
        index: np.ndarray,
        rngs: Sequence[np.random.Generator],
        orbits: OrbitStates | None,
    ) -> MovingObjects:
        # Docstring inherited.
        if orbits is None:
            raise ValueError("The population needs the ephemerides of an orbit catalog.")
        orbits = _with_magnitudes(orbits)
        objects = MovingObjects.full(len(index), sequences.n_times)
        chosen = self._choose_objects(sequences, index, orbits)
        for i, observer in enumerate(_observers(sequences, index)):
            if chosen[i] >= 0:
                seen = orbits.observe(chosen[i : i + 1], observer)
                name = orbits.name[chosen[i]]
                _store(objects, i, seen, 0, name)
                objects.distance_scale[i] = 1.0
                objects.mag[i] = _reference_mag(self.config, seen.mag[0, -1])
                objects.object_id[i] = name
        objects.relative_flux *= self.relative_flux(sequences.band[index])
        return objects

    def _choose_objects(
        self, sequences: ImageSequences, index: np.ndarray, orbits: OrbitStates
    ) -> np.ndarray:
        """Return the row of each sequence's object, or -1, ``(n,)``."""
        valid = sequences.valid[index]
        mjd, image = np.unique(sequences.mjd[index][valid], return_inverse=True)
        times = np.zeros(valid.shape, dtype=int)
        times[valid] = image
        observer = observer_states(mjd)
        chosen, n_images, mags = np.full(len(index), -1), np.zeros(len(index)), np.full(len(index), np.inf)
        n_crossings = 0
        if not np.any(valid):
            return chosen
        for begin in range(0, len(orbits), ORBITS_AT_ONCE):
            rows = np.arange(begin, min(begin + ORBITS_AT_ONCE, len(orbits)))
            seen = orbits.observe(rows, observer)
            for near in np.flatnonzero(_comes_near(sequences, index, seen, self.config.window_size)):
                n_inside, mag = self._crossings(sequences, index, times, seen, near)
                better = (n_inside > n_images) | ((n_inside == n_images) & (n_inside > 0) & (mag < mags))
                chosen[better], n_images[better], mags[better] = rows[near], n_inside[better], mag[better]
                n_crossings += int(np.sum(n_inside > 0))
        self._count(n_crossings, int(np.sum(chosen >= 0)))
        return chosen

    def _crossings(
        self, sequences: ImageSequences, index: np.ndarray, times: np.ndarray, seen: Ephemerides, row: np.intp
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return in how many images of each sequence an object is inside, 0 if
        they are too few, and its magnitude, ``(n,)``.
        """
        valid = sequences.valid[index]
        ra, dec = seen.ra[row][times], seen.dec[row][times]
        inside = valid & self.is_inside(ra, dec, sequences.centre_ra[index], sequences.centre_dec[index])
        n_inside = inside.sum(axis=1)
        required = np.minimum(self.config.min_times_inside, valid.sum(axis=1))
        mag = _reference_mag(self.config, seen.mag[row][times[:, 0]])
        return np.where((n_inside >= required) & (mag <= self.config.faintest_mag), n_inside, 0), mag

    def _count(self, n_crossings: int, n_crossed: int) -> None:
        self.metadata["n_crossings"] = n_crossings
        self.metadata["n_crowded_out"] = n_crossings - n_crossed
        self.log.info("Objects cross %d image sequences.", n_crossed)
        if n_crossings > n_crossed:
            self.log.warning(
                "%d crossings are not injected, for another object crosses the same image sequence.",
                n_crossings - n_crossed,
            )


def _reference_mag(config: OrbitPopulationConfig | SurveyPopulationConfig, visual: np.ndarray) -> np.ndarray:
    """Return magnitudes in the reference band."""
    return visual - config.v_minus_r + config.colours[config.reference_band]


def _with_magnitudes(orbits: OrbitStates) -> OrbitStates:
    """Return the orbits of the objects that have an absolute magnitude."""
    known = ~np.isnan(orbits.H) | ~np.isnan(orbits.M1 + orbits.K1)
    if not np.any(known):
        raise ValueError(
            f"None of the {len(orbits)} objects of the catalog has an absolute magnitude (H, or M1 and K1)."
        )
    return orbits.select(known)


def _check_times(sequences: ImageSequences, orbits: OrbitStates) -> None:
    """Raise if a visit, or what is seen in it, is not in the time of the
    states.
    """
    mjd = np.where(sequences.valid, sequences.mjd, np.nan)
    if not np.any(sequences.valid):
        return
    # What is far is seen as it was days ago.
    farthest = np.nanmax(np.linalg.norm(orbits.position, axis=2))
    begin, end = orbits.mjd[0, 0] + (farthest + 2.0) / SPEED_OF_LIGHT, orbits.mjd[0, -1]
    for extreme in (np.nanargmin(mjd), np.nanargmax(mjd)):
        # TAI and TDB differ by half a minute.
        if not begin + 1e-3 <= mjd.flat[extreme] <= end - 1e-3:
            raise ValueError(
                f"Visit {sequences.visit.flat[extreme]} of MJD {mjd.flat[extreme]:.3f} is outside of the "
                f"ephemerides, which hold for visits from MJD {begin:.3f} to {end:.3f}. Compute them for all "
                "visits: mjd_begin and mjd_end of computeEphemerides."
            )


def _observers(sequences: ImageSequences, index: np.ndarray) -> list[ObserverStates]:
    """Return where the observer is at the valid images of each sequence, and
    last at the mean of their times.
    """
    times = [
        np.append(sequences.mjd[row][sequences.valid[row]], mean)
        for row, mean in zip(index, sequences.mean_mjd[index], strict=True)
    ]
    # Sequences without images have no mean either.
    times = [mjd[np.isfinite(mjd)] for mjd in times]
    unique, inverse = np.unique(np.concatenate([np.empty(0), *times]), return_inverse=True)
    observer = observer_states(unique)
    ends = np.cumsum([len(mjd) for mjd in times])
    return [observer.select(inverse[end - len(mjd) : end]) for mjd, end in zip(times, ends, strict=True)]


def _placed_states(
    orbits: OrbitStates,
    rows: np.ndarray,
    scale: np.ndarray,
    ra: np.ndarray,
    dec: np.ndarray,
    observer: ObserverStates,
) -> InitialStates:
    """Return objects that are seen at given places when the observer is where
    it is, one for each.
    """
    states = place_in_view(orbits.initial_states(rows, observer.mjd_tdb), scale, ra, dec, observer)
    # Any will do for how the brightness changes.
    unknown = np.isnan(states.magnitudes[:, 0]) & np.isnan(states.magnitudes[:, 2:].sum(axis=1))
    states.magnitudes[unknown, 0] = 0.0
    return states


def _store(objects: MovingObjects, i: int, seen: Ephemerides, row: int, name: str) -> None:
    """Write what is seen of an object in the images of a sequence, and last
    at their mean time.
    """
    n_valid = seen.ra.shape[1] - 1
    objects.ra[i, :n_valid], objects.dec[i, :n_valid] = seen.ra[row, :n_valid], seen.dec[row, :n_valid]
    objects.relative_flux[i, :n_valid] = 10.0 ** (-0.4 * (seen.mag[row, :n_valid] - seen.mag[row, -1]))
    objects.rate[i], objects.position_angle[i] = polar_rate(
        seen.rate_ra_cosdec[row, -1], seen.rate_dec[row, -1]
    )
    objects.distance[i] = seen.topocentric_distance[row, -1]
    objects.source_orbit[i] = name
    objects.drawn[i] = True


def _paths(
    sequences: ImageSequences,
    row: int,
    orbits: OrbitStates,
    chosen: np.ndarray,
    scale: np.ndarray,
    observer: ObserverStates,
) -> tuple[Ephemerides, np.ndarray]:
    """Return what is seen of objects that are in the middle of a sequence's
    window in its middle image, and their paths through the window
    ``(2, n, n_times)``, arcsec.
    """
    n_valid = len(observer.mjd_tdb) - 1
    centre = sequences.centre_ra[row, :n_valid], sequences.centre_dec[row, :n_valid]
    middle = np.full(len(chosen), n_valid // 2)
    target = centre[0][middle], centre[1][middle]
    states = _placed_states(orbits, chosen, scale, *target, observer.select(middle))
    seen = observe(states, observer, n_threads=1)
    return seen, np.array(gnomonic(seen.ra[:, :n_valid], seen.dec[:, :n_valid], *centre))


def _most_inside(path: np.ndarray, size: float) -> np.ndarray:
    """Return how many points of paths ``(2, n, n_times)`` the best of all
    boxes of a size holds, ``(n,)``.
    """
    # Of each box that has a point on its left edge, and one on its lower.
    offset = path[:, :, np.newaxis, :] - path[:, :, :, np.newaxis]
    x, y = ((offset >= 0) & (offset <= size)).astype(np.float32)
    return (x @ np.swapaxes(y, 1, 2)).max(axis=(1, 2))


def _smallest_extent(path: np.ndarray, required: int) -> np.ndarray:
    """Return the smallest size of a box about so many consecutive points of
    paths ``(2, n, n_times)``, ``(n,)``.
    """
    windows = np.lib.stride_tricks.sliding_window_view(path, required, axis=2)
    return np.ptp(windows, axis=3).max(axis=0).min(axis=1)


def _comes_near(
    sequences: ImageSequences, index: np.ndarray, seen: Ephemerides, window_size: float
) -> np.ndarray:
    """Return whether objects come near to any of the sequences, ``(n,)``."""
    centre_ra, centre_dec = (getattr(sequences, name)[index] for name in ("centre_ra", "centre_dec"))
    centres = sky_direction(centre_ra, centre_dec)[sequences.valid[index]]
    middle = centres.mean(axis=0)
    middle /= np.linalg.norm(middle)
    radius = np.arccos(np.clip(centres @ middle, -1.0, 1.0)).max() + np.radians(2 * window_size / 3600.0)
    return np.any(sky_direction(seen.ra, seen.dec) @ middle >= np.cos(radius), axis=1)
