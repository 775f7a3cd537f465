# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which visits make up which image sequence, and where their cutouts go."""

from __future__ import annotations

__all__ = (
    "WINDOWINGS",
    "SequencePlan",
    "allocate_sequences",
    "bytes_per_sequence",
    "drop_images",
    "locate",
    "plan_sequences",
    "spread",
    "store_cutouts",
)

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._sequences import ImageSequences
from .cutouts import Cutouts, cutout_origins
from .positions import htm_index, split_of_htm
from .visits import VisitMetadata

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

    def with_fewer_positions(self, n: int) -> SequencePlan:
        """Return a plan of at most some number of sequences, all of those of
        some of the positions.

        Parameters
        ----------
        n
            Number of sequences.

        Returns
        -------
        plan : `SequencePlan`
            As many positions as fit, at equal distances in their order.
        """
        positions, row, count = np.unique(self.position, return_inverse=True, return_counts=True)
        for n_positions in range(min(len(positions), n), -1, -1):
            chosen = spread(n_positions, len(positions))
            if count[chosen].sum() <= n:
                break
        keep = np.isin(row, chosen)
        return SequencePlan(self.position[keep], self.visit[keep])

    def with_fewer_images(self, n: int) -> SequencePlan:
        """Return a plan of at most some number of sequences, some of those of
        each position.

        Parameters
        ----------
        n
            Number of sequences.

        Returns
        -------
        plan : `SequencePlan`
            As many sequences of each position as fit, the same number where a
            position has it, spread over its time. Empty if there are more
            positions than ``n``.
        """
        _, first, count = np.unique(self.position, return_index=True, return_counts=True)
        most = max((k for k in range(count.max(initial=0) + 1) if np.minimum(count, k).sum() <= n), default=0)
        keep = np.concatenate(
            [start + spread(min(most, total), total) for start, total in zip(first, count, strict=True)]
            or [np.empty(0, dtype=np.int64)]
        )
        return SequencePlan(self.position[keep], self.visit[keep])


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


def spread(n: int, total: int) -> np.ndarray:
    """Choose some indices, at equal distances.

    Parameters
    ----------
    n
        Number of indices, at most ``total``.
    total
        Number that they are below of.

    Returns
    -------
    indices : `numpy.ndarray`
        Indices in order, int64 ``(n,)``.
    """
    return (np.arange(n) * total + total // 2) // max(n, 1)


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
        time, followed by padding, in the memory of those that were given. The
        same object if nothing changes.
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
    return _keep_rows(sequences, np.flatnonzero(n_kept >= min_times))


def locate(
    metadata: Sequence[VisitMetadata], ra: np.ndarray, dec: np.ndarray, *, size: int, min_coverage: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where positions are in visits, and which visits cover them.

    Parameters
    ----------
    metadata
        Metadata of the visits.
    ra, dec
        Positions, ``(n_positions,)``, deg.
    size
        Width and height of the cutouts, pixels.
    min_coverage
        Part of a cutout that must be on a detector for its visit to cover it.

    Returns
    -------
    x, y : `numpy.ndarray`
        Pixel positions, ``(n_positions, n_visits)``.
    covers : `numpy.ndarray`
        Whether a visit covers a position, ``(n_positions, n_visits)``.
    """
    x, y = np.empty((2, len(ra), len(metadata)))
    covers = np.zeros((len(ra), len(metadata)), dtype=bool)
    for index, visit in enumerate(metadata):
        x[:, index], y[:, index] = visit.sky_to_pixel(ra, dec)
        inside = visit.contains(x[:, index], y[:, index])
        x0, y0 = (cutout_origins(axis[inside, index], size) for axis in (x, y))
        covers[inside, index] = visit.coverage(x0, y0, size) >= min_coverage
    return x, y, covers


def allocate_sequences(
    plan: SequencePlan, ra: np.ndarray, dec: np.ndarray, *, size: int, psf_size: int, htm_level: int
) -> ImageSequences:
    """Return the sequences of a plan, without their images.

    Parameters
    ----------
    plan
        Plan of the sequences.
    ra, dec
        Positions that it is about, ``(n_positions,)``, deg.
    size, psf_size
        Width and height of the images and of the PSF images, pixels.
    htm_level
        HTM level at which training, validation and test are split.
    """
    sequences = ImageSequences.full(len(plan), T=plan.visit.shape[1], H=size, W=size, K=psf_size)
    sequences.valid[:] = plan.visit >= 0
    sequences.sequence_id[:] = np.arange(len(plan))
    sequences.ra[:], sequences.dec[:] = ra[plan.position], dec[plan.position]
    sequences.htm[:] = htm_index(ra, dec, htm_level)[plan.position]
    sequences.split[:] = split_of_htm(sequences.htm)
    return sequences


def store_cutouts(
    sequences: ImageSequences,
    slots: tuple[np.ndarray, np.ndarray],
    metadata: VisitMetadata,
    cutouts: Cutouts,
    x: np.ndarray,
    y: np.ndarray,
) -> None:
    """Put the cutouts of a visit where they belong.

    Parameters
    ----------
    sequences
        Image sequences to fill.
    slots
        Sequences and times that the cutouts go to, as of
        `SequencePlan.slots`.
    metadata
        Metadata of the visit.
    cutouts
        Its cutouts.
    x, y
        Pixel positions that they are about, ``(n,)``.
    """
    size = cutouts.image.shape[1]
    ra, dec = sequences.ra[slots[0]], sequences.dec[slots[0]]
    x0, y0 = cutout_origins(x, size), cutout_origins(y, size)
    values: dict[str, Any] = {
        "centre_ra": ra,
        "centre_dec": dec,
        "visit": metadata.visit,
        "detector": metadata.detector,
        "band": metadata.band,
        "mjd": metadata.mjd,
        "exposure_time": metadata.exposure_time,
        "noise_scale": 1.0,
        "pixel_to_sky": metadata.pixel_to_sky(x0, y0, size, ra, dec),
        **{field.name: getattr(cutouts, field.name) for field in dataclasses.fields(cutouts)},
    }
    for name, value in values.items():
        getattr(sequences, name)[slots] = value


def _keep_rows(sequences: ImageSequences, rows: np.ndarray) -> ImageSequences:
    """Keep some sequences, in the memory that they have: a copy would take
    as much again.
    """
    for _, array in sequences.items():
        for to, row in enumerate(rows):
            if to != row:
                array[to] = array[row]
    return sequences[slice(0, len(rows))]


def _runs(visits: np.ndarray, night: np.ndarray, n_times: int) -> list[np.ndarray]:
    nights = np.split(visits, np.flatnonzero(np.diff(night[visits])) + 1)
    return [part[start : start + n_times] for part in nights for start in range(0, len(part), n_times)]
