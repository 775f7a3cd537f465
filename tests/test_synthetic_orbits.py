# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of synthetic orbits."""

from __future__ import annotations

import numpy as np
import pytest

from lsst.meas.tno import SCHEMAS, validate_table
from lsst.meas.tno.orbits import make_synthetic_orbits
from lsst.meas.tno.photometry import V_MINUS_R


def test_synthetic_orbits_are_reproducible() -> None:
    first, second = make_synthetic_orbits(200, 5), make_synthetic_orbits(200, np.random.default_rng(5))
    assert all(
        np.array_equal(first[name], second[name], equal_nan=name in ("M1", "K1")) for name in first.colnames
    )
    assert not np.array_equal(first["q"], make_synthetic_orbits(200, 6)["q"])
    with pytest.raises(ValueError, match="n=0"):
        make_synthetic_orbits(0, 5)


def test_synthetic_orbits_are_those_of_tnos() -> None:
    orbits = make_synthetic_orbits(20000, 7, epoch=60000.0)
    validate_table(orbits, SCHEMAS["tno_orbits"])
    assert np.all(orbits["epoch"] == 60000.0)
    assert np.all(orbits["q"] > 28.0)
    a = np.asarray(orbits["q"] / (1 - orbits["e"]))
    assert (a.min() > 39.0) & (a.max() < 800.0)
    # Beyond the aphelia of the classical belt, out to several hundred au.
    assert np.max(a * (1 + orbits["e"])) > 1000.0
    mean_anomaly = (60000.0 - orbits["tp"]) / (365.25 * a**1.5) * 360.0
    # A standard deviation of the mean of 20000 uniform angles is 0.7 deg.
    for angle, centre in ((mean_anomaly, 0.0), (orbits["node"], 180.0), (orbits["peri"], 180.0)):
        assert np.mean(angle) == pytest.approx(centre, abs=3.5)
        assert np.std(angle) == pytest.approx(360 / np.sqrt(12), rel=0.02)


def test_synthetic_distributions() -> None:
    orbits = make_synthetic_orbits(40000, 8)
    cold = orbits[orbits["source"] == "synthetic, cold classical"]
    hot = orbits[orbits["source"] == "synthetic, hot classical"]
    for part, width, n_bright in ((cold, 2.6, 1.5), (hot, 16.0, 0.87)):
        i = np.linspace(0.0, 180.0, 20001)
        density = np.sin(np.radians(i)) * np.exp(-0.5 * (i / width) ** 2)
        # 10000 objects give the mean to 1 %.
        assert np.mean(part["i"]) == pytest.approx(np.sum(i * density) / np.sum(density), rel=0.03)
        magnitude = np.asarray(part["H"]) - V_MINUS_R
        assert (magnitude.min() > 3.0) & (magnitude.max() < 9.0)
        counts = [np.count_nonzero(np.abs(magnitude - centre) < 0.25) for centre in (6.0, 6.5)]
        # Between bins of some 100 objects.
        assert np.log10(counts[1] / counts[0]) / 0.5 == pytest.approx(n_bright, abs=0.25)
        faint = [np.count_nonzero(np.abs(magnitude - centre) < 0.25) for centre in (8.1, 8.7)]
        assert np.log10(faint[1] / faint[0]) / 0.6 == pytest.approx(0.2, abs=0.1)
