# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects that training injects anew in every epoch.

The noise of a training sequence is the same in every epoch, and a network that
always sees it with the same object learns it by heart. Here the injected
object is subtracted from each sequence, and the track of any of them is put
into any, shifted and with another S/N.
"""

from __future__ import annotations

__all__ = ("REINJECTION_COLUMNS", "Reinjector")

from collections.abc import Mapping, Sequence

import numpy as np

from lsst.utils.logging import LsstLogAdapter

from .._moving_sources import MovingSources
from .._sequences import BANDS
from ..injection import is_on_image
from ..photometry import TNO_COLOURS, ab_mag_to_njy, electrons_per_njy
from ._errors import TrainingSetError
from .array_store import ArrayStore
from .training_config import ReinjectionConfig

_PIXELS = ("image", "variance", "noise_scale", "mask", "psf", "valid", "mjd")

REINJECTION_COLUMNS = (
    *_PIXELS,
    "band",
    "exposure_time",
    "pixel_to_sky",
    "injected",
    "mag",
    "snr",
    "inj_x",
    "inj_y",
    "inj_flux",
)
"""Columns of injected image sequences that are needed."""

MAX_LOSS = 0.1
"""Fraction of the images that a track may leave early in another sequence."""

CHUNK = 64
"""Sequences that are rendered at a time: 1 MB each."""

MAX_HOLE = 0.1
"""Fraction of an object's flux that a subtraction may take too much."""


