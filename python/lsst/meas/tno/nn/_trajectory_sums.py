# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compiled sums along the trajectories of `trajectory_features`.

Images that follow each other closely in time, so that nothing moves far
between them, are added up once for all trajectories. Maps have two positions
a pixel and axis; position i is at pixel i / 2 - 1/4.
"""

from __future__ import annotations

__all__ = ("OVERSAMPLING", "fill")

import numpy as np

from .._kernels import KERNELS, jit

CLIP = 3.0
"""S/N in a single image beyond which it is clipped."""

FAINT_SNR = 12.0
"""S/N of the brightest objects that must not be clipped, in all images; each
has its part of it, +- 1.
"""

OVERSAMPLING = 2
"""Start positions a pixel and axis; of those in a pixel the best is kept."""

SAME_LENGTH = 1e-6
"""Difference up to which motions count as equally long, pixels."""

MIN_LEFT = 0.02
"""Information that is left without the static sky, over all, up to which
nothing is said of it.
"""

MIN_COVERAGE = 0.2
"""Coverage below which a trajectory is not looked at."""

MARGIN = 2
"""Pixels around the images at which maps are needed to interpolate them."""

HALF_STEP = KERNELS["bicubic"].weights(np.array([0.25, 0.75])).astype(np.float32)
"""Weights for a quarter and three quarters of a pixel; psi and phi are smooth,
and off by less than 1e-3 of their largest by it.
"""

PSF_LOSS = 1e-3
"""Part of a PSF's information that may be cut off with its faintest pixels."""

MAX_DRIFT = 0.5
"""Motion during the images that are added up, pixels at most. With a PSF of
sigma pixels, (MAX_DRIFT / sigma)^2 / 48 of the S/N is lost.
"""

N_MAPS = 6
"""Psi, psi without the static sky, phi, clipped psi, squared S/N, and time
times psi without the static sky.
"""


@jit
def fill(  # type: ignore[no-untyped-def]
    weighted, moving, weight, psf, band, ratio, fraction, information, sharpness, displacement, features
):
    """Write the features of all sequences.

    Parameters
    ----------
    weighted, moving
        Images, and images without the static sky, over their variance, ``(n,
        height, width, n_times)``.
    weight
        Inverse variance, likewise.
    psf
        PSFs, ``(n, k, k, n_times)``.
    band
        Index of the band of each image, ``(n, n_times)``.
    ratio
        Flux in each image over that in the reference band, ``(n, n_times)``.
    fraction
        Time from the middle, in units of the whole, ``(n, n_times)``, in order
        where there is information.
    information
        Information of each image, ``(n, n_times)``; 0 for those to leave out.
    sharpness
        Inverse square of the PSF's sigma, pixel^-2, ``(n,)``.
    displacement
        Motions over the whole time, pixels in x and y, ``(n_motions, 2)``.
    features
        Features to write, ``(n, n_features, n_motions, height, width)``.
    """
    height, width, n_times = weight.shape[1:]
    fine = (OVERSAMPLING * height, OVERSAMPLING * width)
    coarse = np.empty((3, height + 2 * MARGIN, width + 2 * MARGIN, n_times), np.float32)
    maps = np.empty((n_times, N_MAPS, height + 2 * MARGIN, width + 2 * MARGIN), np.float32)
    largest = np.empty((n_times, height, width), np.float32)
    between = np.empty((height + 2 * MARGIN, fine[1]), np.float32)
    refined = np.empty((n_times, N_MAPS + 1, fine[0], fine[1]), np.float32)
    sums = np.empty((N_MAPS + 1, fine[0], fine[1]), np.float32)
    static = np.zeros(fine, np.float32)
    length = np.sqrt(displacement[:, 0] ** 2 + displacement[:, 1] ** 2)
    shared = np.empty((n_times + 1, n_times + 1))
    rows, columns = np.empty((fine[0], 2), np.intp), np.empty((fine[1], 2), np.intp)
    for row in range(len(weight)):
        group, middle = _groups(fraction[row], information[row], length.max())
        n_groups = len(middle)
        if n_groups == 0:
            continue
        _correlate(weighted[row], moving[row], weight[row], psf[row], coarse)
        limit = CLIP + FAINT_SNR * np.sqrt(information[row] / np.sum(information[row]))
        unrest = _add_up(coarse, ratio[row], fraction[row], limit, group, maps[:n_groups], largest[:n_groups])
        for g in range(n_groups):
            for k in range(N_MAPS):
                _refine(maps[g, k], between, refined[g, k])
            _repeat(largest[g], refined[g, N_MAPS])
        most, spread = _totals(refined[:n_groups], middle)
        if most <= 0:
            continue
        n_images = np.float32(np.sum(group >= 0))
        total = np.append(0.0, np.cumsum(information[row]))
        before = -1.0
        for motion in range(len(displacement)):
            _sum(refined[:n_groups], middle, displacement[motion], sums)
            if motion == 0:
                brightest = _keep_snr(sums, most, static)
            if abs(length[motion] - before) > SAME_LENGTH:
                before = length[motion]
                _share(fraction[row], information[row], band[row], before**2 * sharpness[row], shared)
            _inside(fraction[row], information[row], displacement[motion, 1], height, rows)
            _inside(fraction[row], information[row], displacement[motion, 0], width, columns)
            _reduce(
                sums,
                static,
                (most, spread, n_images, unrest, brightest, np.float32(length[motion])),
                (total, shared, rows, columns),
                features[row, :, motion],
            )


