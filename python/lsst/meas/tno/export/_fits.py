# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Image sequences as FITS files."""

from __future__ import annotations

__all__ = ("DifferentPixelsError", "to_fits_cube", "to_fits_image")

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from .._clock import tai_iso
from .._sequences import BANDS, ImageSequences, MaskBit
from ..geometry import apply_affine, invert_affine
from ..pictures import Marker

SAME_PIXELS = 1e-3
"""Pixels by which the grids of a cube's images may differ."""


class DifferentPixelsError(ValueError):
    """The images of a sequence are not on the same pixels of the sky."""


def to_fits_cube(sequences: ImageSequences, row: int, markers: Sequence[Marker] = ()) -> fits.HDUList:
    """Return a sequence as a FITS cube.

    Parameters
    ----------
    sequences
        Image sequences.
    row
        Row of the sequence.
    markers
        Objects whose positions the table of images is to have.

    Returns
    -------
    hdus : `astropy.io.fits.HDUList`
        The images (nJy), and extensions ``VARIANCE`` (nJy^2), ``MASK``,
        ``PSF`` and ``IMAGES``, a table with one row an image: visit,
        detector, band, times, and x and y of the markers, the centre of the
        lower left pixel being (1, 1). Planes are in order of time; padding is
        left out.

    Raises
    ------
    DifferentPixelsError
        Raised if the images are not on the same pixels of the sky.
    """
    shown = np.flatnonzero(sequences.valid[row])
    _check_pixels(sequences, row, shown)
    times = _time_cards(sequences, row, shown)
    bands = "".join(dict.fromkeys(BANDS[band] for band in sequences.band[row, shown]))
    cards = {**_sequence_cards(sequences, row), **times, "BAND": (bands, "bands of the images, in order")}
    cards["NIMAGES"] = (len(shown), "number of images")
    wcs = _wcs_cards(sequences, row, shown[0], cube=True)
    images = fits.table_to_hdu(_images_table(sequences, row, shown, markers), name="IMAGES")
    images.header["TIMESYS"] = times["TIMESYS"]
    return _with_checksums([*_pixel_hdus(sequences, row, shown, {**cards, **wcs}, wcs), images])


def to_fits_image(sequences: ImageSequences, row: int, index: int) -> fits.HDUList:
    """Return one image of a sequence as a FITS file.

    Parameters
    ----------
    sequences
        Image sequences.
    row
        Row of the sequence.
    index
        Index of the image.

    Returns
    -------
    hdus : `astropy.io.fits.HDUList`
        The image (nJy), and extensions ``VARIANCE`` (nJy^2), ``MASK`` and
        ``PSF``.
    """
    cards = {
        **_sequence_cards(sequences, row),
        **_time_cards(sequences, row, np.array([index])),
        "VISIT": (int(sequences.visit[row, index]), "visit"),
        "DETECTOR": (int(sequences.detector[row, index]), "detector"),
        "BAND": (BANDS[sequences.band[row, index]], "band"),
        **_finite({"NSCALE": (sequences.noise_scale[row, index], "true over diagonal variance of a filter")}),
    }
    wcs = _wcs_cards(sequences, row, index, cube=False)
    return _with_checksums(_pixel_hdus(sequences, row, index, {**cards, **wcs}, wcs))


def _check_pixels(sequences: ImageSequences, row: int, shown: np.ndarray) -> None:
    """Check that all images have the pixels of the first."""
    if len(shown) == 0:
        raise ValueError(f"Sequence {sequences.sequence_id[row]} has no image.")
    affine = sequences.pixel_to_sky[row, shown]
    corners = [(x, y) for x in (0, sequences.width - 1) for y in (0, sequences.height - 1)]
    points = np.array([apply_affine(affine, *corner) for corner in corners])
    scale = np.sqrt(abs(np.linalg.det(affine[0, :, :2])))
    centre = np.array([sequences.centre_ra[row, shown], sequences.centre_dec[row, shown]])
    moved = 3600.0 * np.ptp(centre, axis=1).max()
    if not max(np.ptp(points, axis=2).max(), moved) <= SAME_PIXELS * scale:
        raise DifferentPixelsError(
            "The images are not on the same pixels, and make no cube; export one file an image, "
            "by --one-file-per-image."
        )


def _pixel_hdus(
    sequences: ImageSequences,
    row: int,
    index: np.ndarray | int,
    cards: Mapping[str, Any],
    wcs: Mapping[str, Any],
) -> list[fits.PrimaryHDU | fits.ImageHDU]:
    """Return the images, and the extensions that say more of their pixels."""
    planes = {f"MBIT{bit.bit_length() - 1}": (bit.name, f"meaning of {bit:d} in a pixel") for bit in MaskBit}
    return [
        fits.PrimaryHDU(sequences.image[row, index], _header({**cards, "BUNIT": "nJy"})),
        fits.ImageHDU(sequences.variance[row, index], _header({**wcs, "BUNIT": "nJy2"}), name="VARIANCE"),
        fits.ImageHDU(sequences.mask[row, index], _header({**wcs, **planes}), name="MASK"),
        fits.ImageHDU(sequences.psf[row, index], name="PSF"),
    ]


def _with_checksums(hdus: Sequence[fits.PrimaryHDU | fits.ImageHDU | fits.BinTableHDU]) -> fits.HDUList:
    """Put a file together, with checksums whose comments have no date, so
    that equal sequences give equal bytes.
    """
    hdu_list = fits.HDUList(list(hdus))
    # It adds what must stand in the headers, which checksums are of, too.
    hdu_list.update_extend()
    for hdu in hdu_list:
        hdu.add_checksum(when="of this header and its data")
    return hdu_list