class Reinjector:
    """Training sequences without their objects, and the tracks of these.

    Parameters
    ----------
    store
        Empty store that takes the sequences: image, variance, mask and PSF,
        240 kB for a sequence of 50 images of 15x15 pixels.
    columns
        Further columns that `load` is to return.
    config
        Configuration.

    Notes
    -----
    Sources are rendered with the PSF of each image at the place where they
    are, and have the Poisson noise of their photons, in image and variance.
    It is taken to be independent between the pixels of a warp: an
    approximation of what, for S/N 12 in 50 images of 30 s in r, is at most
    1.5 % of a pixel's variance, and grows in proportion to the S/N.

    Subtracted sequences count as clean up to ``max_subtracted_snr``. Of
    noise-free objects of S/N 12, injected before the warping, a matched filter
    along the track finds -0.010 sigma on average after the subtraction, and
    0.018 at most, with lanczos3; -0.011 and 0.017 with lanczos5, -0.015 and
    0.05 bicubic, -0.05 and 0.22 bilinear. It grows in proportion to the S/N.
    """

    def __init__(self, store: ArrayStore, columns: Sequence[str], config: ReinjectionConfig) -> None:
        self._config = config
        self._pixels = store.child("pixels")
        self._tracks = store.child("tracks")
        self._columns = tuple(dict.fromkeys((*_PIXELS, *columns)))
        self._affine: np.ndarray | None = None
        self._snr = np.empty(0)
        self._residual = np.empty(0)
        self.is_background = np.empty(0, dtype=bool)
        """Whether each sequence, as it was appended, is one without an object
        now (`numpy.ndarray` of `bool`).
        """

    def append(self, columns: Mapping[str, np.ndarray]) -> None:
        """Append sequences, and subtract the objects from them.

        Parameters
        ----------
        columns
            Arrays of `REINJECTION_COLUMNS` and of the further columns,
            ``(n, ...)``.

        Raises
        ------
        TrainingSetError
            Raised if the truth of an object is missing, an image has no band
            or exposure time, or the images are not all on the same grid.
        """
        self._check(columns)
        injected = columns["injected"]
        relative = _relative_flux(columns)
        electrons = electrons_per_njy(columns["band"], columns["exposure_time"])
        stored = {name: columns[name] for name in self._columns}
        for name in ("image", "variance", "mask"):
            stored[name] = stored[name].copy()
        faint = injected & (columns["snr"] <= self._config.max_subtracted_snr)
        rows = np.flatnonzero(faint)
        for start in range(0, len(rows), CHUNK):
            self._subtract(stored, columns, rows[start : start + CHUNK], relative, electrons)
        self._pixels.append({**stored, "relative_flux": relative, "electrons": electrons})
        track = {name: columns[name].astype(np.float32) for name in ("inj_x", "inj_y")}
        self._tracks.append({**track, "valid": columns["valid"], "mjd": columns["mjd"]})
        self._snr = np.append(self._snr, np.where(injected, columns["snr"], np.nan))
        self.is_background = np.append(self.is_background, ~injected | faint)

    def report(self, log: LsstLogAdapter) -> None:
        """Log how many sequences there are, and warn if the subtraction took
        more than was there.

        Parameters
        ----------
        log
            Logger.
        """
        n_injected = np.count_nonzero(np.isfinite(self._snr))
        log.info(
            "Reinjection: %d tracks, %d sequences without an object, %d of them by subtraction.",
            n_injected,
            np.count_nonzero(self.is_background),
            len(self._residual),
        )
        if not len(self._residual):
            return
        left = float(np.median(self._residual))
        # The residuals scatter by 1 over the S/N of their objects; the factor
        # is that of a median, and 3 sigma.
        error = 3 * 1.25 * float(np.median(np.abs(self._residual - left))) * 1.48 / len(self._residual) ** 0.5
        log.info("Of the flux of the subtracted objects %.3f is left (median).", left)
        if left < -MAX_HOLE - error:
            log.warning(
                "The subtraction of the injected objects leaves holes of %.2f of their flux. Was the static "
                "sky of the sequences subtracted after the injection? Then reinject is not for them.",
                -left,
            )

    def load(
        self, rows: np.ndarray, inject: np.ndarray, rng: np.random.Generator
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return sequences, some of them with a new object.

        Parameters
        ----------
        rows
            Indices of the sequences, in the order in which they were
            appended, ``(n,)``.
        inject
            Whether each is to get an object, bool ``(n,)``.
        rng
            Source of randomness.

        Returns
        -------
        columns : `dict` [`str`, `numpy.ndarray`]
            Columns of the sequences, ``(n, ...)``.
        injected : `numpy.ndarray`
            Whether each holds an object, bool ``(n,)``. It does not if no
            track was found that stays inside, or all pixels on it are masked.
        """
        columns = self._pixels.load(rows)
        relative, electrons = columns.pop("relative_flux"), columns.pop("electrons")
        chosen = np.flatnonzero(inject)
        x, y = self._draw_tracks(columns["mjd"][chosen], columns["valid"][chosen], columns["image"], rng)
        snr = self._draw_snr(len(chosen), rng)
        injected = np.zeros(len(rows), dtype=bool)
        if len(chosen):
            sources = MovingSources(columns, chosen, x, y)
            unit_snr = sources.snr(relative[chosen])
            scale = np.divide(snr, unit_snr, out=np.zeros_like(snr), where=unit_snr > 0)
            sources.add(scale[:, np.newaxis] * relative[chosen], electrons[chosen], rng)
            injected[chosen] = scale > 0
        return columns, injected

    def _check(self, columns: Mapping[str, np.ndarray]) -> None:
        truth = [columns[name] for name in ("mag", "snr")]
        truth += [np.where(columns["valid"], columns[name], 0.0).sum(axis=1) for name in ("inj_x", "inj_y")]
        lacking = columns["injected"] & ~np.all(np.isfinite(truth), axis=0)
        if np.any(lacking):
            raise TrainingSetError(
                f"{np.count_nonzero(lacking)} injected sequences lack the magnitude, the S/N or the position "
                "of their object. Train without reinject."
            )
        electrons = electrons_per_njy(columns["band"], columns["exposure_time"])
        if np.any(columns["valid"] & ~(np.isfinite(electrons) & (electrons > 0))):
            raise TrainingSetError(
                "The noise of a source is not defined: an image has no band or exposure time. Train without "
                "reinject."
            )
        affine = columns["pixel_to_sky"][columns["valid"]]
        if not len(affine):
            return
        if self._affine is None:
            self._affine = affine[0]
        # A hundredth of a pixel at the edge of a window.
        if not np.allclose(affine, self._affine, rtol=0, atol=1e-4):
            raise TrainingSetError(
                "The images are not all on the same grid: a track means another motion in each sequence. "
                "Warp them, or train without reinject."
            )

    def _subtract(
        self,
        stored: dict[str, np.ndarray],
        columns: Mapping[str, np.ndarray],
        rows: np.ndarray,
        relative: np.ndarray,
        electrons: np.ndarray,
    ) -> None:
        """Subtract objects, and note what is left of them."""
        # A source off the image has wings on it, but no inj_flux.
        flux = ab_mag_to_njy(columns["mag"][rows, np.newaxis]) * relative[rows]
        flux = np.where(columns["inj_flux"][rows] > 0, columns["inj_flux"][rows], flux)
        sources = MovingSources(stored, rows, columns["inj_x"][rows], columns["inj_y"][rows])
        sources.subtract(flux, electrons[rows])
        snr = sources.snr(flux)
        seen = snr > 0
        self._residual = np.append(self._residual, sources.measure(flux)[seen] / snr[seen])

    def _draw_snr(self, n: int, rng: np.random.Generator) -> np.ndarray:
        snr = np.sort(self._snr[self._snr > 0])
        fraction = rng.random(n)
        if not len(snr):
            return np.zeros(n)
        if self._config.snr_distribution == "log_uniform":
            return snr[0] * (snr[-1] / snr[0]) ** fraction
        return np.interp(fraction, np.linspace(0, 1, len(snr)), snr)

    def _draw_tracks(
        self, mjd: np.ndarray, valid: np.ndarray, image: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return positions at the images ``(n, n_times)``; NaN without a
        track.
        """
        donors = np.flatnonzero(np.isfinite(self._snr))
        position = np.full((2, *mjd.shape), np.nan)
        pending = np.arange(len(mjd))
        for _ in range(self._config.max_draws):
            if not len(pending):
                break
            donor = self._tracks.load(donors[rng.integers(len(donors), size=len(pending))])
            shift = rng.uniform(-self._config.max_shift, self._config.max_shift, (2, len(pending), 1))
            new = shift + _transfer(donor, mjd[pending], valid[pending])
            fits = _stays(new, valid[pending], donor, image.shape[-2:])
            position[:, pending[fits]] = new[:, fits]
            pending = pending[~fits]
        return position[0], position[1]


def _stays(
    position: np.ndarray, valid: np.ndarray, donor: Mapping[str, np.ndarray], size: tuple[int, int]
) -> np.ndarray:
    """Tell which tracks are on about as many images as where they are from."""
    is_on = is_on_image(position[0], position[1], *size) & valid
    before = is_on_image(donor["inj_x"], donor["inj_y"], *size) & donor["valid"]
    n_on = is_on.sum(axis=1)
    expected = before.sum(axis=1) / np.maximum(donor["valid"].sum(axis=1), 1)
    return (n_on > 0) & (n_on >= (1 - MAX_LOSS) * expected * valid.sum(axis=1))


def _transfer(track: Mapping[str, np.ndarray], mjd: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return where tracks are at other times, counted from their means, ``(2,
    n, n_times)``: on the straight line that fits a track best, and off it as
    the track is.
    """
    moved = np.full((2, *mjd.shape), np.nan)
    for row in range(len(mjd)):
        known = track["valid"][row]
        old = track["mjd"][row, known]
        new = mjd[row, valid[row]]
        old, new = old - old.mean(), new - new.mean()
        spread = np.sum(old**2)
        for axis, name in enumerate(("inj_x", "inj_y")):
            values = track[name][row, known].astype(float)
            slope = np.sum(old * values) / spread if spread > 0 else 0.0
            moved[axis, row, valid[row]] = slope * new + np.interp(new, old, values - slope * old)
    return moved


def _relative_flux(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the flux of an object of 1 nJy in the reference band in each
    image: the median of the objects in its band, or a typical colour.
    """
    by_band = np.zeros(256)
    by_band[: len(BANDS)] = [10.0 ** (-0.4 * TNO_COLOURS[name]) for name in BANDS]
    ratio = columns["inj_flux"] / ab_mag_to_njy(columns["mag"])[:, np.newaxis]
    for band in range(len(BANDS)):
        seen = (columns["band"] == band) & (ratio > 0)
        if np.any(seen):
            by_band[band] = np.median(ratio[seen])
    return by_band[columns["band"]]
