# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which visits make up which image sequence, and where their cutouts go."""

from __future__ import annotations

__all__ = ("WINDOWINGS", "SequencePlan", "bytes_per_sequence", "drop_images", "plan_sequences")

import dataclasses

import numpy as np

from ._sequences import ImageSequences

WINDOWINGS = ("all", "night")
"""Ways to divide the visits of a position: all of them in one go, or night by
night.
"""


@dataclasses.dataclass(frozen=True)
class SequencePlan:
    """The visits of each image sequence."""

    position: np.ndarray
    """Index of the position of each sequence, int64 ``(n_sequences,)``
    (`numpy.ndarray`).
    """

    visit: np.ndarray
    """Index of the visit of each image, int64 ``(n_sequences, n_times)``; -1
    for padding (`numpy.ndarray`).
    """

    def __len__(self) -> int:
        return len(self.position)

    def slots(self, visit: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the sequences and times that a visit's images go to.

        Parameters
        ----------
        visit
            Index of the visit.
        """
        sequence, time = np.nonzero(self.visit == visit)
        return sequence, time


def plan_sequences(
    covers: np.ndarray, mjd: np.ndarray, *, windowing: str, n_times: int, min_times: int
) -> SequencePlan:
    """Divide the visits of each position into runs.

    Runs are consecutive and do not overlap. Each has ``n_times`` visits but
    for the last, which is kept if it has ``min_times``.

    Parameters
    ----------
    covers
        Whether a visit covers a position, ``(n_positions, n_visits)``.
    mjd
        TAI MJD of mid-exposure of the visits, in order of time.
    windowing
        One of `WINDOWINGS`.
    n_times
        Number of images of a full sequence.
    min_times
        Number of images that a sequence must have.

    Returns
    -------
    plan : `SequencePlan`
        Sequences in order of position, then time.
    """
    night = night_of(mjd) if windowing == "night" else np.zeros(len(mjd), dtype=np.int64)
    positions, visits = [], []
    for position, covered in enumerate(covers):
        for run in _runs(np.flatnonzero(covered), night, n_times):
            if len(run) >= min_times:
                positions.append(position)
                visits.append(np.pad(run, (0, n_times - len(run)), constant_values=-1))
    return SequencePlan(
        np.array(positions, dtype=np.int64), np.array(visits, dtype=np.int64).reshape(-1, n_times)
    )


def night_of(mjd: np.ndarray) -> np.ndarray:
    """Return the nights that times belong to.

    Parameters
    ----------
    mjd
        TAI MJD.

    Returns
    -------
    night : `numpy.ndarray`
        MJD of the noon at which each observing day begins at the longitude of
        Rubin, where it is 12 h UTC as for Rubin's ``day_obs``, int64. The 37 s
        between TAI and UTC do not matter in daylight.
    """
    return np.floor(np.asarray(mjd) - 0.5).astype(np.int64)


def bytes_per_sequence(n_times: int, size: int, psf_size: int) -> int:
    """Return the size in memory of one image sequence.

    Parameters
    ----------
    n_times
        Number of images.
    size, psf_size
        Width and height of the images and of the PSF images, pixels.
    """
    row = ImageSequences.full(1, T=n_times, H=size, W=size, K=psf_size)
    return sum(array.nbytes for _, array in row.items())


def drop_images(sequences: ImageSequences, keep: np.ndarray, min_times: int) -> ImageSequences:
    """Leave images out, and sequences that have too few after it.

    Parameters
    ----------
    sequences
        Image sequences.
    keep
        Whether to keep each image, ``(n_sequences, n_times)``.
    min_times
        Number of images that a sequence must have.

    Returns
    -------
    sequences : `ImageSequences`
        Sequences in which the images that are kept come first, in order of
        time, followed by padding. The same object if nothing changes.
    """
    keep = keep & sequences.valid
    if np.array_equal(keep, sequences.valid):
        return sequences
    padding = ImageSequences.full(
        1,
        T=sequences.n_times,
        H=sequences.height,
        W=sequences.width,
        K=sequences.psf_size,
    )
    order = np.argsort(~keep, axis=1, kind="stable")
    n_kept = keep.sum(axis=1)
    for index in np.flatnonzero(np.any(keep != sequences.valid, axis=1)):
        for column, array in sequences.items():
            if column.shape[:1] == ("T",):
                array[index] = array[index][order[index]]
                array[index, n_kept[index] :] = getattr(padding, column.name)[0, n_kept[index] :]
    return sequences[n_kept >= min_times]


def _runs(visits: np.ndarray, night: np.ndarray, n_times: int) -> list[np.ndarray]:
    nights = np.split(visits, np.flatnonzero(np.diff(night[visits])) + 1)
    return [part[start : start + n_times] for part in nights for start in range(0, len(part), n_times)]
