# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rendering moving point sources into image sequences."""

from __future__ import annotations

__all__ = (
    "Draw",
    "MovingObjects",
    "add_point_source",
    "inject_in_place",
    "is_on_image",
    "optimal_snr",
    "shift_psf",
    "sky_to_cutout",
)

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ._moving_objects import MovingObjects
from ._sequences import UNUSABLE, ImageSequences, Injection, MaskBit
from .geometry import apply_affine, gnomonic, invert_affine
from .photometry import RUBIN_ZERO_POINTS, ab_mag_to_njy, electrons_per_njy, njy_to_ab_mag

HALF_WIDTH = 8
"""Half width of the interpolation kernel, pixels."""

KAISER_BETA = 7.0
"""Shape parameter of the kernel's Kaiser window."""

INJECTED_LEVEL = 1e-3
"""Pixels in which the shifted PSF is above this fraction of the PSF's peak
have their INJECTED bit set.
"""


type Draw = Callable[[ImageSequences, np.ndarray, Sequence[np.random.Generator]], MovingObjects]
"""Draws one object for each of some rows, each from its own generator."""


def shift_psf(psf: np.ndarray, x: np.ndarray, y: np.ndarray, height: int, width: int) -> np.ndarray:
    """Move PSF images to positions of other images.

    Parameters
    ----------
    psf
        PSF images, ``(n, K, K)``, K odd, centred on pixel (K // 2, K // 2).
    x, y
        Positions to move the PSFs' centres to, ``(n,)``, in pixels of the
        output; they may be outside of it.
    height, width
        Size of the output, pixels.

    Returns
    -------
    shifted : `numpy.ndarray`
        PSFs at these positions, ``(n, height, width)``. What is off the
        output is lost; what is on all of the plane keeps the sum of ``psf``.

    Notes
    -----
    Interpolation by a sinc with a Kaiser window (Kaiser & Schafer 1980, IEEE
    Trans. ASSP 28, 105), normalised at every phase. For PSFs with a FWHM of 3
    to 6 pixels in stamps of 25 pixels it keeps fluxes in apertures to 2e-4
    and centroids to 2e-4 pixel; a Lanczos-5 kernel has 1e-3 and 6e-3 pixel.
    A Fourier shift is better on wide PSFs, but the edge of a truncated stamp
    rings through all of it.
    """
    rows = _shift_matrix(y, psf.shape[-2], height)
    columns = _shift_matrix(x, psf.shape[-1], width)
    return rows @ psf.astype(float) @ np.swapaxes(columns, -1, -2)


def _shift_matrix(position: np.ndarray, n_in: int, n_out: int) -> np.ndarray:
    """Return the matrices ``(n, n_out, n_in)`` that interpolate a profile so
    that its central element comes to a position.
    """
    first = position - n_in // 2
    base = np.floor(first)
    offset = np.arange(1 - HALF_WIDTH, HALF_WIDTH + 1) - (first - base)[:, np.newaxis]
    window = np.i0(KAISER_BETA * np.sqrt(np.clip(1 - (offset / HALF_WIDTH) ** 2, 0, None)))
    taps = np.zeros((len(position), 2 * HALF_WIDTH + 2))
    taps[:, 1:-1] = np.sinc(offset) * window
    taps /= taps.sum(axis=1, keepdims=True)
    # The first and the last tap are the zeros beyond the kernel's ends.
    lag = np.arange(n_out)[:, np.newaxis] - np.arange(n_in)
    index = np.clip(lag + HALF_WIDTH - base.astype(int)[:, np.newaxis, np.newaxis], 0, taps.shape[1] - 1)
    return taps[np.arange(len(position))[:, np.newaxis, np.newaxis], index]


