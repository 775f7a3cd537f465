# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import itertools

import numpy as np
import pytest
from astropy.coordinates import BarycentricMeanEcliptic, SkyCoord
from orbit_builders import GAUSS, horizons_orbits, horizons_states

from lsst.meas.tno._two_body import ECLIPTIC_TO_ICRS, elements_to_states, propagate

mpmath = pytest.importorskip("mpmath")

GM = GAUSS**2

ECCENTRICITIES = (
    *(0.0, 1e-10, 0.1, 0.5, 0.9, 0.99, 0.9999, 1 - 1e-6, 1 - 1e-9, 1 - 1e-12, 1 - 1e-15),
    *(1.0, 1 + 1e-15, 1 + 1e-12, 1 + 1e-9, 1 + 1e-6, 1.0001, 1.2, 3.0, 20.0),
)


@pytest.fixture(autouse=True)
def _forty_digits():
    with mpmath.workdps(40):
        yield


def _root(function, derivative, low, high):
    """Return the root of a growing function, to the last of 40 digits."""
    x = (low + high) / 2
    for _ in range(1000):
        value = function(x)
        low, high = (low, x) if value > 0 else (x, high)
        following = x - value / derivative(x)
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - x) <= mpmath.mpf(10) ** -36 * abs(following):
            return following
        x = following
    return x


def _kepler(q, e, days):
    """Return x and y, and their rates, on an orbit with its perihelion on the
    x axis, by Kepler's or Barker's equation, each in its own form.
    """
    q, e, days, gm = (mpmath.mpf(value) for value in (q, e, days, GM))
    if e == 1:
        triple = 1.5 * mpmath.sqrt(gm / (2 * q**3)) * days
        root = mpmath.cbrt(abs(triple) + mpmath.sqrt(triple**2 + 1))
        tangent = (root - 1 / root) * mpmath.sign(triple)
        speed = mpmath.sqrt(2 * gm / q) / (1 + tangent**2)
        return q * (1 - tangent**2), 2 * q * tangent, -speed * tangent, speed
    a = q / abs(1 - e)
    b = a * mpmath.sqrt(abs(1 - e**2))
    mean = mpmath.sqrt(gm / a**3) * days
    if e < 1:
        mean -= 2 * mpmath.pi * mpmath.nint(mean / (2 * mpmath.pi))
        anomaly = _root(
            lambda x: x - e * mpmath.sin(x) - mean,
            lambda x: 1 - e * mpmath.cos(x),
            -4 * mpmath.pi,
            4 * mpmath.pi,
        )
        sine, cosine, x = mpmath.sin(anomaly), mpmath.cos(anomaly), a * (mpmath.cos(anomaly) - e)
        rate = mpmath.sqrt(gm / a**3) / (1 - e * cosine)
    else:
        bound = mpmath.asinh(abs(mean) / (e - 1)) + 1
        anomaly = _root(
            lambda x: e * mpmath.sinh(x) - x - mean, lambda x: e * mpmath.cosh(x) - 1, -bound, bound
        )
        sine, cosine, x = mpmath.sinh(anomaly), mpmath.cosh(anomaly), a * (e - mpmath.cosh(anomaly))
        rate = mpmath.sqrt(gm / a**3) / (e * cosine - 1)
    return x, b * sine, -a * sine * rate, b * cosine * rate


def _distances(one, other):
    return np.array(
        [float(mpmath.hypot(one[k] - other[k], one[k + 1] - other[k + 1])) for k in (0, 2)], dtype=float
    )


@pytest.mark.parametrize("e", ECCENTRICITIES)
def test_motion_obeys_keplers_equation(e):
    """Orbits as small as the Sun and as large as Sedna's, for millennia. They
    are off by no more than some last digits of q, e and the rounding of the
    values themselves make (300 of them with e = 3 and q = 1e-3 au, of which
    nothing is known; else 50).
    """
    epsilon = 2.0**-52
    times = (0.0, 1e-6, -1e-3, 1.0, -30.0, 1000.0, -36525.0, 365250.0, -1e6)
    for q, days in itertools.product((1e-3, 0.01, 1.0, 40.0, 1000.0), times):
        position, velocity = elements_to_states([q], [e], [0.0], [0.0], [0.0], [days], GM)
        ours = [*(position[0] @ ECLIPTIC_TO_ICRS)[:2], *(velocity[0] @ ECLIPTIC_TO_ICRS)[:2]]
        true = _kepler(q, e, days)
        size = _distances(true, (0, 0, 0, 0))
        last_digits = epsilon * size + sum(
            _distances(true, _kepler(*other, days)) for other in ((q * (1 + epsilon), e), (q, e + epsilon))
        )
        assert np.all(_distances(true, ours) < 100 * last_digits), (q, days)


@pytest.mark.parametrize("e", ECCENTRICITIES)
def test_energy_and_angular_momentum_are_kept(e):
    """From perihelion, over a hundred periods and more where there are any."""
    q = np.array([0.01, 1.0, 40.0])
    days = np.array([-3.7e6, -1e4, -1.0, 0.0, 2.0, 3e5, 1e6])
    angles = np.full(3, 40.0), np.full(3, 250.0), np.full(3, 77.0)
    position, velocity = elements_to_states(q, np.full(3, e), *angles, np.zeros(3), GM)
    moved = propagate(position[:, np.newaxis], velocity[:, np.newaxis], days, GM)
    distance, speed = (np.linalg.norm(vector, axis=-1) for vector in moved)
    # At perihelion half of v^2 is up to (1 + e) / 2 times gm / r, and that is
    # what the rounding is of. What is far away has little of both.
    scale = (GM * (1.0 + e) / q)[:, np.newaxis]
    energy = speed**2 / 2 - GM / distance
    assert np.all(np.abs(energy - (GM * (e - 1) / 2 / q)[:, np.newaxis]) < 1e-14 * scale)
    # Both vectors have errors, and their cross product is of one that is
    # longer: r v over q v at perihelion.
    momentum = np.cross(*moved)
    true = np.cross(position, velocity)[:, np.newaxis]
    lever = (distance * speed)[..., np.newaxis] * (1.0 + distance / q[:, np.newaxis])[..., np.newaxis]
    assert np.all(np.abs(momentum - true) < 1e-14 * lever)


