# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which logits make a candidate."""

from __future__ import annotations

__all__ = ("ThresholdConfig", "choose_threshold", "windows_per_square_degree")

from collections.abc import Mapping
from typing import Any

from lsst.pex.config import ChoiceField, Config, Field, FieldValidationError
from lsst.utils.logging import LsstLogAdapter

from .calibration import LogitThreshold, calibration_from_description

SQUARE_DEGREE = 3600.0**2
"""Square arcsec in a square degree."""


class ThresholdConfig(Config):
    """Configuration that tasks which choose by the logit have in common."""

    threshold_mode = ChoiceField[str](
        doc="What threshold is.",
        allowed={
            "logit": "The lowest logit.",
            "per_sequence": "The fraction of sequences without an object that may be above it, by the "
            "calibration of the classifier.",
            "per_square_degree": "How many of them a square degree of windows side by side may have, all of "
            "the same time, by the calibration of the classifier.",
        },
        default="logit",
    )
    threshold = Field[float](
        doc="Threshold, in the unit of threshold_mode. A logit of 0 is a score of 0.5, which passes far more "
        "windows of the sky without an object than with one.",
        default=0.0,
    )

    def validate(self) -> None:
        super().validate()
        if self.threshold_mode == "logit":
            return
        if not 0 < self.threshold < (1 if self.threshold_mode == "per_sequence" else float("inf")):
            raise FieldValidationError(
                type(self).threshold,
                self,
                f"threshold={self.threshold} is no rate of false positives, which "
                f"threshold_mode={self.threshold_mode!r} asks for.",
            )


def windows_per_square_degree(description: Mapping[str, Any]) -> float:
    """Return how many windows a square degree has room for, side by side.

    Parameters
    ----------
    description
        Description of the classifier of these windows.
    """
    shape = description["input_shape"]
    return SQUARE_DEGREE / (shape["height"] * shape["width"] * description["pixel_scale"] ** 2)


def choose_threshold(
    config: ThresholdConfig, description: Mapping[str, Any] | None, log: LsstLogAdapter
) -> LogitThreshold:
    """Return the threshold on the logit.

    Parameters
    ----------
    config
        Configuration.
    description
        Description of the classifier; it may be left out for a threshold on
        the logit.
    log
        Logger.

    Returns
    -------
    threshold : `LogitThreshold`
        The threshold.

    Raises
    ------
    lsst.meas.tno.nn.calibration.CalibrationError
        Raised if the classifier has no calibration, or none that tells of so
        low a rate.
    """
    if config.threshold_mode == "logit":
        return LogitThreshold(config.threshold, False)
    if description is None:
        raise ValueError(f"threshold_mode={config.threshold_mode!r} needs the classifier.")
    rate = config.threshold
    if config.threshold_mode == "per_square_degree":
        rate /= windows_per_square_degree(description)
    threshold = calibration_from_description(description).threshold_for_rate(rate)
    log.info("A rate of %.3g false positives a sequence has the logit %.4f.", rate, threshold.logit)
    if threshold.extrapolated:
        log.warning(
            "No sequence of the calibration tells of a rate of %.3g: the threshold is extrapolated, and the "
            "true rate may be several times higher or lower.",
            rate,
        )
    return threshold