def sky_to_cutout(
    ra: np.ndarray,
    dec: np.ndarray,
    centre_ra: np.ndarray,
    centre_dec: np.ndarray,
    pixel_to_sky: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return where sky positions are in cutouts.

    Parameters
    ----------
    ra, dec
        Positions, ``(...)``, deg.
    centre_ra, centre_dec
        Positions that the cutouts are centred on, ``(...)``, deg.
    pixel_to_sky
        Affine maps from the cutouts' pixels to the tangent plane about their
        centres, ``(..., 2, 3)``, arcsec.

    Returns
    -------
    x, y : `numpy.ndarray`
        Positions in pixels, ``(...)``.
    """
    xi, eta = gnomonic(ra, dec, centre_ra, centre_dec)
    return apply_affine(invert_affine(pixel_to_sky), xi, eta)


def is_on_image(x: np.ndarray, y: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return which positions are on a pixel of an image.

    Parameters
    ----------
    x, y
        Positions, pixels; the centre of the lower left pixel is (0, 0).
    height, width
        Size of the image, pixels.

    Returns
    -------
    is_on : `numpy.ndarray` of `bool`
        False also where a position is NaN.
    """
    return (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)


def optimal_snr(flux: np.ndarray, profile: np.ndarray, variance: np.ndarray, usable: np.ndarray) -> float:
    """Return the S/N of the matched filter that knows where the source is.

    Parameters
    ----------
    flux
        Flux of the source in each image, ``(n_times,)``, nJy.
    profile
        PSF at the source's position, ``(n_times, height, width)``.
    variance
        Variance of the pixels as a matched filter must take it, nJy^2: that
        of the noise without the source, times ``noise_scale``.
    usable
        Pixels that count, ``(n_times, height, width)``; those without a
        positive variance never do.

    Returns
    -------
    snr : `float`
        S/N, 0 if no pixel that counts has any light.
    """
    counts = usable & (variance > 0)
    phi = np.sum(np.divide(profile**2, variance, out=np.zeros_like(profile), where=counts), axis=(1, 2))
    return float(np.sqrt(np.sum(flux**2 * phi)))


def add_point_source(
    image: np.ndarray,
    variance: np.ndarray,
    mask: np.ndarray,
    *,
    profile: np.ndarray,
    peak: np.ndarray,
    flux: np.ndarray,
    electrons: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Add a source and its Poisson noise to images, in place.

    Parameters
    ----------
    image, variance, mask
        Pixels to change, ``(n, height, width)``; nJy, nJy^2, bits of
        `MaskBit`. Pixels that are NaN stay so.
    profile
        PSF at the source's position, ``(n, height, width)``.
    peak
        Highest value of the PSF itself, ``(n,)``.
    flux
        Flux of the source, ``(n,)``, nJy.
    electrons
        Photo-electrons per nJy, ``(n,)``.
    rng
        Source of the Poisson noise.

    Notes
    -----
    The noise of a pixel is a Poisson draw less its mean. It is independent
    between pixels, which on warped images is an approximation; the source is
    then taken to be seen on the warp's own pixels.
    """
    model = flux[:, np.newaxis, np.newaxis] * profile
    per_njy = electrons[:, np.newaxis, np.newaxis]
    # The kernel's negative lobes have no photons.
    expected = np.clip(model * per_njy, 0, None)
    has_light = (expected > 0) & ~np.isnan(image)
    noise = np.zeros_like(model)
    noise[has_light] = rng.poisson(expected[has_light]) - expected[has_light]
    image += (model + noise / per_njy).astype(image.dtype)
    variance += (expected / per_njy**2).astype(variance.dtype)
    is_injected = (profile > INJECTED_LEVEL * peak[:, np.newaxis, np.newaxis]) & (
        (mask & MaskBit.NO_DATA) == 0
    )
    mask[is_injected] |= np.uint8(MaskBit.INJECTED)


def inject_in_place(
    sequences: ImageSequences,
    index: np.ndarray,
    draw: Draw,
    rngs: Sequence[np.random.Generator],
    *,
    zero_points: Mapping[str, float] = RUBIN_ZERO_POINTS,
    max_draws: int = 3,
) -> Injection:
    """Inject one moving object into each of some sequences.

    Parameters
    ----------
    sequences
        Image sequences; ``image``, ``variance`` and ``mask`` of those that
        get an object are changed in place.
    index
        Rows that are to get an object, ``(n,)``.
    draw
        Draws the objects, as `PopulationTask.draw` does. Rows it has no object
        for are left as they are.
    rngs
        One generator for each row in ``index``, for the object and its noise.
    zero_points
        AB magnitude of one photo-electron a second, by band.
    max_draws
        How many objects to draw for a row before it is left as it is, where
        the S/N comes out as zero since all pixels on the way are masked.

    Returns
    -------
    injection : `Injection`
        Truth, for all rows of ``sequences``.

    Raises
    ------
    ValueError
        Raised if an image has no band or exposure time.
    """
    electrons = _electrons(sequences, index, zero_points)
    injection = Injection.full(len(sequences), T=sequences.n_times)
    # Text has no fixed length before all of it is known.
    injection.object_id = injection.object_id.astype(object)
    injection.source_orbit = injection.source_orbit.astype(object)
    pending = list(range(len(index)))
    for _ in range(max_draws):
        if not pending:
            break
        objects = draw(sequences, index[pending], [rngs[i] for i in pending])
        masked = []
        for row, i in enumerate(pending):
            if objects.drawn[row]:
                has_snr = _inject_row(sequences, injection, index[i], objects, row, electrons[i], rngs[i])
                masked += [] if has_snr else [i]
        pending = masked
    injection.object_id = injection.object_id.astype(str)
    injection.source_orbit = injection.source_orbit.astype(str)
    return injection


def _electrons(sequences: ImageSequences, index: np.ndarray, zero_points: Mapping[str, float]) -> np.ndarray:
    electrons = electrons_per_njy(sequences.band[index], sequences.exposure_time[index], zero_points)
    bad = sequences.valid[index] & ~(np.isfinite(electrons) & (electrons > 0))
    if np.any(bad):
        row, time = np.argwhere(bad)[0]
        raise ValueError(
            f"The noise of a source in visit {sequences.visit[index][row, time]} is not defined: band "
            f"{sequences.band[index][row, time]}, exposure time "
            f"{sequences.exposure_time[index][row, time]} s. Leave such images out of the sequences."
        )
    return electrons


def _inject_row(
    sequences: ImageSequences,
    injection: Injection,
    row: int,
    objects: MovingObjects,
    drawn_row: int,
    electrons: np.ndarray,
    rng: np.random.Generator,
) -> bool:
    """Inject an object into a sequence; return whether it has an S/N."""
    # Padding is at the end, so that these are views of the sequence's arrays.
    images = (row, slice(0, int(sequences.valid[row].sum())))
    x, y = sky_to_cutout(
        objects.ra[drawn_row, images[1]],
        objects.dec[drawn_row, images[1]],
        sequences.centre_ra[images],
        sequences.centre_dec[images],
        sequences.pixel_to_sky[images],
    )
    psf = sequences.psf[images]
    profile = shift_psf(psf, x, y, sequences.height, sequences.width)
    is_on = is_on_image(x, y, sequences.height, sequences.width)
    relative = objects.relative_flux[drawn_row, images[1]]
    unit_snr = _unit_snr(sequences, images, np.where(is_on, relative, 0.0), profile)
    if not (np.isfinite(unit_snr) and unit_snr > 0):
        return False
    target = objects.target_snr[drawn_row]
    scale = ab_mag_to_njy(objects.mag[drawn_row]) if np.isnan(target) else target / unit_snr
    add_point_source(
        sequences.image[images],
        sequences.variance[images],
        sequences.mask[images],
        profile=profile,
        peak=psf.max(axis=(1, 2)),
        flux=scale * relative,
        electrons=electrons[images[1]],
        rng=rng,
    )
    injection.inj_x[images], injection.inj_y[images] = x, y
    injection.inj_flux[images] = np.where(is_on, scale * relative, 0.0)
    injection.snr[row] = scale * unit_snr
    injection.mag[row] = njy_to_ab_mag(scale)
    _set_truth(sequences, injection, row, objects, drawn_row)
    return True


def _unit_snr(
    sequences: ImageSequences, images: tuple[int, slice], relative_flux: np.ndarray, profile: np.ndarray
) -> float:
    """Return the S/N of an object of 1 nJy in the reference band."""
    variance = sequences.variance[images] * sequences.noise_scale[images][:, np.newaxis, np.newaxis]
    return optimal_snr(relative_flux, profile, variance, (sequences.mask[images] & UNUSABLE) == 0)


def _set_truth(
    sequences: ImageSequences, injection: Injection, row: int, objects: MovingObjects, drawn_row: int
) -> None:
    injection.injected[row] = True
    # tract, patch and sequence_id are unique within a skymap.
    unique = f"{sequences.tract[row]}-{sequences.patch[row]}-{sequences.sequence_id[row]}"
    injection.object_id[row] = objects.object_id[drawn_row] or unique
    for name in ("source_orbit", "distance", "distance_scale", "rate", "position_angle"):
        getattr(injection, name)[row] = getattr(objects, name)[drawn_row]
