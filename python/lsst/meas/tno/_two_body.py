# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Motion about one centre of mass, on orbits of any eccentricity.

Universal variables serve ellipses, parabolas and hyperbolas alike, and lose
no digits where the eccentricity is nearly 1 (Danby 1988, Fundamentals of
Celestial Mechanics, sections 6.9 and 6.10).
"""

from __future__ import annotations

__all__ = ("ECLIPTIC_TO_ICRS", "elements_to_states", "propagate")

import numpy as np
from numpy.typing import ArrayLike

from ._kernels import jit

OBLIQUITY = np.radians(84381.448 / 3600.0)
"""Inclination of the ecliptic of J2000 to the equator of the ICRS, as JPL and
the Minor Planet Center define it (IAU 1976).
"""

ECLIPTIC_TO_ICRS = np.array(
    [
        [1.0, 0.0, 0.0],
        [0.0, np.cos(OBLIQUITY), -np.sin(OBLIQUITY)],
        [0.0, np.sin(OBLIQUITY), np.cos(OBLIQUITY)],
    ]
)
"""Rotation of vectors of the ecliptic of J2000 to the ICRS."""


def elements_to_states(
    q: ArrayLike,
    e: ArrayLike,
    i: ArrayLike,
    node: ArrayLike,
    peri: ArrayLike,
    days_since_perihelion: ArrayLike,
    gm: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the states on orbits of given elements.

    Parameters
    ----------
    q, e
        Perihelion distances, au, and eccentricities, ``(n,)``.
    i, node, peri
        Inclinations, longitudes of the ascending node and arguments of
        perihelion on the ecliptic of J2000, ``(n,)``, deg.
    days_since_perihelion
        Times, ``(n,)``, days.
    gm
        Gravitational parameter of the centre, au^3/day^2.

    Returns
    -------
    position, velocity : `numpy.ndarray`
        ICRS positions, au, and velocities, au/day, about the centre,
        ``(n, 3)``.
    """
    q, e = np.asarray(q, dtype=float), np.asarray(e, dtype=float)
    i, node, peri = (np.radians(angle) for angle in (i, node, peri))
    to_perihelion = np.stack(
        [
            np.cos(node) * np.cos(peri) - np.sin(node) * np.sin(peri) * np.cos(i),
            np.sin(node) * np.cos(peri) + np.cos(node) * np.sin(peri) * np.cos(i),
            np.sin(peri) * np.sin(i),
        ],
        axis=-1,
    )
    along_motion = np.stack(
        [
            -np.cos(node) * np.sin(peri) - np.sin(node) * np.cos(peri) * np.cos(i),
            -np.sin(node) * np.sin(peri) + np.cos(node) * np.cos(peri) * np.cos(i),
            np.cos(peri) * np.sin(i),
        ],
        axis=-1,
    )
    position = q[:, np.newaxis] * to_perihelion @ ECLIPTIC_TO_ICRS.T
    velocity = np.sqrt(gm * (1.0 + e) / q)[:, np.newaxis] * along_motion @ ECLIPTIC_TO_ICRS.T
    return propagate(position, velocity, days_since_perihelion, gm)


