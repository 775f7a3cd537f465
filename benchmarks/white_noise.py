# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sequences of white noise with a known PSF, with and without objects."""

from __future__ import annotations

__all__ = (
    "INTERVAL",
    "MAX_MOTION",
    "PIXEL_SCALE",
    "SNR_LIMITS",
    "Sky",
    "even_times",
    "gaussian_psf",
    "inject_linear",
)

import dataclasses
from collections.abc import Iterator

import numpy as np

from lsst.meas.tno import ImageSequences
from lsst.meas.tno.geometry import north_up_affine
from lsst.meas.tno.tasks import InjectTnosConfig, InjectTnosTask

PIXEL_SCALE = 0.2
"""Pixel scale, arcsec."""

MAX_MOTION = 7.0
"""Longest motion over a sequence, pixels."""

SNR_LIMITS = (2.0, 12.0)
"""Lowest and highest S/N of objects, in training and test."""

INTERVAL = 41.0
"""Time from one image to the next, s."""

EDGE_MARGIN = 0.3
"""Distance from the edge of the window that objects keep, arcsec."""

PSF_SIZE = 15
"""Width and height of the PSF images, pixels."""

BLOCK = 500
"""Sequences in memory at a time."""


def even_times(n_images: int) -> np.ndarray:
    """Return TAI MJDs of images one `INTERVAL` apart, ``(n_images,)``."""
    return 61000.0 + np.arange(n_images) * INTERVAL / 86400


def gaussian_psf(sigma: np.ndarray | float, size: int = PSF_SIZE) -> np.ndarray:
    """Return images of Gaussian PSFs with sigmas in pixels, ``(..., size,
    size)``.
    """
    offset = np.arange(size) - size // 2
    profile = np.exp(-0.5 * (offset / np.asarray(sigma)[..., np.newaxis]) ** 2)
    profile /= profile.sum(axis=-1, keepdims=True)
    return profile[..., :, np.newaxis] * profile[..., np.newaxis, :]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sky:
    """What the images of sequences of white noise are like.

    Each image has its own where there is an array ``(n_images,)``.
    """

    mjd: np.ndarray = dataclasses.field(default_factory=lambda: even_times(50))
    """TAI MJD of the images, ``(n_images,)``."""

    psf_sigma: np.ndarray | float = 1.8
    """Width of the PSF, pixels."""

    noise: np.ndarray | float = 20.0
    """Noise of a pixel, nJy."""

    band: np.ndarray | int = 2
    """Index of the band in "ugrizy"."""

    n_times: int = 50
    """Images that a sequence has room for; the rest is padding."""

    size: int = 15
    """Width and height of the images, pixels."""

    def blank(self, rng: np.random.Generator, n: int, first: int = 0) -> ImageSequences:
        """Return sequences without an object.

        Parameters
        ----------
        rng
            Source of the noise.
        n
            Number of sequences.
        first
            The first ``sequence_id``.
        """
        sequences = ImageSequences.full(n, T=self.n_times, H=self.size, W=self.size, K=PSF_SIZE)
        sequences.sequence_id[:] = first + np.arange(n)
        sequences.ra[:], sequences.dec[:] = 150.1, 2.2
        real = (slice(None), slice(len(self.mjd)))
        shape = (n, len(self.mjd), self.size, self.size)
        noise = np.broadcast_to(np.asarray(self.noise, dtype=np.float32), len(self.mjd))[:, None, None]
        sequences.centre_ra[real], sequences.centre_dec[real] = 150.1, 2.2
        sequences.valid[real], sequences.visit[real] = True, np.arange(len(self.mjd))
        sequences.detector[real] = 0
        sequences.band[real], sequences.mjd[real] = self.band, self.mjd
        sequences.exposure_time[real], sequences.noise_scale[real], sequences.mask[real] = 30.0, 1.0, 0
        sequences.image[real] = noise * rng.standard_normal(shape, dtype=np.float32)
        sequences.variance[real] = noise**2
        sequences.psf[real] = gaussian_psf(self.psf_sigma)
        sequences.pixel_to_sky[real] = north_up_affine(self.size, PIXEL_SCALE)
        return sequences

    def clean(self, seed: int, n: int) -> Iterator[ImageSequences]:
        """Yield blocks of sequences without an object.

        Parameters
        ----------
        seed
            Seed of the noise.
        n
            Number of sequences in all.
        """
        for first in range(0, n, BLOCK):
            yield self.blank(np.random.default_rng([seed, first]), min(BLOCK, n - first), first)

    def injected(
        self, seed: int, n: int, snr: tuple[float, float], max_motion: float = MAX_MOTION
    ) -> Iterator[ImageSequences]:
        """Yield blocks of sequences that have an object each.

        Parameters
        ----------
        seed
            Seed of the noise and of the objects.
        n
            Number of sequences in all.
        snr
            Lowest and highest S/N.
        max_motion
            Longest motion over a sequence, pixels.
        """
        # Other noise than that of the clean ones.
        for sequences in self.clean(seed + 1_000_000, n):
            yield inject_linear(sequences, seed, snr, max_motion)


def inject_linear(
    sequences: ImageSequences,
    seed: int,
    snr: tuple[float, float],
    max_motion: float = MAX_MOTION,
    *,
    fraction: float = 1.0,
) -> ImageSequences:
    """Return sequences with objects on straight lines, which have no Poisson
    noise of their own.

    Parameters
    ----------
    sequences
        Sequences without an object, all with images at the same times.
    seed
        Seed of the objects.
    snr
        Lowest and highest S/N.
    max_motion
        Longest motion over a sequence, pixels; uniform up to it.
    fraction
        Fraction of the sequences that get an object.
    """
    hours = 24.0 * float(np.nanmax(sequences.mjd) - np.nanmin(sequences.mjd))
    config = InjectTnosConfig(fraction=fraction, seed=seed)
    config.zero_points = dict.fromkeys("ugrizy", 40.0)
    population = config.population["linear"]
    population.rate_min, population.rate_max = 0.0, max_motion * PIXEL_SCALE / hours
    population.window_size, population.edge_margin = sequences.width * PIXEL_SCALE, EDGE_MARGIN
    population.min_times_inside = int(sequences.valid.sum(axis=1).max())
    population.snr_min, population.snr_max = snr
    population.snr_distribution = "uniform"
    return InjectTnosTask(config=config).run(sequences).injected
