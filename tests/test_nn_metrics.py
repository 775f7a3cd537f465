# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from lsst.meas.tno.nn.metrics import roc_area, roc_areas_by_snr, roc_curve


def test_roc_area_counts_pairs() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 10, 60).astype(float)
    injected = rng.random(60) < 0.4
    difference = scores[injected][:, None] - scores[~injected]
    expected = np.mean((difference > 0) + 0.5 * (difference == 0))
    assert roc_area(scores, injected) == pytest.approx(expected, rel=1e-12)
    x, y = roc_curve(scores, injected)
    assert np.trapezoid(y, x) == pytest.approx(expected, rel=1e-12)
    assert (x[0], y[0], x[-1], y[-1]) == (0.0, 0.0, 1.0, 1.0)


def test_roc_area_of_gaussians() -> None:
    rng = np.random.default_rng(1)
    injected = np.arange(20000) % 2 == 1
    scores = rng.normal(size=20000) + injected
    # Two Gaussians one sigma apart; the error of an area of 1e4 + 1e4 is about
    # 0.003.
    assert roc_area(scores, injected) == pytest.approx(norm.cdf(1 / math.sqrt(2)), abs=0.01)


def test_infinite_logits_rank_last() -> None:
    assert roc_area(np.array([-np.inf, 0.0, 1.0]), np.array([False, False, True])) == 1.0


@pytest.mark.parametrize("injected", [[True, True], [False, False], []])
def test_roc_area_of_one_class_is_nan(injected: list[bool]) -> None:
    assert math.isnan(roc_area(np.arange(len(injected), dtype=float), np.array(injected, dtype=bool)))


def test_areas_by_snr() -> None:
    injected = np.array([False, False, True, True, True])
    snr = np.array([np.nan, np.nan, 10.0, 5.0, 8.0])
    areas = roc_areas_by_snr(np.array([0.0, 2.0, 3.0, 1.0, 3.0]), injected, snr)
    assert areas["snr >= 8"] == {"roc_area": 1.0, "n_injected": 2, "n_clean": 2}
    assert areas["5 <= snr < 8"] == {"roc_area": 0.5, "n_injected": 1, "n_clean": 2}
    assert areas["snr < 5"] == {"roc_area": None, "n_injected": 0, "n_clean": 2}
    assert areas["all"]["roc_area"] == pytest.approx(5 / 6)
