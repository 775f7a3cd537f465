# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lsst.meas.tno.nn import TrainingConfig
from lsst.meas.tno.nn.schedules import learning_rate


def make_config(**fields: Any) -> TrainingConfig:
    config = TrainingConfig()
    config.update(**{"max_epochs": 10, "learning_rate": 0.01, **fields})
    config.validate()
    return config


def rates(config: TrainingConfig, n_steps: int = 20) -> np.ndarray:
    """Return the learning rate at the end of each of some steps an epoch."""
    progress = np.arange(1, n_steps * config.max_epochs + 1) / n_steps
    return np.array([learning_rate(config, at, []) for at in progress.tolist()])


def test_plateau_is_that_of_torch() -> None:
    config = make_config(schedule="plateau", learning_rate_patience=3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=config.learning_rate_factor, patience=2, threshold=0.0
    )
    losses: list[float] = []
    for loss in np.random.default_rng(1).uniform(0.5, 1.0, 40).tolist():
        losses.append(loss)
        scheduler.step(loss)
        expected = optimizer.param_groups[0]["lr"]
        # That one does not go on below 1e-8.
        assert learning_rate(config, 0.5, losses) == pytest.approx(expected, abs=1e-8)


def test_cosine_rises_and_falls() -> None:
    config = make_config(schedule="cosine", warmup_epochs=2.0, final_learning_rate=0.1)
    found = rates(config)
    np.testing.assert_allclose(found[:40], 0.01 * np.arange(1, 41) / 40)
    assert np.all(np.diff(found[39:]) < 0)
    assert found[-1] == pytest.approx(0.001)
    # Half of the fall is half of the way.
    assert found[40 + 80 - 1] == pytest.approx((0.01 + 0.001) / 2)


def test_cosine_without_a_rise_begins_at_the_top() -> None:
    assert learning_rate(make_config(schedule="cosine", warmup_epochs=0.0), 0.0, []) == 0.01


def test_one_cycle_is_that_of_torch() -> None:
    config = make_config(schedule="one_cycle", one_cycle_rise=0.3, final_learning_rate=0.01)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    n_steps = 1000
    # Its last rate is in units of the first.
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.01, total_steps=n_steps, pct_start=0.3, final_div_factor=100 / 25, cycle_momentum=False
    )
    expected = []
    for _ in range(n_steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(expected) < n_steps:
            scheduler.step()
    # Steps count from 0 there, and the last one is the end: up to two steps of
    # a slope of pi / 2 * 0.01 / 300 at most.
    np.testing.assert_allclose(rates(config, n_steps=100), expected, rtol=0, atol=1.1e-4)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"schedule": "cosine", "warmup_epochs": 10.0}, "warmup_epochs"),
        ({"warmup_epochs": -1.0}, "warmup_epochs"),
        ({"one_cycle_rise": 0.0}, "one_cycle_rise"),
        ({"final_learning_rate": 1.5}, "final_learning_rate"),
        ({"gradient_clip": 0.0}, "gradient_clip"),
        ({"n_workers": -1}, "n_workers"),
    ],
)
def test_impossible_schedules(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        make_config(**fields)