def test_motion_reverses():
    """Moved on and back: within 1e-11 au, the rounding of 40,000 days of what
    is next to the Sun.
    """
    rng = np.random.default_rng(20)
    n = 2000
    q, e = 10 ** rng.uniform(-2, 2, n), rng.choice([0.0, 0.5, 0.999, 1.0, 1.001, 3.0], n)
    angles = rng.uniform(0, 180, n), rng.uniform(0, 360, n), rng.uniform(0, 360, n)
    begin, days = rng.uniform(-300, 300, n) * q**1.5, rng.uniform(-300, 300, n) * q**1.5
    position, velocity = elements_to_states(q, e, *angles, begin, GM)
    back = propagate(*propagate(position, velocity, days, GM), -days, GM)
    for vector, again in zip((position, velocity), back, strict=True):
        size = np.linalg.norm(vector, axis=-1)
        assert np.all(np.linalg.norm(again - vector, axis=-1) < 1e-11 * size)


def test_motion_adds_up():
    """Three moves are one, and a period is none."""
    position, velocity = elements_to_states([2.0], [0.6], [11.0], [80.0], [150.0], [-100.0], GM)
    parts = propagate(*propagate(*propagate(position, velocity, 321.0, GM), -77.7, GM), 1000.25, GM)
    np.testing.assert_allclose(parts, propagate(position, velocity, 321.0 - 77.7 + 1000.25, GM), atol=1e-13)
    period = 2 * np.pi / GAUSS * (2.0 / 0.4) ** 1.5
    # 40 periods are known to 1e-16 of them, 3e-11 days.
    np.testing.assert_allclose(
        propagate(position, velocity, 40 * period, GM), (position, velocity), atol=1e-12
    )


@pytest.mark.parametrize("days", [-4000.0, -3.0, 0.5, 80.0, 20_000.0])
def test_nothing_happens_at_the_parabola(days):
    """A step of e changes the place as much as the next one does."""
    step = 1e-7
    e = 1.0 + step * np.arange(-2, 3)
    states = np.concatenate(
        elements_to_states(np.full(5, 0.3), e, *np.full((3, 5), 30.0), np.full(5, days), GM), axis=-1
    )
    # The second derivative with e is not far from (r/q)^2 of the value.
    size = np.abs(states).max(axis=0) * (np.linalg.norm(states[2, :3]) / 0.3) ** 2
    rounding = 1e-12 * np.abs(states).max()
    assert np.all(np.abs(np.diff(states, n=2, axis=0)) < 10 * size * step**2 + rounding)


def test_states_of_jpl():
    """JPL lists elements and states. Its gm is smaller by 5e-12, and its last
    digit of the angles, 1e-13 deg, is 1e-15: what is left is tp, to 1e-11 d.
    """
    orbits, states = horizons_orbits(), horizons_states()
    position, velocity = elements_to_states(
        *(orbits[name] for name in ("q", "e", "i", "node", "peri")), orbits["epoch"] - orbits["tp"], GM
    )
    np.testing.assert_allclose(position @ ECLIPTIC_TO_ICRS, states[:, :3], rtol=0, atol=1e-9)
    np.testing.assert_allclose(velocity @ ECLIPTIC_TO_ICRS, states[:, 3:], rtol=0, atol=1e-13)


def test_ecliptic_is_that_of_j2000():
    """ERFA's mean ecliptic of J2000 differs by the 0.04 arcsec between the
    obliquities of IAU 1976 and 2006, and by the frame bias of 0.02 arcsec.
    """
    pole = SkyCoord(0, 90, unit="deg", frame=BarycentricMeanEcliptic(equinox="J2000")).icrs
    ours = SkyCoord(*ECLIPTIC_TO_ICRS[:, 2], representation_type="cartesian", frame="icrs")
    assert pole.separation(ours).arcsec < 0.06
    np.testing.assert_allclose(ECLIPTIC_TO_ICRS @ ECLIPTIC_TO_ICRS.T, np.eye(3), atol=1e-15)


def test_shapes_broadcast():
    position, velocity = elements_to_states(
        [1.0, 2.0], [0.1, 1.0], [0.0, 5.0], [1.0, 2.0], [3.0, 4.0], 10.0, GM
    )
    assert position.shape == velocity.shape == (2, 3)
    moved = propagate(position[:, np.newaxis], velocity[:, np.newaxis], np.arange(4.0), GM)
    assert moved[0].shape == moved[1].shape == (2, 4, 3)
    np.testing.assert_allclose(moved[0][:, 0], position, atol=1e-15)
    one, _ = propagate(position[1], velocity[1], 3.0, GM)
    np.testing.assert_array_equal(one, moved[0][1, 3])
    assert propagate(position[:0], velocity[:0], 1.0, GM)[0].shape == (0, 3)
