# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is seen of objects that move: compiled functions, one object each."""

from __future__ import annotations

__all__ = ("DEFAULT_SLOPE", "bowell_magnitude", "follow_orbit", "observe_orbit", "view_states")

import numpy as np

from ._integration import SPEED_OF_LIGHT, evaluate, integrate, locate
from ._kernels import jit
from ._planets import bodies_at
from .geometry import ARCSEC

DEFAULT_SLOPE = 0.15
"""Slope parameter G of asteroids for which none is known."""


@jit
def bowell_magnitude(absolute, slope, heliocentric, topocentric, phase):  # type: ignore[no-untyped-def]
    """Return apparent magnitudes in the H, G system.

    Parameters
    ----------
    absolute, slope
        H and G.
    heliocentric, topocentric
        Distances, au.
    phase
        Phase angles, radians.
    """
    tangent = np.tan(0.5 * phase)
    bright = np.exp(-3.33 * tangent**0.63)
    dark = np.exp(-1.87 * tangent**1.22)
    dimming = 2.5 * np.log10((1.0 - slope) * bright + slope * dark)
    return absolute + 5.0 * np.log10(heliocentric * topocentric) - dimming


@jit
def _both_tracks(rule, planets, position, velocity, epoch, mjd_tdb, light_time):  # type: ignore[no-untyped-def]
    """Return the paths after and before the epoch that times are on."""
    after = integrate(rule, planets, position, velocity, epoch, max(epoch, mjd_tdb.max()))
    before = integrate(
        rule, planets, position, velocity, epoch, min(epoch, mjd_tdb.min() - light_time) - 1e-9
    )
    return after, before


@jit
def follow_orbit(rule, planets, position, velocity, epoch, mjd_tdb, out_position, out_velocity):  # type: ignore[no-untyped-def]
    """Write where an object is, and return whether it could be followed.

    Parameters
    ----------
    rule, planets
        As `integrate` takes them.
    position, velocity
        Barycentric ICRS state at the epoch, ``(3,)``, au and au/day.
    epoch
        TDB MJD.
    mjd_tdb
        TDB MJD of the states, ``(n,)``.
    out_position, out_velocity
        Arrays to write to, ``(n, 3)``.
    """
    after, before = _both_tracks(rule, planets, position, velocity, epoch, mjd_tdb, 0.0)
    if not (after.complete and before.complete):
        return False
    for time in range(len(mjd_tdb)):
        track = after if mjd_tdb[time] >= epoch else before
        step, x = locate(track, mjd_tdb[time])
        evaluate(track.position[step], x, out_position[time])
        evaluate(track.velocity[step], x, out_velocity[time])
    return True


@jit
def _longest_light_time(position, velocity, span):  # type: ignore[no-untyped-def]
    """Return an upper limit of the light time over a span of days. What
    gets faster than this speed is falling towards the Sun.
    """
    distance = np.sqrt(np.sum(position * position))
    speed = max(np.sqrt(np.sum(velocity * velocity)), 0.03)
    return (distance + speed * span + 2.0) / SPEED_OF_LIGHT


@jit
def observe_orbit(rule, planets, position, velocity, epoch, mjd_tdb, observer, moving, magnitudes, values):  # type: ignore[no-untyped-def]
    """Write what is seen of an object, and return whether it could be
    followed.

    Parameters
    ----------
    rule, planets
        As `integrate` takes them.
    position, velocity
        Barycentric ICRS state at the epoch, ``(3,)``, au and au/day.
    epoch
        TDB MJD.
    mjd_tdb
        TDB MJD of the observations, ``(n,)``.
    observer, moving
        Barycentric ICRS states of the observer, ``(n, 3)``, au and au/day.
    magnitudes
        H, G, M1 and K1, ``(4,)``.
    values
        Array to write the fields of `Ephemerides` to, ``(8, n)``.
    """
    span = max(epoch, mjd_tdb.max()) - min(epoch, mjd_tdb.min())
    light_time = _longest_light_time(position, velocity, span)
    after, before = _both_tracks(rule, planets, position, velocity, epoch, mjd_tdb, light_time)
    if not (after.complete and before.complete):
        return False
    r, v, ray = np.empty(3), np.empty(3), np.empty(3)
    sun = np.empty(3)
    light_time = 0.0
    for time in range(len(mjd_tdb)):
        # Each round leaves an error smaller by v/c, below 1e-3.
        for _ in range(4):
            mjd = mjd_tdb[time] - light_time
            track = after if mjd >= epoch else before
            step, x = locate(track, mjd)
            evaluate(track.position[step], x, r)
            square = 0.0
            for k in range(3):
                ray[k] = r[k] - observer[time, k]
                square += ray[k] * ray[k]
            distance = np.sqrt(square)
            found = distance / SPEED_OF_LIGHT
            change = abs(found - light_time)
            light_time = found
            if change < 1e-8:
                break
        evaluate(track.velocity[step], x, v)
        bodies_at(planets, mjd_tdb[time] - light_time, 3, sun)
        _store_view(ray, distance, v, moving[time], values[:4, time])
        _store_light(ray, distance, r, sun, magnitudes, values[4:, time])
    return True


