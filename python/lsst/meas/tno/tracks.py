# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where injected objects and candidates are in each image."""

from __future__ import annotations

__all__ = ("candidate_positions", "find_markers", "match_candidates")

import numpy as np

from ._sequences import ImageSequences
from .candidates import Candidates
from .matched_filter import MatchedFilterResult, trajectory_positions
from .pictures import CANDIDATE_COLOUR, INJECTED_COLOUR, Marker


def match_candidates(sequences: ImageSequences, candidates: Candidates) -> np.ndarray:
    """Return which candidate is of which sequence.

    Parameters
    ----------
    sequences
        Image sequences.
    candidates
        Candidates.

    Returns
    -------
    index : `numpy.ndarray`
        Row of each sequence's candidate, ``(n_sequences,)``; -1 if it has
        none.
    """
    rows = {key: row for row, key in enumerate(_keys(candidates))}
    return np.array([rows.get(key, -1) for key in _keys(sequences)], dtype=int)


def candidate_positions(sequences: ImageSequences, candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
    """Return where candidates are in each image of their sequences.

    Parameters
    ----------
    sequences
        Image sequences.
    candidates
        Their candidates, one a sequence, in the same order.

    Returns
    -------
    x, y : `numpy.ndarray`
        Positions, ``(n, n_times)``, pixels; NaN in padding. They may be
        outside of the window.
    """
    result = MatchedFilterResult.full(sequences)
    for name in ("mjd", "ra", "dec", "rate_ra_cosdec", "rate_dec"):
        setattr(result, name, getattr(candidates, name))
    result.found[:] = True
    return trajectory_positions(sequences, result)


def find_markers(sequences: ImageSequences, candidates: Candidates | None = None) -> list[list[Marker]]:
    """Return what there is to mark in sequences.

    Parameters
    ----------
    sequences
        Image sequences.
    candidates
        Candidates, those of the sequences among them.

    Returns
    -------
    markers : `list` [`list` [`Marker`]]
        Injected object and candidate of each sequence, as far as it has them.
    """
    markers: list[list[Marker]] = [[] for _ in range(len(sequences))]
    truth = sequences.injection
    if truth is not None:
        for row in np.flatnonzero(truth.injected):
            label = f"injected, S/N {truth.snr[row]:.1f}"
            x, y = truth.inj_x[row], truth.inj_y[row]
            markers[row].append(Marker(label=label, x=x, y=y, colour=INJECTED_COLOUR))
    if candidates is not None and len(candidates):
        index = match_candidates(sequences, candidates)
        rows = np.flatnonzero(index >= 0)
        found = candidates.select(index[rows])
        x, y = candidate_positions(sequences[rows], found)
        for row, snr, *position in zip(rows, found.snr, x, y, strict=True):
            label = f"candidate, S/N {snr:.1f}"
            markers[row].append(Marker(label=label, x=position[0], y=position[1], colour=CANDIDATE_COLOUR))
    return markers


def _keys(rows: ImageSequences | Candidates) -> list[tuple[int, int, int]]:
    return list(zip(rows.tract.tolist(), rows.patch.tolist(), rows.sequence_id.tolist(), strict=True))
