# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Detection efficiency: which injected objects were found, and why not."""

from __future__ import annotations

__all__ = (
    "REASONS",
    "TRACK_COLUMNS",
    "EfficiencyFit",
    "Trials",
    "binomial_interval",
    "efficiency_curve",
    "fit_efficiency",
    "is_repeated",
    "make_bins",
    "reasons_for_misses",
    "visibility",
)

import dataclasses
from collections.abc import Sequence

import numpy as np
from astropy.table import Table
from scipy.stats import beta

from ._efficiency_fit import EfficiencyFit, efficiency_curve, fit_efficiency
from ._sequences import UNUSABLE
from .injection import is_on_image

REASONS = ("outside", "masked", "below_threshold", "merged")
"""Why objects are missed; the first that holds. What is merged is above the
threshold, but not in the list of candidates: that of another window was taken
for it, or the motion in this one cannot be measured.
"""

MIN_SEEN = 0.5
"""Part of the images that an object must be inside of the window in, and part
of those in which its pixel must be usable.
"""

ROUNDING = 1e7
"""Positions are the same to one over this of a degree, 0.4 mas."""

CONFIDENCE = 0.6827
"""Probability of intervals, that of one standard deviation."""

SCORE_COLUMNS_USED = (
    "tract",
    "patch",
    "sequence_id",
    "split",
    "ra",
    "dec",
    "logit",
    "injected",
    "object_id",
    "mag",
    "snr",
    "rate",
)

TRACK_COLUMNS = ("sequence_id", "valid", "mask", "inj_x", "inj_y")
"""Columns of image sequences that tell whether an object could be seen."""


@dataclasses.dataclass(kw_only=True, eq=False)
class Trials:
    """Sequences with and without an injected object that were searched, one a
    row; `SCHEMAS` has the units, and what is not explained here.
    """

    tract: np.ndarray
    patch: np.ndarray
    sequence_id: np.ndarray
    split: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    logit: np.ndarray
    injected: np.ndarray
    object_id: np.ndarray
    mag: np.ndarray
    snr: np.ndarray
    rate: np.ndarray

    is_candidate: np.ndarray
    """Whether the sequence is in the list of candidates (`bool`)."""

    inside: np.ndarray
    """Fraction of the images in which the object is inside of the window."""

    usable: np.ndarray
    """Fraction of those in which its pixel is usable."""

    def __len__(self) -> int:
        return len(self.sequence_id)

    def select(self, index: np.ndarray) -> Trials:
        """Return some of the rows.

        Parameters
        ----------
        index
            Boolean mask or integer indices.
        """
        return Trials(**{name: value[index] for name, value in vars(self).items()})

    @classmethod
    def from_tables(cls, scores: Table, candidates: Table, sequences: Table) -> Trials:
        """Return the trials of one patch.

        Parameters
        ----------
        scores
            Scores of injected sequences.
        candidates
            Candidates of the same sequences.
        sequences
            The sequences themselves, of which `TRACK_COLUMNS` are needed.

        Raises
        ------
        ValueError
            Raised if a sequence with a score is missing.
        """
        order = np.argsort(np.asarray(sequences["sequence_id"]), kind="stable")
        known, wanted = np.asarray(sequences["sequence_id"])[order], np.asarray(scores["sequence_id"])
        if not np.all(np.isin(wanted, known)):
            raise ValueError(
                f"{np.count_nonzero(~np.isin(wanted, known))} of {len(wanted)} scores are of sequences that "
                "are not there. Score these sequences again."
            )
        inside, usable = visibility(sequences[order[np.searchsorted(known, wanted)]])
        return cls(
            **{name: np.asarray(scores[name]) for name in SCORE_COLUMNS_USED},
            is_candidate=np.isin(wanted, np.asarray(candidates["sequence_id"])),
            inside=inside,
            usable=usable,
        )

    @classmethod
    def stack(cls, parts: Sequence[Trials]) -> Trials:
        """Concatenate trials, in the order of their IDs.

        Parameters
        ----------
        parts
            What to concatenate, at least one.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        whole = cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
        return whole.select(np.lexsort((whole.sequence_id, whole.patch, whole.tract)))

    def found(self, threshold: float) -> np.ndarray:
        """Return which objects are in the list of candidates, under the
        sequence's own ID or, if the same object was seen in several
        sequences, under that of another.

        Parameters
        ----------
        threshold
            Lowest logit of a candidate.
        """
        above = self.injected & (self.logit >= threshold)
        listed = self.object_id[above & self.is_candidate]
        return above & (self.is_candidate | np.isin(self.object_id, listed))


def is_repeated(trials: Trials) -> np.ndarray:
    """Return which sequences are of a position that another patch has, too.

    Parameters
    ----------
    trials
        Sequences, in the order of their IDs.

    Returns
    -------
    repeated : `numpy.ndarray`
        False for all sequences of the first patch that has a position, and
        True for those of other patches, bool ``(n,)``.
    """
    key = np.column_stack([np.rint(trials.ra * ROUNDING), np.rint(trials.dec * ROUNDING)]).astype(np.int64)
    key[:, 0] %= int(360 * ROUNDING)
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    owner = first[inverse.reshape(-1)]
    return (trials.tract != trials.tract[owner]) | (trials.patch != trials.patch[owner])


def visibility(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Return in how many images injected objects could be seen.

    Parameters
    ----------
    table
        Image sequences with the columns ``valid``, ``mask``, ``inj_x`` and
        ``inj_y``.

    Returns
    -------
    inside : `numpy.ndarray`
        Fraction of the images in which the object is inside of the window,
        ``(n,)``; 0 without an object.
    usable : `numpy.ndarray`
        Fraction of those in which the pixel that it is on is usable, ``(n,)``.
    """
    valid, mask = np.asarray(table["valid"]), np.asarray(table["mask"])
    x, y = np.asarray(table["inj_x"]), np.asarray(table["inj_y"])
    height, width = mask.shape[2:]
    inside = valid & is_on_image(x, y, height, width)
    column, row = (np.rint(np.where(inside, axis, 0)).astype(int) for axis in (x, y))
    image = np.ix_(np.arange(mask.shape[0]), np.arange(mask.shape[1]))
    pixel = mask[(*image, np.clip(row, 0, height - 1), np.clip(column, 0, width - 1))]
    usable = inside & ((pixel & UNUSABLE) == 0)
    return _fraction(inside.sum(axis=1), valid.sum(axis=1)), _fraction(usable.sum(axis=1), inside.sum(axis=1))


