# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Candidates: what is measured of the objects that sequences seem to hold."""

from __future__ import annotations

__all__ = (
    "Candidates",
    "Tracks",
    "measure_candidates",
    "merge_candidates",
    "psf_fwhm",
    "tracks_of",
    "unique_candidates",
)

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.stats import gaussian_sigma_to_fwhm
from astropy.table import Table
from scipy.spatial import cKDTree
from scipy.special import expit

from ._columns import ColumnArrays, make_table
from ._schema import CANDIDATE_COLUMNS
from ._sequences import ImageSequences
from .geometry import gnomonic, pixel_area, polar_rate
from .matched_filter import RefinedResult, refine, search_sequences
from .photometry import njy_to_ab_mag

TYPICAL_FWHM = 0.8
"""FWHM of the PSF for candidates that come without, arcsec."""

TYPICAL_WINDOW = 4.0
"""How far apart candidates of one object may be, arcsec."""

SAME_TIME = 0.01
"""Days within which candidates are of about the same time."""


@dataclasses.dataclass(kw_only=True, eq=False)
class Candidates(ColumnArrays):
    """Candidates, at most one a sequence.

    The attributes are the columns of the table, arrays with one row a
    candidate; `CANDIDATE_COLUMNS` has their units.
    """

    _schema = CANDIDATE_COLUMNS

    tract: np.ndarray
    patch: np.ndarray
    sequence_id: np.ndarray
    split: np.ndarray
    logit: np.ndarray
    score: np.ndarray
    mjd: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    rate_ra_cosdec: np.ndarray
    rate_dec: np.ndarray
    rate: np.ndarray
    position_angle: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray
    mag: np.ndarray
    snr: np.ndarray
    n_images: np.ndarray
    covariance: np.ndarray

    def __len__(self) -> int:
        return len(self.sequence_id)


@dataclasses.dataclass(frozen=True, eq=False)
class Tracks:
    """When and how sharply the windows of candidates were seen, ``(n,)``
    each.
    """

    ra: np.ndarray
    """ICRS right ascension that the window is about, deg."""

    dec: np.ndarray
    """ICRS declination that the window is about, deg."""

    size: np.ndarray
    """Diagonal of the window, arcsec."""

    begin: np.ndarray
    """TAI MJD of the first image."""

    end: np.ndarray
    """TAI MJD of the last image."""

    fwhm: np.ndarray
    """Median FWHM of the PSF, arcsec."""

    def select(self, index: np.ndarray) -> Tracks:
        """Return some of the rows.

        Parameters
        ----------
        index
            Boolean mask or integer indices.
        """
        return Tracks(**{name: value[index] for name, value in vars(self).items()})


def measure_candidates(
    sequences: ImageSequences, logit: np.ndarray, *, relative_flux: np.ndarray | None = None, **search: Any
) -> tuple[Candidates, np.ndarray]:
    """Measure the brightest moving source of each sequence.

    Parameters
    ----------
    sequences
        Image sequences.
    logit
        Their logits, ``(n,)``.
    relative_flux
        Flux in each image over that in the reference band, ``(n, n_times)``;
        1 if not given.
    **search
        Options of `search_sequences`.

    Returns
    -------
    candidates : `Candidates`
        Position, rate and flux of the highest likelihood. Sequences in which
        no trajectory has any information have none.
    rows : `numpy.ndarray`
        Rows of the sequences that they are of.
    """
    found = search_sequences(sequences, relative_flux=relative_flux, **search)
    result = refine(sequences, found, relative_flux=relative_flux)
    rows = np.flatnonzero(result.found)
    return _to_candidates(sequences, logit, result).select(rows), rows


def _to_candidates(sequences: ImageSequences, logit: np.ndarray, result: RefinedResult) -> Candidates:
    copied = ("mjd", "ra", "dec", "rate_ra_cosdec", "rate_dec", "flux", "flux_err", "snr", "covariance")
    rate, position_angle = polar_rate(result.rate_ra_cosdec, result.rate_dec)
    return Candidates(
        **{name: getattr(sequences, name) for name in ("tract", "patch", "sequence_id", "split")},
        logit=np.asarray(logit, dtype=np.float32),
        # In float64 a sigmoid is below 1 for longer, though float32 rounds it.
        score=expit(np.asarray(logit, dtype=np.float64)).astype(np.float32),
        **{name: getattr(result, name) for name in copied},
        rate=rate,
        position_angle=position_angle,
        mag=njy_to_ab_mag(result.flux),
        n_images=result.n_images.astype(np.int32),
    )


def tracks_of(sequences: ImageSequences) -> Tracks:
    """Return when and how sharply the windows of sequences were seen.

    Parameters
    ----------
    sequences
        Image sequences, all with a valid image.

    Returns
    -------
    tracks : `Tracks`
        Tracks, one a sequence.
    """
    valid = sequences.valid
    scale = np.sqrt(pixel_area(sequences.pixel_to_sky))
    return Tracks(
        ra=sequences.ra,
        dec=sequences.dec,
        size=np.nanmax(scale, axis=1) * np.hypot(sequences.width, sequences.height),
        begin=np.min(np.where(valid, sequences.mjd, np.inf), axis=1),
        end=np.max(np.where(valid, sequences.mjd, -np.inf), axis=1),
        fwhm=np.nanmedian(psf_fwhm(sequences), axis=1),
    )


