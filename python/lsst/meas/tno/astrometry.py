# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Positions of candidates in single images, or in a few images each."""

from __future__ import annotations

__all__ = ("Positions", "measure_light_curve", "measure_positions")

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ._sequences import ImageSequences
from .candidates import Candidates, psf_fwhm
from .geometry import inverse_gnomonic
from .matched_filter import band_flux_ratio
from .matched_filter._sums import PixelSums, pixel_sums, positions_inside
from .matched_filter._trajectories import plane_to_pixel
from .photometry import TNO_COLOURS, njy_to_ab_mag
from .tracks import candidate_positions

MIN_SNR_OF_MAG = 3.0
"""S/N in a band from which on a magnitude is given."""

_MAG_PER_SNR = 2.5 / np.log(10.0)


@dataclasses.dataclass(kw_only=True, eq=False)
class Positions:
    """Measured positions, ``(m,)`` each; those of a candidate stand together
    in order of band and time.
    """

    candidate: np.ndarray
    """Row of the candidate."""

    mjd: np.ndarray
    """TAI MJD; of several images the mean, weighted as the position is."""

    ra: np.ndarray
    """ICRS right ascension, deg."""

    dec: np.ndarray
    """ICRS declination, deg."""

    rms_ra: np.ndarray
    """Standard deviation of ra * cos(dec), arcsec."""

    rms_dec: np.ndarray
    """Standard deviation of dec, arcsec."""

    correlation: np.ndarray
    """Correlation of the two."""

    band: np.ndarray
    """Index in `BANDS`."""

    mag: np.ndarray
    """AB magnitude of all images of the band; NaN where it is too faint for
    one.
    """

    mag_err: np.ndarray
    """Its standard deviation."""

    snr: np.ndarray
    """S/N expected of the candidate's flux in the image, or the images."""

    fwhm: np.ndarray
    """FWHM of the PSF, arcsec."""

    exposure_time: np.ndarray
    """Exposure time, of several images in all, s."""

    visit: np.ndarray
    """Visit, of several images the first."""

    detector: np.ndarray
    """Detector of that visit."""

    n_images: np.ndarray
    """Number of images."""

    def __len__(self) -> int:
        return len(self.mjd)

    def select(self, index: np.ndarray) -> Positions:
        """Return some of the positions.

        Parameters
        ----------
        index
            Boolean mask or integer indices.
        """
        return Positions(**{name: value[index] for name, value in vars(self).items()})

    @classmethod
    def from_parts(cls, parts: Sequence[Mapping[str, float]]) -> Positions:
        """Put positions together.

        Parameters
        ----------
        parts
            Values of all attributes, of each position.
        """
        whole = ("candidate", "band", "visit", "detector", "n_images")
        return cls(
            **{
                field.name: np.array(
                    [part[field.name] for part in parts], dtype=int if field.name in whole else float
                )
                for field in dataclasses.fields(cls)
            }
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Positions]) -> Positions:
        """Concatenate positions.

        Parameters
        ----------
        parts
            Positions, at least one set of them.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def measure_positions(
    sequences: ImageSequences,
    candidates: Candidates,
    *,
    n_stack: int = 1,
    colours: Mapping[str, float] = TNO_COLOURS,
    reference_band: str = "r",
) -> tuple[Positions, int]:
    """Measure where candidates are in each image, or in several images each.

    Parameters
    ----------
    sequences
        Image sequences.
    candidates
        Their candidates, one a sequence, in the same order.
    n_stack
        Number of images of one band to measure one position in.
    colours
        AB magnitude in each band less that in r.
    reference_band
        Band of the candidates' fluxes.

    Returns
    -------
    positions : `Positions`
        Positions in the images that a candidate is on.
    n_left_out : `int`
        Number of positions that are left out, because their standard deviation
        would be more than the FWHM of the PSF.

    Notes
    -----
    The position in an image is where a step of Newton from the candidate's
    trajectory leads, with the Fisher matrix for a source of the known flux: it
    is linear in the pixels, so that no image is too faint for it, and those of
    different images are independent. All of them together give back the
    trajectory. Of several images, one offset is fitted, at the candidate's
    rate.
    """
    if n_stack < 1:
        raise ValueError(f"n_stack={n_stack} must be 1 or more.")
    x, y, inside = positions_inside(sequences, *candidate_positions(sequences, candidates))
    sums = pixel_sums(sequences, x, y, inside)
    ratio = band_flux_ratio(sequences.band, colours, reference_band)
    flux = candidates.flux[:, np.newaxis] * ratio
    information, gradient = _on_sky(sequences, sums, flux)
    seeing = psf_fwhm(sequences)
    parts = []
    for row, images in _groups(sequences, np.linalg.det(information) > 0, n_stack):
        in_band = sequences.band[row] == sequences.band[row, images[0]]
        mag, mag_err = _magnitude(sums.psi[row, in_band].sum(), sums.phi[row, in_band].sum())
        weight = np.trace(information[row, images], axis1=1, axis2=2)
        parts.append(
            {
                "candidate": row,
                **_position(sequences, candidates, row, images, information, gradient),
                "mag": mag,
                "mag_err": mag_err,
                "snr": np.sqrt(np.sum(flux[row, images] ** 2 * sums.phi[row, images])),
                "fwhm": np.average(seeing[row, images], weights=weight),
                "exposure_time": np.sum(sequences.exposure_time[row, images], dtype=float),
                **{name: getattr(sequences, name)[row, images[0]] for name in ("band", "visit", "detector")},
                "n_images": len(images),
            }
        )
    positions = Positions.from_parts(parts)
    certain = np.maximum(positions.rms_ra, positions.rms_dec) <= positions.fwhm
    return positions.select(certain), int(np.count_nonzero(~certain))


def measure_light_curve(sequences: ImageSequences, candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
    """Measure the flux of candidates in each image, at their trajectories.

    Parameters
    ----------
    sequences
        Image sequences.
    candidates
        Their candidates, one a sequence, in the same order.

    Returns
    -------
    flux, flux_err : `numpy.ndarray`
        Flux in the band of the image and its standard deviation, nJy,
        ``(n, n_times)``; NaN where the candidate is on no usable pixel.
    """
    sums = pixel_sums(sequences, *positions_inside(sequences, *candidate_positions(sequences, candidates)))
    phi = np.where(sums.phi > 0, sums.phi, np.nan)
    return sums.psi / phi, 1 / np.sqrt(phi)


def _on_sky(sequences: ImageSequences, sums: PixelSums, flux: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the Fisher matrices of the positions, arcsec^-2, and the
    gradients of the log-likelihood, arcsec^-1, on axes east and north.
    """
    to_pixel = np.nan_to_num(plane_to_pixel(sequences)[..., :2])
    residual = sums.data_gradient - flux[..., np.newaxis] * sums.psf_gradient
    information = np.einsum("ntab,nt,ntac,ntcd->ntbd", to_pixel, flux**2, sums.curvature, to_pixel)
    return information, np.einsum("ntab,nt,nta->ntb", to_pixel, flux, residual)