def _header(cards: Mapping[str, Any]) -> fits.Header:
    header = fits.Header()
    for key, value in cards.items():
        header[key] = value
    return header


def _sequence_cards(sequences: ImageSequences, row: int) -> dict[str, Any]:
    """Return what is known of a whole sequence."""
    cards: dict[str, Any] = {
        "TRACT": (int(sequences.tract[row]), "tract of the skymap"),
        "PATCH": (int(sequences.patch[row]), "patch of the tract"),
        "SEQID": (int(sequences.sequence_id[row]), "sequence_id, unique within the patch"),
        "RA": (float(sequences.ra[row]), "[deg] ICRS position the sequence is about"),
        "DEC": (float(sequences.dec[row]), "[deg] ICRS position the sequence is about"),
    }
    truth = sequences.injection
    if truth is None:
        return cards
    cards["INJECTED"] = (bool(truth.injected[row]), "holds an injected object")
    if truth.injected[row]:
        numbers = {
            "DISTANCE": (truth.distance[row], "[au] its topocentric distance"),
            "MAG": (truth.mag[row], "its AB magnitude in r"),
            "SNR": (truth.snr[row], "its S/N along its track"),
            "RATE": (truth.rate[row], "[arcsec/h] its rate of motion"),
            "POSANG": (truth.position_angle[row], "[deg] of its motion, east of north"),
        }
        cards |= {"OBJECT": (str(truth.object_id[row]), "injected object"), **_finite(numbers)}
    return cards


def _time_cards(sequences: ImageSequences, row: int, shown: np.ndarray) -> dict[str, Any]:
    """Return the times of images, in TAI."""
    mjd = sequences.mjd[row, shown]
    half = np.nan_to_num(sequences.exposure_time[row, shown].astype(float)) / 2 / 86400
    begin, average, end = float(np.min(mjd - half)), float(np.mean(mjd)), float(np.max(mjd + half))
    return {
        "TIMESYS": ("TAI", "time scale of all times"),
        "DATE-OBS": (str(tai_iso(begin)), "begin of the first exposure"),
        "DATE-BEG": (str(tai_iso(begin)), "begin of the first exposure"),
        "DATE-AVG": (str(tai_iso(average)), "mean of the middles of the exposures"),
        "DATE-END": (str(tai_iso(end)), "end of the last exposure"),
        "MJD-OBS": (begin, "[d] begin of the first exposure"),
        "MJD-BEG": (begin, "[d] begin of the first exposure"),
        "MJD-AVG": (average, "[d] mean of the middles of the exposures"),
        "MJD-END": (end, "[d] end of the last exposure"),
        **_finite({"EXPTIME": (np.sum(sequences.exposure_time[row, shown]), "[s] total exposure time")}),
    }


def _wcs_cards(sequences: ImageSequences, row: int, index: int, *, cube: bool) -> dict[str, Any]:
    """Return the gnomonic projection that the affine map stands for."""
    affine = sequences.pixel_to_sky[row, index]
    x, y = apply_affine(invert_affine(affine), 0.0, 0.0)
    matrix = affine[:, :2] / 3600.0
    cards: dict[str, Any] = {
        "WCSAXES": 3 if cube else 2,
        "RADESYS": "ICRS",
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "CRVAL1": float(sequences.centre_ra[row, index]),
        "CRVAL2": float(sequences.centre_dec[row, index]),
        "CRPIX1": float(x) + 1.0,
        "CRPIX2": float(y) + 1.0,
        "CD1_1": float(matrix[0, 0]),
        "CD1_2": float(matrix[0, 1]),
        "CD2_1": float(matrix[1, 0]),
        "CD2_2": float(matrix[1, 1]),
    }
    if cube:
        cards |= {"CTYPE3": "IMAGE", "CRVAL3": 1.0, "CRPIX3": 1.0, "CD3_3": 1.0}
    return cards


def _images_table(sequences: ImageSequences, row: int, shown: np.ndarray, markers: Sequence[Marker]) -> Table:
    mjd = sequences.mjd[row, shown]
    half = sequences.exposure_time[row, shown].astype(float) / 2 / 86400
    table = Table(
        {
            "visit": sequences.visit[row, shown],
            "detector": sequences.detector[row, shown],
            "band": [BANDS[band] for band in sequences.band[row, shown]],
            "date_obs": tai_iso(mjd - np.nan_to_num(half)),
            "mjd_avg": mjd,
            "exposure_time": sequences.exposure_time[row, shown],
            "noise_scale": sequences.noise_scale[row, shown],
        },
    )
    table["mjd_avg"].unit, table["exposure_time"].unit = "d", "s"
    for marker in markers:
        # "injected, S/N 9.3" is injected_x and injected_y.
        name = marker.label.split(",")[0]
        for axis, position in (("x", marker.x), ("y", marker.y)):
            table[f"{name}_{axis}"] = position[shown] + 1.0
            table[f"{name}_{axis}"].unit = "pixel"
    return table


def _finite(cards: Mapping[str, tuple[float, str]]) -> dict[str, Any]:
    """Return the cards of numbers that a header can hold."""
    return {key: (float(value), text) for key, (value, text) in cards.items() if np.isfinite(value)}
