# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a network is trained."""

from __future__ import annotations

__all__ = ("TrainingConfig",)

from lsst.pex.config import ChoiceField, Config, Field, FieldValidationError


class TrainingConfig(Config):
    """Configuration of the training of a network."""

    batch_size = Field[int](doc="Smallest number of sequences in a step of the optimizer.", default=32)
    max_epochs = Field[int](doc="Number of epochs after which training ends at the latest.", default=20)
    patience = Field[int](
        doc="Number of epochs without a smaller validation loss after which training ends.", default=6
    )
    learning_rate = Field[float](doc="Learning rate of the first epoch (AdamW).", default=1e-3)
    learning_rate_patience = Field[int](
        doc="Number of epochs without a smaller validation loss after which the learning rate is lowered.",
        default=2,
    )
    learning_rate_factor = Field[float](
        doc="Factor by which the learning rate is lowered, below 1.", default=0.3
    )
    weight_decay = Field[float](
        doc="Decay of the weights, in units of the learning rate a step (AdamW).", default=0.01
    )
    batch_norm_sequences = Field[int](
        doc="Number of training sequences that the statistics of batch normalisation are computed from "
        "after each epoch.",
        default=2048,
    )
    augmentation = Field[bool](
        doc="Whether to flip, rotate by multiples of 90 deg and reverse in time each training sequence at "
        "random, anew in every epoch.",
        default=True,
    )
    seed = Field[int](doc="Seed of the first weights, the order, the augmentation and dropout.", default=0)
    device = ChoiceField[str](
        doc="Device to train on.",
        allowed={"auto": "A GPU where there is one, or else the CPU.", "cpu": "CPU.", "cuda": "GPU."},
        default="auto",
    )
    n_threads = Field[int](
        doc="Number of threads on the CPU. Equal bytes of the classifier are promised for equal numbers.",
        default=1,
    )

    def validate(self) -> None:
        """Check the fields."""
        super().validate()
        for name, smallest in (
            ("batch_size", 2),
            ("batch_norm_sequences", 2),
            ("max_epochs", 1),
            ("patience", 1),
            ("learning_rate_patience", 1),
            ("n_threads", 1),
            ("seed", 0),
            ("weight_decay", 0.0),
        ):
            value = getattr(self, name)
            if value < smallest:
                self._refuse(name, f"must be at least {smallest}, not {value}.")
        if not self.learning_rate > 0.0:
            self._refuse("learning_rate", f"must be positive, not {self.learning_rate}.")
        if not 0.0 < self.learning_rate_factor < 1.0:
            self._refuse(
                "learning_rate_factor", f"must be above 0 and below 1, not {self.learning_rate_factor}."
            )

    def _refuse(self, name: str, reason: str) -> None:
        raise FieldValidationError(getattr(type(self), name), self, f"{name} {reason}")
