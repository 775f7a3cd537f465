# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a network is trained."""

from __future__ import annotations

__all__ = ("ReinjectionConfig", "TrainingConfig")

from typing import Any

from lsst.pex.config import ChoiceField, Config, ConfigField, Field, FieldValidationError, RangeField


class ReinjectionConfig(Config):
    """Configuration of the objects that training injects itself."""

    snr_distribution = ChoiceField[str](
        doc="Distribution of the S/N of the objects.",
        allowed={
            "log_uniform": "Uniform in the logarithm, between the lowest and the highest S/N of the objects "
            "in the training sequences.",
            "catalog": "That of the objects in the training sequences.",
        },
        default="log_uniform",
    )
    max_shift = RangeField(
        doc="Largest shift of a track in x and in y; uniform up to it (pixels).",
        dtype=float,
        default=0.5,
        min=0.0,
    )
    max_subtracted_snr = RangeField(
        doc="S/N of an injected object up to which its sequence serves, with the object subtracted, as one "
        "without. Sequences with brighter objects keep them; 0 keeps all.",
        dtype=float,
        default=12.0,
        min=0.0,
    )
    max_draws = RangeField(
        doc="Tracks drawn for a sequence, while they leave it too early, before it is left without one.",
        dtype=int,
        default=10,
        min=1,
    )


class TrainingConfig(Config):
    """Configuration of the training of a network."""

    batch_size = Field[int](doc="Smallest number of sequences in a step of the optimizer.", default=32)
    max_epochs = Field[int](doc="Number of epochs after which training ends at the latest.", default=12)
    patience = Field[int](
        doc="Number of epochs without a smaller validation loss after which training ends.", default=6
    )
    schedule = ChoiceField[str](
        doc="What the learning rate does.",
        allowed={
            "plateau": "Falls by learning_rate_factor where the validation loss has stopped falling.",
            "cosine": "Rises for warmup_epochs, then falls by half a cosine until max_epochs.",
            "one_cycle": "Rises by half a cosine from a 25th and falls by another until max_epochs.",
        },
        default="one_cycle",
    )
    learning_rate = Field[float](doc="Highest learning rate (AdamW).", default=3e-3)
    learning_rate_patience = Field[int](
        doc="Number of epochs without a smaller validation loss after which the learning rate is lowered; "
        "for the schedule plateau.",
        default=2,
    )
    learning_rate_factor = Field[float](
        doc="Factor by which the learning rate is lowered, below 1; for the schedule plateau.", default=0.3
    )
    warmup_epochs = Field[float](
        doc="Epochs in which the learning rate rises; for the schedule cosine.", default=1.0
    )
    one_cycle_rise = Field[float](
        doc="Fraction of max_epochs in which the learning rate rises; for the schedule one_cycle.",
        default=0.3,
    )
    final_learning_rate = Field[float](
        doc="Learning rate at the end, as a fraction of the highest; for the schedules cosine and one_cycle.",
        default=0.01,
    )
    gradient_clip = Field[float](
        doc="Norm of all gradients together above which they are scaled down to it; None: they never are.",
        default=1.0,
        optional=True,
    )
    weight_decay = Field[float](
        doc="Decay of the weights, in units of the learning rate a step (AdamW).", default=0.01
    )
    batch_norm_sequences = Field[int](
        doc="Number of training sequences that the statistics of batch normalisation are computed from "
        "after each epoch.",
        default=2048,
    )
    class_balance = ChoiceField[str](
        doc="How positive_fraction is reached.",
        allowed={
            "weights": "By weights of the sequences in the loss.",
            "sampling": "By drawing the sequences of an epoch, those of the rarer class several times.",
            "none": "Not at all: each sequence counts once, and positive_fraction is for reinject alone.",
        },
        default="weights",
    )
    positive_fraction = RangeField(
        doc="Part that sequences with an object have in the training.",
        dtype=float,
        default=0.5,
        min=0.0,
        max=1.0,
        inclusiveMin=False,
        inclusiveMax=False,
    )
    augmentation = Field[bool](
        doc="Whether to flip, rotate by multiples of 90 deg and reverse in time each training sequence at "
        "random, anew in every epoch.",
        default=True,
    )
    reinject = Field[bool](
        doc="Whether to subtract the objects from the training sequences and inject others in every epoch, "
        "into positive_fraction of the sequences: on the tracks of these objects, shifted, with another S/N. "
        "Not for sequences whose static sky was subtracted after the injection.",
        default=False,
    )
    reinjection = ConfigField[ReinjectionConfig](doc="The objects of reinject.", dtype=ReinjectionConfig)
    seed = Field[int](doc="Seed of the first weights, the order, the augmentation and dropout.", default=0)
    device = ChoiceField[str](
        doc="Device to train on.",
        allowed={"auto": "A GPU where there is one, or else the CPU.", "cpu": "CPU.", "cuda": "GPU."},
        default="auto",
    )
    mixed_precision = ChoiceField[str](
        doc="Precision of the products in training on a GPU. It changes nothing on a CPU.",
        allowed={
            "none": "float32.",
            "bf16": "bfloat16 where it is accurate enough.",
            "fp16": "float16 where it is accurate enough, with a loss that is scaled.",
        },
        default="none",
    )
    n_threads = Field[int](
        doc="Number of threads on the CPU. Small networks gain nothing from several, and lose where other "
        "processes use the cores. Equal bytes of the classifier are promised for equal numbers.",
        default=1,
    )
    n_workers = Field[int](
        doc="Number of threads that prepare batches ahead of the training; with 0 it does so itself. The "
        "classifier does not depend on it.",
        default=0,
    )
    checkpoint_dir = Field[str](
        doc="Directory for the state after each epoch, from which a training that was interrupted goes on; "
        "made if it is not there. By default there is none. The classifier does not depend on it.",
        optional=True,
    )

    def describe(self) -> dict[str, Any]:
        """Return the fields that the classifier depends on, as JSON data."""
        fields = self.toDict()
        return {name: value for name, value in fields.items() if name not in ("n_workers", "checkpoint_dir")}

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
            ("n_workers", 0),
            ("seed", 0),
            ("weight_decay", 0.0),
        ):
            value = getattr(self, name)
            if value < smallest:
                self._refuse(name, f"must be at least {smallest}, not {value}.")
        self._validate_rates()

    def _validate_rates(self) -> None:
        if not self.learning_rate > 0.0:
            self._refuse("learning_rate", f"must be positive, not {self.learning_rate}.")
        if self.gradient_clip is not None and not self.gradient_clip > 0.0:
            self._refuse("gradient_clip", f"must be positive, not {self.gradient_clip}.")
        for name in ("learning_rate_factor", "one_cycle_rise"):
            value = getattr(self, name)
            if not 0.0 < value < 1.0:
                self._refuse(name, f"must be above 0 and below 1, not {value}.")
        if not 0.0 <= self.final_learning_rate <= 1.0:
            self._refuse("final_learning_rate", f"must be in [0, 1], not {self.final_learning_rate}.")
        if not self.warmup_epochs >= 0.0:
            self._refuse("warmup_epochs", f"must be at least 0, not {self.warmup_epochs}.")
        if self.schedule == "cosine" and self.warmup_epochs >= self.max_epochs:
            self._refuse(
                "warmup_epochs", f"must be less than max_epochs={self.max_epochs}, not {self.warmup_epochs}."
            )

    def _refuse(self, name: str, reason: str) -> None:
        raise FieldValidationError(getattr(type(self), name), self, f"{name} {reason}")