@jit
def _groups(fraction, information, length):  # type: ignore[no-untyped-def]
    """Return the group of each image, -1 for those that see nothing, and the
    mean time of each group.
    """
    group = np.full(len(fraction), -1)
    middle = np.empty(len(fraction))
    n_groups = 0
    first, total = 0.0, 0.0
    for t in range(len(fraction)):
        if information[t] > 0:
            if n_groups == 0 or (fraction[t] - first) * length > MAX_DRIFT:
                n_groups += 1
                first, total = fraction[t], 0.0
                middle[n_groups - 1] = 0.0
            total += information[t]
            middle[n_groups - 1] += (fraction[t] - middle[n_groups - 1]) * information[t] / total
            group[t] = n_groups - 1
    return group, middle[:n_groups]


@jit
def _share(fraction, information, band, motion_squared, shared):  # type: ignore[no-untyped-def]
    """Write what subtracting the mean of the band takes from the variance of
    the S/N, times the information.

    ``shared[i, j]`` is the sum over images a < i and b < j of one band of I_a
    I_b / I_band * exp(-d^2 / (4 sigma^2)), the overlap of Gaussian PSFs that
    are the motion d apart. The square of the whole motion is in units of
    sigma^2.
    """
    n = len(fraction)
    of_band = np.zeros(256)
    for t in range(n):
        of_band[band[t]] += information[t]
    shared[:] = 0.0
    for i in range(n):
        for j in range(n):
            value = 0.0
            if band[i] == band[j] and information[i] > 0 and information[j] > 0:
                apart = (fraction[i] - fraction[j]) ** 2 * motion_squared
                value = information[i] * information[j] / of_band[band[i]] * np.exp(-0.25 * apart)
            shared[i + 1, j + 1] = shared[i, j + 1] + shared[i + 1, j] - shared[i, j] + value


@jit
def _inside(fraction, information, motion, size, inside):  # type: ignore[no-untyped-def]
    """Write the first image in which an object is within the window, and the
    one after the last, for all start positions along an axis.
    """
    for i in range(len(inside)):
        position = i / OVERSAMPLING - 0.25
        first, last = len(fraction), 0
        for t in range(len(fraction)):
            if information[t] > 0 and -0.5 <= position + motion * fraction[t] <= size - 0.5:
                first, last = min(first, t), t + 1
        inside[i, 0], inside[i, 1] = first, last