@jit
def view_states(position, velocity, observer, moving, sun, magnitudes, values):  # type: ignore[no-untyped-def]
    """Write what is seen of objects that are where they were when the light
    left them.

    Parameters
    ----------
    position, velocity
        Barycentric ICRS states, ``(n_orbits, n, 3)``, au and au/day.
    observer, moving
        Barycentric ICRS states of the observer, ``(n, 3)``.
    sun
        Barycentric ICRS positions of the Sun, ``(n, 3)``, au.
    magnitudes
        H, G, M1 and K1, ``(n_orbits, 4)``.
    values
        Array to write the fields of `Ephemerides` to, ``(8, n_orbits, n)``.
    """
    ray = np.empty(3)
    for row in range(position.shape[0]):
        for time in range(position.shape[1]):
            square = 0.0
            for k in range(3):
                ray[k] = position[row, time, k] - observer[time, k]
                square += ray[k] * ray[k]
            distance = np.sqrt(square)
            _store_view(ray, distance, velocity[row, time], moving[time], values[:4, row, time])
            _store_light(
                ray, distance, position[row, time], sun[time], magnitudes[row], values[4:, row, time]
            )


@jit
def _store_view(ray, distance, velocity, observer_velocity, values):  # type: ignore[no-untyped-def]
    """Write RA, Dec, deg, and the rates, arcsec/hour."""
    x, y, z = ray[0] / distance, ray[1] / distance, ray[2] / distance
    across = np.sqrt(x * x + y * y)
    ra = np.degrees(np.arctan2(y, x)) % 360.0
    # The remainder of a tiny negative number is rounded up.
    values[0] = ra if ra < 360.0 else 0.0
    values[1] = np.degrees(np.arctan2(z, across))
    # What is seen slows down as the light time grows.
    away = x * velocity[0] + y * velocity[1] + z * velocity[2]
    nearing = x * observer_velocity[0] + y * observer_velocity[1] + z * observer_velocity[2]
    slowed = 1.0 - (away - nearing) / (SPEED_OF_LIGHT + away)
    u = velocity[0] * slowed - observer_velocity[0]
    v = velocity[1] * slowed - observer_velocity[1]
    w = velocity[2] * slowed - observer_velocity[2]
    to_rate = ARCSEC / 24.0 / distance
    values[2] = to_rate * (x * v - y * u) / across
    values[3] = to_rate * (w * across - z * (x * u + y * v) / across)


@jit
def _store_light(ray, distance, position, sun, magnitudes, values):  # type: ignore[no-untyped-def]
    """Write distances from the Sun and the observer, au, the phase angle,
    deg, and the magnitude.
    """
    square, product = 0.0, 0.0
    for k in range(3):
        square += (position[k] - sun[k]) ** 2
        product += (position[k] - sun[k]) * ray[k]
    heliocentric = np.sqrt(square)
    phase = np.arccos(min(max(product / (heliocentric * distance), -1.0), 1.0))
    absolute, slope, total, k1 = magnitudes
    if np.isnan(absolute):
        mag = total + 5.0 * np.log10(distance) + k1 * np.log10(heliocentric)
    else:
        slope = DEFAULT_SLOPE if np.isnan(slope) else slope
        mag = bowell_magnitude(absolute, slope, heliocentric, distance, phase)
    values[0], values[1], values[2], values[3] = heliocentric, distance, np.degrees(phase), mag