def _groups(sequences: ImageSequences, known: np.ndarray, n_stack: int) -> Iterator[tuple[int, np.ndarray]]:
    """Iterate over rows and the images to measure one position in."""
    for row in range(len(sequences)):
        for band in np.unique(sequences.band[row, known[row]]):
            images = np.flatnonzero(known[row] & (sequences.band[row] == band))
            for group in np.array_split(images, -(-len(images) // n_stack)):
                yield row, group


def _position(
    sequences: ImageSequences,
    candidates: Candidates,
    row: int,
    images: np.ndarray,
    information: np.ndarray,
    gradient: np.ndarray,
) -> dict[str, float]:
    """Return the position in some images together, and its errors."""
    covariance = np.linalg.inv(information[row, images].sum(axis=0))
    offset = covariance @ gradient[row, images].sum(axis=0)
    weight = np.trace(information[row, images], axis1=1, axis2=2)
    mjd = np.average(sequences.mjd[row, images], weights=weight)
    hours = (mjd - candidates.mjd[row]) * 24.0
    rate = np.array([candidates.rate_ra_cosdec[row], candidates.rate_dec[row]])
    # The plane touches the sky at the candidate, where rates on both agree.
    xi, eta = offset + hours * rate
    ra, dec = inverse_gnomonic(xi, eta, candidates.ra[row], candidates.dec[row])
    rms = np.sqrt(np.diag(covariance))
    return {
        "mjd": float(mjd),
        "ra": float(ra),
        "dec": float(dec),
        "rms_ra": rms[0],
        "rms_dec": rms[1],
        "correlation": covariance[0, 1] / (rms[0] * rms[1]),
    }


def _magnitude(psi: float, phi: float) -> tuple[float, float]:
    """Return the magnitude that sums of a matched filter give, and its
    error.
    """
    snr = psi / np.sqrt(phi)
    if not snr >= MIN_SNR_OF_MAG:
        return np.nan, np.nan
    return float(njy_to_ab_mag(psi / phi)), float(_MAG_PER_SNR / snr)
