# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Motion of massless bodies in the field of the Sun and the planets.

Each body has steps of its own, and in each step a polynomial, so that its
place at any time costs little. The polynomials solve the equations of motion
at the nodes of Gauss's quadrature, as the implicit Runge-Kutta methods do that
are named after him (Hairer, Lubich & Wanner 2006, Geometric Numerical
Integration, section II.1.3).
"""

from __future__ import annotations

__all__ = ("LARGEST_STEP", "RULE", "SPEED_OF_LIGHT", "Track", "evaluate", "integrate", "locate")

from typing import NamedTuple

import numpy as np
from numpy.polynomial import chebyshev, legendre

from ._kernels import jit
from ._planets import GM_BODIES, GM_SUN, N_BODIES, bodies_at

N_NODES = 14
"""Nodes in a step."""

TOLERANCE = 1e-13
"""Error of the position in one step, over the distance from the Sun."""

LARGEST_STEP = 400.0
"""Days. Within this, the nodes see all the planets but Mercury and Venus move,
which matter only where the steps are shorter.
"""

FIRST_STEP, SMALLEST_STEP = 1.0, 1e-6
"""Days."""

LARGEST_NUMBER_OF_STEPS = 200_000
"""A body that needs more is lost: it went into the Sun or a planet."""

SPEED_OF_LIGHT = 173.1446326742403
"""au/day (299792.458 km/s, IAU 2012 au)."""


class Rule(NamedTuple):
    """Matrices of one step, of unit length, with `N_NODES` nodes."""

    nodes: np.ndarray
    """Times of the nodes, in (0, 1)."""

    once: np.ndarray
    """Integrals up to each node, of values at the nodes."""

    twice: np.ndarray
    """Integrals of these integrals."""

    tail: np.ndarray
    """The two highest Legendre coefficients, of values at the nodes."""

    velocity: np.ndarray
    """Chebyshev coefficients of the integral, of values at the nodes."""

    position: np.ndarray
    """Chebyshev coefficients of the integral of the integral."""


class Track(NamedTuple):
    """Path of one body, on one side of its epoch."""

    n_steps: int
    """Number of steps (`int`)."""

    begin: np.ndarray
    """TDB MJD of the beginning of each step, in the order of integration."""

    length: np.ndarray
    """Length of each step, days; negative towards the past."""

    position: np.ndarray
    """Chebyshev coefficients, ``(n, N_NODES + 2, 3)``, au."""

    velocity: np.ndarray
    """Chebyshev coefficients, ``(n, N_NODES + 1, 3)``, au/day."""

    complete: bool
    """Whether the path reaches to the time that was asked for (`bool`)."""


def _make_rule() -> Rule:
    x, _ = legendre.leggauss(N_NODES)
    to_coefficients = np.linalg.inv(legendre.legvander(x, N_NODES - 1))
    basis = np.eye(N_NODES)
    # A step from 0 to 1 is half as long as one from -1 to 1.
    once = np.array([legendre.legint(c, lbnd=-1) for c in basis]).T / 2
    twice = np.array([legendre.legint(c, m=2, lbnd=-1) for c in basis]).T / 4
    return Rule(
        nodes=(x + 1) / 2,
        once=legendre.legvander(x, N_NODES) @ once @ to_coefficients,
        twice=legendre.legvander(x, N_NODES + 1) @ twice @ to_coefficients,
        tail=np.ascontiguousarray(to_coefficients[-2:]),
        velocity=_to_chebyshev(N_NODES) @ once @ to_coefficients,
        position=_to_chebyshev(N_NODES + 1) @ twice @ to_coefficients,
    )


def _to_chebyshev(degree: int) -> np.ndarray:
    """Return the matrix from Legendre to Chebyshev coefficients."""
    nodes = chebyshev.chebpts1(degree + 1)
    return np.linalg.inv(chebyshev.chebvander(nodes, degree)) @ legendre.legvander(nodes, degree)


RULE = _make_rule()


@jit
def _accelerations(bodies, position, velocity, acceleration):  # type: ignore[no-untyped-def]
    """Write the accelerations at all nodes, and return the distance from the
    Sun of the first.

    Beside Newton's there is the Sun's in the first order of general
    relativity (Moyer 2003, DESCANSO monograph 2, equation 4-26, for a body
    without mass), which moves the perihelion.
    """
    for node in range(len(position)):
        r, v, a = position[node], velocity[node], acceleration[node]
        a[0] = a[1] = a[2] = 0.0
        for body in range(N_BODIES):
            x = bodies[node, 3 * body] - r[0]
            y = bodies[node, 3 * body + 1] - r[1]
            z = bodies[node, 3 * body + 2] - r[2]
            inverse = 1.0 / np.sqrt(x * x + y * y + z * z)
            pull = GM_BODIES[body] * inverse * inverse * inverse
            a[0] += pull * x
            a[1] += pull * y
            a[2] += pull * z
            if body == 0:
                # (x, y, z) points to the Sun.
                along = -(x * v[0] + y * v[1] + z * v[2])
                square = v[0] * v[0] + v[1] * v[1] + v[2] * v[2]
                factor = pull / (SPEED_OF_LIGHT * SPEED_OF_LIGHT)
                radial = -factor * (4.0 * GM_SUN * inverse - square)
                a[0] += radial * x + 4.0 * factor * along * v[0]
                a[1] += radial * y + 4.0 * factor * along * v[1]
                a[2] += radial * z + 4.0 * factor * along * v[2]


@jit
def _solve(rule, bodies, start, speed, step, position, velocity, acceleration):  # type: ignore[no-untyped-def]
    """Solve the equations of motion at the nodes of a step by iteration, and
    return whether that converges.
    """
    n = len(rule.nodes)
    for node in range(n):
        for k in range(3):
            position[node, k] = start[k] + rule.nodes[node] * step * speed[k]
            velocity[node, k] = speed[k]
    last = np.inf
    for _ in range(30):
        _accelerations(bodies, position, velocity, acceleration)
        change, size = 0.0, 0.0
        for node in range(n):
            for k in range(3):
                once, twice = 0.0, 0.0
                for j in range(n):
                    once += rule.once[node, j] * acceleration[j, k]
                    twice += rule.twice[node, j] * acceleration[j, k]
                moved = start[k] + step * (rule.nodes[node] * speed[k] + step * twice)
                velocity[node, k] = speed[k] + step * once
                change = max(change, abs(moved - position[node, k]))
                size = max(size, abs(moved))
                position[node, k] = moved
        if not change < np.inf:
            return False
        # Rounding ends the convergence a little above the last digit.
        if change <= 1e-16 * size or (change <= 1e-14 * size and change >= 0.5 * last):
            return True
        last = change
    return False


@jit
def _error(rule, bodies, position, acceleration, step):  # type: ignore[no-untyped-def]
    """Return the error of a step over what is tolerated, from the highest
    coefficients of the acceleration.
    """
    tail, distance = 0.0, np.inf
    for row in range(2):
        for k in range(3):
            value = 0.0
            for j in range(len(position)):
                value += rule.tail[row, j] * acceleration[j, k]
            tail = max(tail, abs(value))
    for node in range(len(position)):
        square = 0.0
        for k in range(3):
            square += (position[node, k] - bodies[node, k]) ** 2
        distance = min(distance, np.sqrt(square))
    return tail * step * step / len(position) ** 2 / (TOLERANCE * distance)


@jit
def _store(rule, track, index, start, speed, step, acceleration):  # type: ignore[no-untyped-def]
    """Write the polynomials of a step."""
    position, velocity = track.position[index], track.velocity[index]
    for k in range(3):
        for row in range(len(position)):
            value = 0.0
            for j in range(len(acceleration)):
                value += rule.position[row, j] * acceleration[j, k]
            position[row, k] = step * step * value
        for row in range(len(velocity)):
            value = 0.0
            for j in range(len(acceleration)):
                value += rule.velocity[row, j] * acceleration[j, k]
            velocity[row, k] = step * value
        position[0, k] += start[k] + 0.5 * step * speed[k]
        position[1, k] += 0.5 * step * speed[k]
        velocity[0, k] += speed[k]


@jit
def evaluate(coefficients, x, vector):  # type: ignore[no-untyped-def]
    """Write the value of a vector's polynomial.

    Parameters
    ----------
    coefficients
        Chebyshev coefficients, ``(n, 3)``.
    x
        Where, in [-1, 1].
    vector
        Array to write to, ``(3,)``.
    """
    before, power = 1.0, x
    for k in range(3):
        vector[k] = coefficients[0, k] + x * coefficients[1, k]
    for n in range(2, len(coefficients)):
        before, power = power, 2.0 * x * power - before
        for k in range(3):
            vector[k] += power * coefficients[n, k]


@jit
def _grown(track):  # type: ignore[no-untyped-def]
    """Return the same track with room for twice as many steps."""
    n = len(track.begin)
    grown = _new_track(2 * n)
    grown.begin[:n], grown.length[:n] = track.begin, track.length
    grown.position[:n], grown.velocity[:n] = track.position, track.velocity
    return grown


@jit
def _new_track(n):  # type: ignore[no-untyped-def]
    return Track(
        0,
        np.empty(n),
        np.empty(n),
        np.empty((n, N_NODES + 2, 3)),
        np.empty((n, N_NODES + 1, 3)),
        False,
    )


@jit
def integrate(rule, planets, position, velocity, epoch, end):  # type: ignore[no-untyped-def]
    """Return the path of a body from its epoch to a time.

    Parameters
    ----------
    rule
        `RULE`, which compiled code does not look up.
    planets
        The Sun and the planets, from `LARGEST_STEP` before the first to
        `LARGEST_STEP` after the last of epoch and end.
    position, velocity
        Barycentric ICRS state at the epoch, ``(3,)``, au and au/day.
    epoch, end
        TDB MJD.
    """
    track = _new_track(64)
    start, speed = position.copy(), velocity.copy()
    bodies = np.empty((N_NODES, 3 * N_BODIES))
    r, v, a = np.empty((N_NODES, 3)), np.empty((N_NODES, 3)), np.empty((N_NODES, 3))
    sign = 1.0 if end >= epoch else -1.0
    mjd, step, n = epoch, sign * FIRST_STEP, 0
    while (n == 0 or sign * (end - mjd) > 0) and n < LARGEST_NUMBER_OF_STEPS:
        for node in range(N_NODES):
            bodies_at(planets, mjd + rule.nodes[node] * step, 3 * N_BODIES, bodies[node])
        error = np.inf
        if _solve(rule, bodies, start, speed, step, r, v, a):
            error = _error(rule, bodies, r, a, step)
        if error > 1.0:
            step *= 0.5
            if not abs(step) > SMALLEST_STEP:
                break
            continue
        if n == len(track.begin):
            track = _grown(track)
        track.begin[n], track.length[n] = mjd, step
        _store(rule, track, n, start, speed, step, a)
        evaluate(track.position[n], 1.0, start)
        evaluate(track.velocity[n], 1.0, speed)
        mjd += step
        n += 1
        growth = min(max(0.9 * (1.0 / max(error, 1e-30)) ** (1.0 / (N_NODES + 1)), 0.3), 4.0)
        step = sign * min(abs(step) * growth, LARGEST_STEP)
    complete = n > 0 and not sign * (end - mjd) > 0
    return Track(n, track.begin, track.length, track.position, track.velocity, complete)


@jit
def locate(track, mjd):  # type: ignore[no-untyped-def]
    """Return the step of a track that a time is in, and the place in it, in
    [-1, 1].

    Parameters
    ----------
    track
        The path of an object.
    mjd
        TDB MJD between the track's epoch and its end.
    """
    low, high = 0, track.n_steps - 1
    sign = 1.0 if track.length[0] > 0 else -1.0
    while low < high:
        middle = (low + high + 1) // 2
        if sign * (mjd - track.begin[middle]) >= 0:
            low = middle
        else:
            high = middle - 1
    return low, 2.0 * (mjd - track.begin[low]) / track.length[low] - 1.0
