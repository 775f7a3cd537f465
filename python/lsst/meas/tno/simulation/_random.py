# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random numbers that depend on nothing but the seed and what they are for."""

from __future__ import annotations

__all__ = ("Stream", "make_generator")

import enum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ._config import SimulateSurveyConfig


class Stream(enum.IntEnum):
    """What random numbers are for."""

    OBSERVATIONS = 0
    STARS = 1
    GALAXIES = 2
    OBJECTS = 3
    DETECTORS = 4
    PIXELS = 5
    DIFFERENCES = 6
    COMPRESSION = 7


def make_generator(config: SimulateSurveyConfig, stream: Stream, *key: int) -> np.random.Generator:
    """Return a generator of random numbers.

    Parameters
    ----------
    config
        Configuration of the survey, which has the seed.
    stream
        What the numbers are for.
    *key
        Numbers that tell uses of the same stream apart, such as the indices
        of a visit and a detector.
    """
    return np.random.default_rng([config.seed, stream, *key])