def psf_fwhm(sequences: ImageSequences) -> np.ndarray:
    """Return the FWHM of Gaussians with the same sum of squares as the PSFs.

    Parameters
    ----------
    sequences
        Image sequences.

    Returns
    -------
    fwhm : `numpy.ndarray`
        FWHM, ``(n, n_times)``, arcsec; NaN in padding.
    """
    n_pixels = 1 / np.sum(sequences.psf.astype(float) ** 2, axis=(2, 3))
    return gaussian_sigma_to_fwhm * np.sqrt(n_pixels / (4 * np.pi) * pixel_area(sequences.pixel_to_sky))


def merge_candidates(candidates: Candidates, tracks: Tracks, n_sigma: float = 5.0) -> np.ndarray:
    """Choose one of the candidates that are the same object, seen in windows
    that overlap on the sky and in time.

    Parameters
    ----------
    candidates
        Candidates.
    tracks
        What their windows are, of the same rows.
    n_sigma
        How many standard deviations positions may differ by, if those are more
        than half of the FWHM of the PSF.

    Returns
    -------
    kept_by : `numpy.ndarray`
        Row of the candidate that each is the same as, ``(n,)``; its own if it
        is to be kept. Of those that are the same, the one of the highest S/N
        is.

    Notes
    -----
    Two candidates are the same if their positions agree both at the begin and
    at the end of the time that they have in common, so that the rates agree,
    too. The errors of two measurements of the same pixels are not independent,
    and their difference is smaller than the sum that is taken here.
    """
    kept_by = np.full(len(candidates), -1)
    if len(candidates) == 0:
        return kept_by
    neighbours = _neighbours(tracks)
    identity = (candidates.sequence_id, candidates.patch, candidates.tract)
    for row in np.lexsort((*identity, -candidates.snr)):
        if kept_by[row] >= 0:
            continue
        kept_by[row] = row
        near = np.array([other for other in neighbours[row] if kept_by[other] < 0], dtype=int)
        kept_by[near[_is_same(candidates, tracks, row, near, n_sigma)]] = row
    return kept_by


def unique_candidates(tables: Sequence[Table], n_sigma: float = 5.0) -> Table:
    """Return the candidates of several patches, each object once.

    Parameters
    ----------
    tables
        Candidates of each patch, at least one. Patches overlap at their edges,
        and may both have the candidates there.
    n_sigma
        As for `merge_candidates`.

    Returns
    -------
    table : `astropy.table.Table`
        Candidates in the order of tract, patch and sequence_id. Those of about
        the same time that are the same within half of `TYPICAL_FWHM`, or
        within their errors, are one.
    """
    candidates = Candidates.stack([Candidates.from_arrays(table) for table in tables])
    candidates = candidates.select(np.lexsort((candidates.sequence_id, candidates.patch, candidates.tract)))
    same = np.ones(len(candidates))
    tracks = Tracks(
        ra=candidates.ra,
        dec=candidates.dec,
        size=TYPICAL_WINDOW * same,
        begin=candidates.mjd - SAME_TIME / 2,
        end=candidates.mjd + SAME_TIME / 2,
        fwhm=TYPICAL_FWHM * same,
    )
    kept_by = merge_candidates(candidates, tracks, n_sigma)
    return make_table(candidates.select(kept_by == np.arange(len(candidates))).items())


def _neighbours(tracks: Tracks) -> list[list[int]]:
    """Return which windows may overlap with each on the sky."""
    ra, dec = np.radians(tracks.ra), np.radians(tracks.dec)
    vectors = np.column_stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    return cKDTree(vectors).query_ball_point(
        vectors, np.radians(np.max(tracks.size) / 3600), return_sorted=True
    )


def _is_same(
    candidates: Candidates, tracks: Tracks, row: int, others: np.ndarray, n_sigma: float
) -> np.ndarray:
    """Return which candidates are the same as that of a row."""
    begin = np.maximum(tracks.begin[row], tracks.begin[others])
    end = np.minimum(tracks.end[row], tracks.end[others])
    half_fwhm = np.maximum(tracks.fwhm[row], tracks.fwhm[others]) / 2
    same = begin <= end
    for mjd in (begin, end):
        offset, covariance = _difference(candidates, row, others, mjd)
        distance = np.hypot(*offset)
        # Along the offset, in which direction the distance is.
        along = np.divide(offset, distance, out=np.zeros_like(offset), where=distance > 0)
        variance = np.einsum("in,nij,jn->n", along, covariance, along)
        allowed = np.fmax(half_fwhm, n_sigma * np.sqrt(np.fmax(variance, 0)))
        same &= distance <= allowed
    return same


def _difference(
    candidates: Candidates, row: int, others: np.ndarray, mjd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the difference in position at given times, arcsec, ``(2, n)``,
    and its covariance if they were independent, ``(n, 2, 2)``.
    """
    offset = np.array(
        gnomonic(candidates.ra[others], candidates.dec[others], candidates.ra[row], candidates.dec[row])
    )
    total = np.zeros((len(others), 2, 2))
    for rows, sign in ((others, 1.0), (np.full(len(others), row), -1.0)):
        hours = (mjd - candidates.mjd[rows]) * 24.0
        offset += sign * hours * np.array([candidates.rate_ra_cosdec[rows], candidates.rate_dec[rows]])
        motion = np.zeros((len(rows), 2, 4))
        motion[:, (0, 1), (0, 1)] = 1.0
        motion[:, (0, 1), (2, 3)] = hours[:, np.newaxis]
        total += motion @ candidates.covariance[rows] @ np.swapaxes(motion, 1, 2)
    return offset, total