def propagate(
    position: np.ndarray, velocity: np.ndarray, days: ArrayLike, gm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Move states along their orbits.

    Parameters
    ----------
    position, velocity
        States about the centre, ``(..., 3)``, au and au/day.
    days
        Times to move by, of a shape that broadcasts with ``(...)``.
    gm
        Gravitational parameter of the centre, au^3/day^2.

    Returns
    -------
    position, velocity : `numpy.ndarray`
        Moved states, ``(..., 3)``.
    """
    shape = np.broadcast_shapes(np.shape(position)[:-1], np.shape(velocity)[:-1], np.shape(days))
    position, velocity = (np.broadcast_to(vector, (*shape, 3)) for vector in (position, velocity))
    flat = [np.array(vector.reshape(-1, 3), dtype=float) for vector in (position, velocity)]
    moved = np.empty((2, *flat[0].shape))
    _propagate(*flat, np.broadcast_to(np.asarray(days, dtype=float), shape).ravel(), gm, *moved)
    return moved[0].reshape(*shape, 3), moved[1].reshape(*shape, 3)


@jit
def _stumpff(z):  # type: ignore[no-untyped-def]
    """Return the Stumpff functions c2 and c3."""
    if z > 0.1:
        root = np.sqrt(z)
        return (1.0 - np.cos(root)) / z, (root - np.sin(root)) / (z * root)
    if z < -0.1:
        root = np.sqrt(-z)
        return (1.0 - np.cosh(root)) / z, (np.sinh(root) - root) / (-z * root)
    # Terms fall by more than 1e-2 each: 1e-17 after these.
    c2, c3 = 0.0, 0.0
    for k in range(8, -1, -1):
        c2 = (1.0 - z * c2) / ((2 * k + 1) * (2 * k + 2))
        c3 = (1.0 - z * c3) / ((2 * k + 2) * (2 * k + 3))
    return c2, c3


@jit
def _time_of(chi, distance, radial, alpha):  # type: ignore[no-untyped-def]
    """Return sqrt(gm) times the time to a universal anomaly, and its
    derivative, which is the distance there.
    """
    z = alpha * chi * chi
    c2, c3 = _stumpff(z)
    time = distance * chi * (1.0 - z * c3) + radial * chi * chi * c2 + chi**3 * c3
    rate = distance * (1.0 - z * c2) + radial * chi * (1.0 - z * c3) + chi * chi * c2
    return time, rate


@jit
def _universal_anomaly(time, distance, radial, alpha):  # type: ignore[no-untyped-def]
    """Return the universal anomaly at a time.

    The time grows with it: Newton's method inside of a bracket.
    """
    if time == 0.0:
        return 0.0
    sign = 1.0 if time > 0 else -1.0
    # Doubled from below, it never gets to where hyperbolic functions overflow.
    low, high = 0.0, sign * min(abs(time) / distance, np.sqrt(distance))
    for _ in range(200):
        if sign * (_time_of(high, distance, radial, alpha)[0] - time) >= 0:
            break
        low, high = high, 2.0 * high
    chi = 0.5 * (low + high)
    for _ in range(200):
        value, rate = _time_of(chi, distance, radial, alpha)
        if sign * (value - time) > 0:
            high = chi
        else:
            low = chi
        step = (time - value) / rate
        following = chi + step
        if not (min(low, high) < following < max(low, high)):
            following = 0.5 * (low + high)
        if abs(following - chi) <= 1e-15 * abs(following):
            return following
        chi = following
    return chi


@jit
def _propagate(position, velocity, days, gm, out_position, out_velocity):  # type: ignore[no-untyped-def]
    root_gm = np.sqrt(gm)
    for i in range(len(days)):
        r, v = position[i], velocity[i]
        distance = np.sqrt(r[0] * r[0] + r[1] * r[1] + r[2] * r[2])
        radial = (r[0] * v[0] + r[1] * v[1] + r[2] * v[2]) / root_gm
        alpha = 2.0 / distance - (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]) / gm
        time = days[i]
        if alpha > 0:
            period = 2.0 * np.pi / (root_gm * alpha * np.sqrt(alpha))
            time -= period * np.round(time / period)
        chi = _universal_anomaly(root_gm * time, distance, radial, alpha)
        z = alpha * chi * chi
        c2, c3 = _stumpff(z)
        f = 1.0 - chi * chi * c2 / distance
        g = time - chi**3 * c3 / root_gm
        moved = 0.0
        for k in range(3):
            out_position[i, k] = f * r[k] + g * v[k]
            moved += out_position[i, k] * out_position[i, k]
        moved = np.sqrt(moved)
        f_dot = root_gm * chi * (z * c3 - 1.0) / (moved * distance)
        g_dot = 1.0 - chi * chi * c2 / moved
        for k in range(3):
            out_velocity[i, k] = f_dot * r[k] + g_dot * v[k]
