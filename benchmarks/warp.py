# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
r"""How fast cutouts are resampled onto a grid with north up.

::

    python benchmarks/warp.py

Cutouts of 50x50 pixels, at any rotation, become 15x15. Ours are resampled with
variance and mask; scipy and reproject (where it is installed, with dask-image)
only get the image. The floor is reading every plane and writing every result
once. All on one core.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import math
import warnings
from collections.abc import Callable

import numpy as np
from astropy.wcs import WCS
from scipy.interpolate import griddata
from scipy.ndimage import affine_transform
from timing import cpu_times, format_table

from lsst.meas.tno import ImageSequences, MaskBit
from lsst.meas.tno._resampling import resample_images, resample_psfs
from lsst.meas.tno.geometry import apply_affine, invert_affine, north_up_affine
from lsst.meas.tno.warping import KERNELS, PSF_SHIFT_KERNEL, Kernel, warp_sequences

PIXEL_SCALE, PSF_SIGMA = 0.2, 1.8
"""Arcsec a pixel, and width of the PSF, pixels."""


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=50, help="Width of the cutouts, pixels.")
    parser.add_argument("--warp-size", type=int, default=15, help="Width of the warped images, pixels.")
    parser.add_argument("--sequences", type=int, default=40, help="Sequences of 50 images.")
    parser.add_argument("--masked", type=float, default=5e-4, help="Part of the pixels that are BAD.")
    parser.add_argument("--repeats", type=int, default=7, help="Repeats; the fastest counts.")
    args = parser.parse_args()
    sequences = make_cutouts(np.random.default_rng(1), args.sequences, args.size, args.masked)
    n_images = sequences.valid.sum()
    for name, kernel in KERNELS.items():
        warp_sequences(sequences[:1], warp_size=args.warp_size, kernel=name)
        warp_images(sequences[:1], kernel, args.warp_size)
        warp_psfs(sequences[:1], kernel)
    ours = {name: time / n_images for name, time in measure_ours(sequences, args).items()}
    others = measure_others(sequences, args)
    reference = ours["lanczos3, image, variance, mask"]
    rows = [
        [
            name,
            f"{1e6 * time:.1f}",
            f"{time / reference:,.{2 if time < 10 * reference else 0}f}",
        ]
        for name, time in (ours | others).items()
    ]
    print(f"{args.size}x{args.size} to {args.warp_size}x{args.warp_size} pixels, CPU time of one image")
    print(format_table(["", "us", "times lanczos3"], rows))


def make_cutouts(rng: np.random.Generator, n: int, size: int, masked: float) -> ImageSequences:
    """Return white noise on pixels of any rotation and parity, part of them
    masked.
    """
    n_times = 50
    sequences = ImageSequences.full(n, T=n_times, H=size, W=size, K=25)
    sequences.centre_ra[:], sequences.centre_dec[:] = 150.1, 2.2
    sequences.valid[:], sequences.noise_scale[:] = True, 1.0
    sequences.image[:] = rng.normal(0, 20.0, sequences.image.shape)
    sequences.variance[:] = 400.0
    sequences.mask[:] = np.where(rng.uniform(size=sequences.mask.shape) < masked, MaskBit.BAD, 0)
    profile = np.exp(-0.5 * (np.arange(-12, 13) / PSF_SIGMA) ** 2)
    sequences.psf[:] = np.outer(profile, profile) / profile.sum() ** 2
    for index in np.ndindex(n, n_times):
        angle, parity = rng.uniform(0, 2 * math.pi), rng.choice([-1, 1])
        cos, sin = math.cos(angle), math.sin(angle)
        linear = PIXEL_SCALE * np.array([[-parity * cos, sin], [parity * sin, cos]])
        centre = (size - 1) / 2 + rng.uniform(-0.5, 0.5, 2)
        sequences.pixel_to_sky[index] = np.column_stack([linear, -linear @ centre])
    return sequences


def measure_ours(sequences: ImageSequences, args: argparse.Namespace) -> dict[str, float]:
    """Return the time that our resampling takes, s."""
    calls: dict[str, Callable[[], object]] = {}
    for name, kernel in KERNELS.items():
        calls[f"{name}, image, variance, mask"] = functools.partial(
            warp_images, sequences, kernel, args.warp_size
        )
        calls[f"{name}, PSF and noise scale"] = functools.partial(warp_psfs, sequences, kernel)
    calls["lanczos3, warp_sequences"] = lambda: warp_sequences(sequences, warp_size=args.warp_size)
    planes = [plane.reshape(-1) for plane in (sequences.image, sequences.variance, sequences.mask)]
    n_results = sequences.valid.sum() * args.warp_size**2
    results = [np.empty(n_results, plane.dtype) for plane in planes]

    def stream() -> None:
        for plane, result in zip(planes, results, strict=True):
            result[:] = plane.max()

    return cpu_times(calls | {"floor: planes read, results written once": stream}, args.repeats)


def warp_images(sequences: ImageSequences, kernel: Kernel, size: int) -> None:
    """Resample image, variance and mask alone."""
    shape = (sequences.valid.size, size, size)
    image, variance = np.full((2, *shape), np.nan, np.float32)
    mask = np.full(shape, MaskBit.NO_DATA, np.uint8)
    from_sky = invert_affine(read_only(sequences.pixel_to_sky))
    grid = np.vstack([north_up_affine(size, PIXEL_SCALE), [0, 0, 1]])
    affine = from_sky @ grid
    affine.flags.writeable = False
    planes = (read_only(getattr(sequences, name)) for name in ("image", "variance", "mask", "valid"))
    table = (kernel.padded_table, kernel.taps, kernel.lanes)
    resample_images(*planes, affine, *table, image, variance, mask)


def warp_psfs(sequences: ImageSequences, kernel: Kernel) -> None:
    """Resample the PSFs alone, onto pixels turned by 45 degrees."""
    psf, use = read_only(sequences.psf), read_only(sequences.valid)
    turn = math.sqrt(0.5) * np.array([[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]])
    affine, phase = np.tile(turn, (len(psf), 1, 1)), np.full((len(psf), 2), 0.3)
    affine.flags.writeable = phase.flags.writeable = False
    table = (kernel.padded_table, kernel.taps, kernel.lanes, PSF_SHIFT_KERNEL.table, PSF_SHIFT_KERNEL.taps)
    resample_psfs(psf, use, affine, phase, *table, np.empty_like(psf), np.empty(len(psf), np.float32))


def read_only(array: np.ndarray) -> np.ndarray:
    """Merge sequences and times; numba has the type of arrays that are read
    compiled already.
    """
    flat = array.reshape(-1, *array.shape[2:]).view()
    flat.flags.writeable = False
    return flat


def measure_others(sequences: ImageSequences, args: argparse.Namespace) -> dict[str, float]:
    """Return the time that other packages take for one image, s."""
    image, affine = sequences.image[0, 0].astype(float), sequences.pixel_to_sky[0, 0]
    y, x = np.mgrid[: args.size, : args.size]
    points = np.column_stack([axis.ravel() for axis in apply_affine(affine, x, y)])
    grid_y, grid_x = np.mgrid[: args.warp_size, : args.warp_size]
    targets = apply_affine(north_up_affine(args.warp_size, PIXEL_SCALE), grid_x, grid_y)
    calls: dict[str, Callable[[], object]] = {
        f"scipy griddata, {method}": functools.partial(
            griddata, points, image.ravel(), targets, method=method
        )
        for method in ("linear", "cubic")
    }
    turn = invert_affine(affine) @ np.vstack([north_up_affine(args.warp_size, PIXEL_SCALE), [0, 0, 1]])
    calls["scipy affine_transform, order 3"] = functools.partial(
        affine_transform,
        image,
        turn[::-1, 1::-1],
        offset=turn[::-1, 2],
        output_shape=(args.warp_size, args.warp_size),
        order=3,
    )
    if importlib.util.find_spec("reproject") is not None:
        reproject_interp = importlib.import_module("reproject").reproject_interp
        calls["reproject_interp, order 3"] = functools.partial(
            reproject_interp,
            (image, make_wcs(sequences, affine)),
            make_wcs(sequences, north_up_affine(args.warp_size, PIXEL_SCALE)),
            shape_out=(args.warp_size, args.warp_size),
            order=3,
        )
    else:
        print("reproject is not installed (pip install reproject dask-image), and not compared with.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cpu_times(calls, 5 * args.repeats)


def make_wcs(sequences: ImageSequences, affine: np.ndarray) -> WCS:
    """Return the WCS of an image."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [sequences.centre_ra[0, 0], sequences.centre_dec[0, 0]]
    wcs.wcs.cd = affine[:, :2] / 3600
    wcs.wcs.crpix = 1 - np.linalg.solve(affine[:, :2], affine[:, 2])
    return wcs


if __name__ == "__main__":
    main()