@jit
def _bright_pixels(psf):  # type: ignore[no-untyped-def]
    """Return the indices of the PSF pixels that matter in any image."""
    n_times = psf.shape[2]
    part = np.zeros(psf.shape[0] * psf.shape[1])
    for t in range(n_times):
        total = 0.0
        for pixel in range(len(part)):
            value = psf[pixel // psf.shape[1], pixel % psf.shape[1], t]
            total += value * value
        if total > 0:
            for pixel in range(len(part)):
                value = psf[pixel // psf.shape[1], pixel % psf.shape[1], t]
                part[pixel] = max(part[pixel], value * value / total)
    order = np.argsort(part)
    lost, n_cut = 0.0, 0
    while n_cut < len(order) and lost + part[order[n_cut]] < PSF_LOSS:
        lost += part[order[n_cut]]
        n_cut += 1
    return np.sort(order[n_cut:])


@jit
def _correlate(weighted, moving, weight, psf, maps):  # type: ignore[no-untyped-def]
    """Write psi, psi without the static sky, and phi at whole pixels."""
    height, width, n_times = weight.shape
    n_rows, n_columns = psf.shape[:2]
    pixels = _bright_pixels(psf)
    maps[:] = np.float32(0.0)
    for y in range(maps.shape[1]):
        for x in range(maps.shape[2]):
            psi, change, phi = maps[0, y, x], maps[1, y, x], maps[2, y, x]
            for pixel in pixels:
                # This part of the PSF of a source at (x, y) is there.
                source = y - MARGIN + pixel // n_columns - n_rows // 2
                at = x - MARGIN + pixel % n_columns - n_columns // 2
                if 0 <= source < height and 0 <= at < width:
                    values = psf[pixel // n_columns, pixel % n_columns]
                    a, b, c = weighted[source, at], moving[source, at], weight[source, at]
                    for t in range(n_times):
                        psi[t] += values[t] * a[t]
                        change[t] += values[t] * b[t]
                        phi[t] += values[t] * values[t] * c[t]


@jit
def _add_up(coarse, ratio, fraction, limit, group, maps, largest):  # type: ignore[no-untyped-def]
    """Write the sums of the maps over the images of each group, and the
    largest squared S/N in one image; return the mean squared S/N less 1. The
    S/N of an image counts up to its limit.
    """
    clip = np.float32(CLIP)
    maps[:] = np.float32(0.0)
    largest[:] = np.float32(0.0)
    total, number = 0.0, 0
    for y in range(maps.shape[2]):
        for x in range(maps.shape[3]):
            inside = MARGIN <= y < maps.shape[2] - MARGIN and MARGIN <= x < maps.shape[3] - MARGIN
            for t in range(len(group)):
                g = group[t]
                phi = ratio[t] * ratio[t] * coarse[2, y, x, t]
                if g < 0 or phi <= 0:
                    continue
                change = ratio[t] * coarse[1, y, x, t]
                root = np.sqrt(phi)
                snr = change / root
                square = snr * snr
                # What flares up in one image counts no more than an object.
                most = np.float32(limit[t])
                excess = max(snr - most, np.float32(0.0)) * root
                change = max(snr, -most) * root - excess
                maps[g, 0, y, x] += ratio[t] * coarse[0, y, x, t] - excess
                maps[g, 1, y, x] += change
                maps[g, 2, y, x] += phi
                maps[g, 3, y, x] += min(max(snr, -clip), clip) * root
                maps[g, 4, y, x] += square
                maps[g, 5, y, x] += np.float32(fraction[t]) * change
                if inside:
                    # Squares will do: a hole is as suspicious as a peak.
                    at = largest[g, y - MARGIN]
                    at[x - MARGIN] = max(at[x - MARGIN], square)
                    total += square
                    number += 1
    return np.float32(total / number - 1.0) if number > 0 else np.float32(0.0)


@jit
def _refine(coarse, between, fine):  # type: ignore[no-untyped-def]
    """Interpolate a map, along x and then along y."""
    for y in range(between.shape[0]):
        for x in range(between.shape[1]):
            weights, first = HALF_STEP[1 - x % 2], (x - 1) // 2 + MARGIN - 1
            value = np.float32(0.0)
            for i in range(4):
                value += weights[i] * coarse[y, first + i]
            between[y, x] = value
    for y in range(fine.shape[0]):
        weights, first = HALF_STEP[1 - y % 2], (y - 1) // 2 + MARGIN - 1
        for x in range(fine.shape[1]):
            fine[y, x] = (
                weights[0] * between[first, x]
                + weights[1] * between[first + 1, x]
                + weights[2] * between[first + 2, x]
                + weights[3] * between[first + 3, x]
            )


@jit
def _repeat(coarse, fine):  # type: ignore[no-untyped-def]
    for y in range(fine.shape[0]):
        for x in range(fine.shape[1]):
            fine[y, x] = coarse[y // OVERSAMPLING, x // OVERSAMPLING]


@jit
def _totals(maps, middle):  # type: ignore[no-untyped-def]
    """Return the most information that a trajectory can have, and its spread
    in time.
    """
    most, spread = np.float32(0.0), np.float32(0.0)
    for g in range(len(maps)):
        largest = maps[g, 2].max()
        most += largest
        spread += largest * np.float32(middle[g] * middle[g])
    return most, spread


@jit
def _sum(maps, middle, displacement, sums):  # type: ignore[no-untyped-def]
    """Write the sums of maps that are shifted by whole steps, and the largest
    of the last.
    """
    n_y, n_x = sums.shape[1:]
    sums[:] = np.float32(0.0)
    for g in range(len(maps)):
        dx = int(np.rint(OVERSAMPLING * displacement[0] * middle[g]))
        dy = int(np.rint(OVERSAMPLING * displacement[1] * middle[g]))
        first = max(0, -dx)
        last = max(first, min(n_x, n_x - dx))
        for y in range(max(0, -dy), min(n_y, n_y - dy)):
            for k in range(N_MAPS):
                into, added = sums[k, y, first:last], maps[g, k, y + dy, first + dx : last + dx]
                for x in range(len(into)):
                    into[x] += added[x]
            into, added = sums[N_MAPS, y, first:last], maps[g, N_MAPS, y + dy, first + dx : last + dx]
            for x in range(len(into)):
                into[x] = max(into[x], added[x])


@jit
def _keep_snr(sums, most, snr):  # type: ignore[no-untyped-def]
    """Write the S/N of the static sky, and return the largest."""
    largest = np.float32(0.0)
    for y in range(snr.shape[0]):
        for x in range(snr.shape[1]):
            phi = sums[2, y, x]
            snr[y, x] = sums[0, y, x] / np.sqrt(phi) if phi > 0 else np.float32(0.0)
            if phi >= MIN_COVERAGE * most:
                largest = max(largest, abs(snr[y, x]))
    return largest


@jit
def _reduce(sums, static, whole, seen, features):  # type: ignore[no-untyped-def]
    """Write the features of the best start position in each pixel."""
    most, spread, n_images, unrest, brightest, length = whole
    total, shared, rows, columns = seen
    for row in range(features.shape[1]):
        for column in range(features.shape[2]):
            best, best_y, best_x = -np.inf, -1, -1
            for y in range(OVERSAMPLING * row, OVERSAMPLING * (row + 1)):
                for x in range(OVERSAMPLING * column, OVERSAMPLING * (column + 1)):
                    phi = sums[2, y, x]
                    if phi >= MIN_COVERAGE * most:
                        value = (sums[0, y, x] + sums[1, y, x]) / np.sqrt(phi)
                        if value > best:
                            best, best_y, best_x = value, y, x
            if best_y >= 0:
                coverage = sums[2, best_y, best_x] / most
                scale = np.float32(1.0) / np.sqrt(sums[2, best_y, best_x])
                left = _left(total, shared, rows[best_y], columns[best_x])
                moving_scale = scale / np.sqrt(left) if left > np.float32(MIN_LEFT) else np.float32(0.0)
                freedom = max(coverage * n_images - np.float32(1.0), np.float32(1.0))
                excess = sums[4, best_y, best_x] - (sums[1, best_y, best_x] * scale) ** 2 - freedom
                out = features[:, row, column]
                out[0] = sums[0, best_y, best_x] * scale
                out[1] = sums[1, best_y, best_x] * moving_scale
                out[2] = sums[3, best_y, best_x] * moving_scale
                out[3] = excess / np.sqrt(np.float32(2.0) * freedom)
                # The reverse of a motion is one, too.
                drift = abs(sums[5, best_y, best_x])
                out[4] = drift / np.sqrt(coverage * spread) if spread > 0 else np.float32(0.0)
                out[5] = static[best_y, best_x]
                out[6] = np.sqrt(sums[6, best_y, best_x])
                out[7] = coverage
                out[8] = length
                out[9] = brightest
                out[10] = unrest
                out[11] = left


@jit
def _left(information, shared, rows, columns):  # type: ignore[no-untyped-def]
    """Return the variance of the S/N that is left without the static sky."""
    first, last = max(rows[0], columns[0]), min(rows[1], columns[1])
    if last <= first:
        return np.float32(0.0)
    total = information[last] - information[first]
    overlap = shared[last, last] - shared[first, last] - shared[last, first] + shared[first, first]
    return np.float32(1.0 - overlap / total) if total > 0 else np.float32(0.0)
