# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a training cannot do with its sequences."""

from __future__ import annotations

__all__ = ("TrainingSetError",)


class TrainingSetError(ValueError):
    """A network cannot be trained on these sequences."""