def reasons_for_misses(trials: Trials, threshold: float) -> np.ndarray:
    """Return why objects were not found.

    Parameters
    ----------
    trials
        Sequences.
    threshold
        Lowest logit of a candidate.

    Returns
    -------
    reason : `numpy.ndarray`
        One of `REASONS` for each row; the empty string for what was found, and
        for sequences without an object.
    """
    outside = trials.inside < MIN_SEEN
    masked = (trials.usable < MIN_SEEN) | np.isneginf(trials.logit)
    reason = np.select(
        [outside, masked, trials.logit < threshold], [REASONS[0], REASONS[1], REASONS[2]], REASONS[3]
    )
    return np.where(trials.injected & ~trials.found(threshold), reason, "")


def binomial_interval(n_found: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return intervals of efficiencies, of 68.27 % probability.

    Parameters
    ----------
    n_found
        Numbers of successes.
    n
        Numbers of trials.

    Returns
    -------
    low, high : `numpy.ndarray`
        Ends of Jeffreys' interval (Brown, Cai & DasGupta 2001, Statist. Sci.
        16, 101), which for no success begins at 0 and for nothing else ends at
        1; 0 and 1 without trials.
    """
    n_found, n = np.asarray(n_found), np.asarray(n)
    tail = (1 - CONFIDENCE) / 2
    low = np.where(n_found > 0, beta.ppf(tail, n_found + 0.5, n - n_found + 0.5), 0.0)
    high = np.where(n_found < n, beta.ppf(1 - tail, n_found + 0.5, n - n_found + 0.5), 1.0)
    return low, high


def make_bins(
    values: np.ndarray, width: float | None, max_bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the edges of bins that hold all of some values.

    Parameters
    ----------
    values
        Values to bin, ``(n,)``; at least one.
    width
        Width of the bins, which begin at its multiples; the smallest of 1, 2
        and 5 times a power of ten that leaves no more than ``max_bins`` if not
        given.
    max_bins
        Largest number of bins if no width is given.

    Returns
    -------
    low : `numpy.ndarray`
        Lower edges of the bins that are not empty.
    high : `numpy.ndarray`
        Their upper edges.
    index : `numpy.ndarray`
        Bin of each value.
    """
    if width is None:
        span = float(np.ptp(values))
        power = 10.0 ** np.floor(np.log10(span / max_bins)) if span > 0 else 1.0
        width = next(
            (step * power for step in (1, 2, 5, 10) if span / (step * power) <= max_bins - 1), 20 * power
        )
    multiple, index = np.unique(np.floor(values / width), return_inverse=True)
    # Without the digits that a product of decimal fractions does not have.
    low, high = (np.round(edge * width, 12) for edge in (multiple, multiple + 1))
    return low, high, index


def _fraction(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
