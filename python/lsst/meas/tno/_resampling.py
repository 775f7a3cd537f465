# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compiled loops of `warping`.

Affine maps go from output to input pixels, ``(n_images, 2, 3)``. ``table``
holds the weights of a kernel by phase; ``taps`` is a tuple of as many elements
as it has columns, which tells the compiler how far to unroll.
"""

from __future__ import annotations

__all__ = ("resample_images", "resample_psfs")

import numpy as np

from ._kernels import jit

NO_DATA = np.uint8(1)
"""`MaskBit.NO_DATA`, as a constant that the compiler can see."""

NEGLIGIBLE = np.float32(1e-6)
"""A weight on one axis below this is that of a pixel which the kernel does
not touch. At a whole pixel all weights but one are zero, and rounding of the
position must not make them count.
"""

FAINT = np.float32(1e-3)
"""Pixels of a PSF fainter than this part of its peak do not count in its noise
scale; they have 1e-4 of the weight.
"""


@jit
def _set_weights(phase, table, lanes, weights):  # type: ignore[no-untyped-def]
    """Interpolate in the table of a kernel."""
    position = phase * (len(table) - 1)
    row = min(int(position), len(table) - 2)
    fraction = np.float32(position - row)
    for j in range(len(lanes)):
        weight = table[row, j] + fraction * (table[row + 1, j] - table[row, j])
        weights[j] = weight if abs(weight) >= NEGLIGIBLE else np.float32(0.0)


@jit
def _all_touched(wx, wy, taps):  # type: ignore[no-untyped-def]
    """Return whether no weight is zero."""
    smallest = np.float32(1.0)
    for i in range(len(taps)):
        smallest = min(smallest, abs(wx[i]), abs(wy[i]))
    return smallest > 0


@jit
def _touched_bits(bits, x0, y0, wx, wy, taps, height, width):  # type: ignore[no-untyped-def]
    """Return the bits of the pixels with non-zero weight; those outside of
    the image are NO_DATA.
    """
    touched = np.uint8(0)
    for j in range(len(taps)):
        for i in range(len(taps)):
            if wy[j] != 0 and wx[i] != 0:
                x, y = x0 + i, y0 + j
                if 0 <= x < width and 0 <= y < height:
                    touched |= bits[y, x]
                else:
                    touched |= NO_DATA
    return touched


@jit
def _weighted_sums(image, variance, x0, y0, wx, wy, taps, lanes):  # type: ignore[no-untyped-def]
    """Return the sums of weight * image and weight^2 * variance.

    Down the columns first, which are then side by side in vector registers;
    beyond the kernel, columns have the weight zero.
    """
    value = np.float32(0.0)
    noise = np.float32(0.0)
    for i in range(len(lanes)):
        x = np.uintp(x0 + i)
        column_value = np.float32(0.0)
        column_noise = np.float32(0.0)
        for j in range(len(taps)):
            y = np.uintp(y0 + j)
            column_value += wy[j] * image[y, x]
            column_noise += wy[j] * wy[j] * variance[y, x]
        value += wx[i] * column_value
        noise += wx[i] * wx[i] * column_noise
    return value, noise


@jit
def _touched_sums(image, variance, x0, y0, wx, wy, taps):  # type: ignore[no-untyped-def]
    """Return the same sums where pixels without weight may lie outside of the
    image.
    """
    value = np.float32(0.0)
    noise = np.float32(0.0)
    for j in range(len(taps)):
        for i in range(len(taps)):
            weight = wy[j] * wx[i]
            if weight != 0:
                value += weight * image[y0 + j, x0 + i]
                noise += weight * weight * variance[y0 + j, x0 + i]
    return value, noise


@jit
def _span(along_column, along_row, offset, last, n_taps, length):  # type: ignore[no-untyped-def]
    """Return the first and last but one input pixel that a grid reaches on
    one axis, inside of the image.
    """
    lowest = offset + min(along_column * last, 0.0) + min(along_row * last, 0.0)
    highest = offset + max(along_column * last, 0.0) + max(along_row * last, 0.0)
    # One more on either side is for rounding.
    first = min(max(np.floor(lowest) - n_taps // 2, 0.0), float(length))
    stop = min(max(np.floor(highest) + n_taps // 2 + 2, first), float(length))
    return int(first), int(stop)


@jit
def _load(image, variance, mask, x0, y0, height, width, lanes, flux, noise, bits):  # type: ignore[no-untyped-def]
    """Copy what a grid reaches, with zeros for what is missing, and return
    all of its bits.
    """
    any_bits = np.uint8(0)
    for y in range(height):
        for x in range(width):
            value, error = image[y0 + y, np.uintp(x0 + x)], variance[y0 + y, np.uintp(x0 + x)]
            is_there = np.isfinite(value) and np.isfinite(error)
            flux[y, np.uintp(x)] = value if is_there else np.float32(0.0)
            noise[y, np.uintp(x)] = error if is_there else np.float32(0.0)
            pixel_bits = mask[y0 + y, np.uintp(x0 + x)] | (np.uint8(0) if is_there else NO_DATA)
            bits[y, np.uintp(x)] = pixel_bits
            any_bits |= pixel_bits
        for x in range(len(lanes)):
            flux[y, width + x] = np.float32(0.0)
            noise[y, width + x] = np.float32(0.0)
    return any_bits


@jit
def _gather_bits(bits, height, width, taps, rows, near):  # type: ignore[no-untyped-def]
    """Put the bits of all pixels under a kernel at the first of them."""
    n = len(taps)
    for y in range(height):
        for x in range(width - n + 1):
            gathered = np.uint8(0)
            for i in range(n):
                gathered |= bits[y, np.uintp(x + i)]
            rows[y, np.uintp(x)] = gathered
    for y in range(height - n + 1):
        for x in range(width - n + 1):
            gathered = np.uint8(0)
            for j in range(n):
                gathered |= rows[y + j, np.uintp(x)]
            near[y, np.uintp(x)] = gathered


@jit
def _resample_image(  # type: ignore[no-untyped-def]
    image,
    variance,
    mask,
    affine,
    table,
    taps,
    lanes,
    wx,
    wy,
    flux,
    noise,
    bits,
    rows,
    near,
    out_image,
    out_variance,
    out_mask,
):
    n, size = len(taps), len(out_image)
    area = np.float32(abs(affine[0, 0] * affine[1, 1] - affine[0, 1] * affine[1, 0]))
    x_first, x_stop = _span(affine[0, 0], affine[0, 1], affine[0, 2], size - 1, n, image.shape[1])
    y_first, y_stop = _span(affine[1, 0], affine[1, 1], affine[1, 2], size - 1, n, image.shape[0])
    height, width = y_stop - y_first, x_stop - x_first
    any_bits = _load(image, variance, mask, x_first, y_first, height, width, lanes, flux, noise, bits)
    if any_bits:
        _gather_bits(bits, height, width, taps, rows, near)
    for row in range(size):
        for column in range(size):
            x = affine[0, 0] * column + affine[0, 1] * row + affine[0, 2]
            y = affine[1, 0] * column + affine[1, 1] * row + affine[1, 2]
            if not (-1 < x < image.shape[1] and -1 < y < image.shape[0]):
                continue
            x_floor, y_floor = np.floor(x), np.floor(y)
            _set_weights(x - x_floor, table, lanes, wx)
            _set_weights(y - y_floor, table, lanes, wy)
            x0 = int(x_floor) - n // 2 + 1 - x_first
            y0 = int(y_floor) - n // 2 + 1 - y_first
            is_inside = x0 >= 0 and y0 >= 0 and x0 + n <= width and y0 + n <= height
            near_bits = np.uint8(0)
            if is_inside and any_bits:
                near_bits = near[y0, x0]
            if not is_inside or (near_bits and not _all_touched(wx, wy, taps)):
                near_bits = _touched_bits(bits, x0, y0, wx, wy, taps, height, width)
            out_mask[row, column] = near_bits
            if near_bits & NO_DATA:
                continue
            if is_inside:
                value, value_noise = _weighted_sums(flux, noise, x0, y0, wx, wy, taps, lanes)
            else:
                value, value_noise = _touched_sums(flux, noise, x0, y0, wx, wy, taps)
            out_image[row, column] = area * value
            out_variance[row, column] = area * area * value_noise


@jit
def resample_images(  # type: ignore[no-untyped-def]
    image, variance, mask, use, affine, table, taps, lanes, out_image, out_variance, out_mask
):
    """Resample the images that are to be used, all planes in one pass.

    What has no data keeps the value that it has in ``out_image`` and
    ``out_variance``, which is NaN, and gets the NO_DATA bit.

    Parameters
    ----------
    image, variance, mask
        Planes of the input images, ``(n, height, width)``.
    use
        Whether to resample each image, ``(n,)``.
    affine
        Maps from output to input pixels, ``(n, 2, 3)``.
    table, taps, lanes
        Weights of the kernel by sub-pixel phase, and tuples of the length of
        the kernel and of a row of the table.
    out_image, out_variance, out_mask
        Planes to write to, ``(n, size, size)``.
    """
    height, width = image.shape[1:]
    wx = np.empty(len(lanes), np.float32)
    wy = np.empty(len(lanes), np.float32)
    flux = np.empty((height, width + len(lanes)), np.float32)
    noise = np.empty_like(flux)
    bits = np.empty((height, width), np.uint8)
    rows, near = np.empty_like(bits), np.empty_like(bits)
    for i in range(len(image)):
        if use[i]:
            _resample_image(
                image[i],
                variance[i],
                mask[i],
                affine[i],
                table,
                taps,
                lanes,
                wx,
                wy,
                flux,
                noise,
                bits,
                rows,
                near,
                out_image[i],
                out_variance[i],
                out_mask[i],
            )


@jit
def _pad_shifted(psf, phase, table, taps, weights, rows, padded):  # type: ignore[no-untyped-def]
    """Put a PSF, moved by a fraction of a pixel, in the middle of zeros."""
    size, n = len(psf), len(taps)
    margin = (len(padded) - size) // 2
    rows[:] = np.float32(0.0)
    padded[:] = np.float32(0.0)
    first = int(np.floor(-phase[0])) - n // 2 + 1
    _set_weights(-phase[0] - np.floor(-phase[0]), table, taps, weights)
    for y in range(size):
        for j in range(n):
            for x in range(max(0, -first - j), min(size, size - first - j)):
                rows[y, np.uintp(x)] += weights[j] * psf[y, np.uintp(x + first + j)]
    first = int(np.floor(-phase[1])) - n // 2 + 1
    _set_weights(-phase[1] - np.floor(-phase[1]), table, taps, weights)
    for y in range(size):
        for j in range(max(0, -y - first), min(n, size - y - first)):
            for x in range(size):
                padded[margin + y, np.uintp(margin + x)] += weights[j] * rows[y + first + j, np.uintp(x)]


@jit
def _resample_psf(padded, affine, phase, table, taps, lanes, wx, wy, field, out):  # type: ignore[no-untyped-def]
    """Resample a padded PSF and return the noise scale of its matched filter.

    With weights K_ik of input pixel k in output pixel i, of uniform noise,
    the filter a_i = psf_i / v_i, v_i = sum_k K_ik^2, has the noise
    sum_k (sum_i a_i K_ik)^2, where uncorrelated pixels would give
    sum_i a_i^2 v_i.
    """
    n, size = len(taps), len(out)
    # Columns beyond the kernel have to be there, too.
    middle, last = (size - 1) // 2, len(padded) - len(lanes)
    origin = (len(padded) - 1) // 2 - n // 2 + 1
    total, diagonal = np.float32(0.0), np.float32(0.0)
    peak = abs(padded[len(padded) // 2, len(padded) // 2])
    field[:] = np.float32(0.0)
    for row in range(size):
        for column in range(size):
            dx, dy = column - middle, row - middle
            x = affine[0, 0] * dx + affine[0, 1] * dy + phase[0] + origin
            y = affine[1, 0] * dx + affine[1, 1] * dy + phase[1] + origin
            out[row, column] = np.float32(0.0)
            if not (0 <= x < last and 0 <= y < last):
                continue
            x0, y0 = int(x), int(y)
            _set_weights(x - x0, table, lanes, wx)
            _set_weights(y - y0, table, lanes, wy)
            value = np.float32(0.0)
            x_noise, y_noise = np.float32(0.0), np.float32(0.0)
            for i in range(len(lanes)):
                column_value = np.float32(0.0)
                for j in range(len(taps)):
                    column_value += wy[j] * padded[np.uintp(y0 + j), np.uintp(x0 + i)]
                value += wx[i] * column_value
                x_noise += wx[i] * wx[i]
                y_noise += wy[i] * wy[i]
            out[row, column] = value
            total += value
            if abs(value) < FAINT * peak:
                continue
            weight = value / (x_noise * y_noise)
            diagonal += weight * value
            for j in range(len(taps)):
                for i in range(len(lanes)):
                    field[np.uintp(y0 + j), np.uintp(x0 + i)] += weight * wy[j] * wx[i]
    noise = np.float32(0.0)
    for pixel in field.reshape(-1):
        noise += pixel * pixel
    for row in range(size):
        for column in range(size):
            out[row, column] /= total
    return noise / diagonal


@jit
def resample_psfs(  # type: ignore[no-untyped-def]
    psf, use, affine, phase, table, taps, lanes, shift_table, shift_taps, out_psf, out_noise_scale
):
    """Resample the PSFs that are to be used, and find their noise scales.

    Parameters
    ----------
    psf
        PSFs on input pixels, ``(n, size, size)``.
    use
        Whether to resample each PSF, ``(n,)``.
    affine
        Maps from output to input pixels, ``(n, 2, 3)``.
    phase
        Where the star stands, in input pixels from the centre of the pixel
        that it falls in, ``(n, 2)``.
    table, taps, lanes
        Weights of the kernel by sub-pixel phase, and tuples of the length of
        the kernel and of a row of the table.
    shift_table, shift_taps
        The same of the kernel that moves the PSF to its phase.
    out_psf, out_noise_scale
        Arrays to write to, ``(n, size, size)`` and ``(n,)``.
    """
    size = psf.shape[1]
    padded = np.empty((size + 4 * len(lanes), size + 4 * len(lanes)), np.float32)
    field = np.empty_like(padded)
    rows = np.empty((size, size), np.float32)
    shift_weights = np.empty(len(shift_taps), np.float32)
    wx = np.empty(len(lanes), np.float32)
    wy = np.empty(len(lanes), np.float32)
    for i in range(len(psf)):
        if use[i]:
            _pad_shifted(psf[i], phase[i], shift_table, shift_taps, shift_weights, rows, padded)
            out_noise_scale[i] = _resample_psf(
                padded, affine[i], phase[i], table, taps, lanes, wx, wy, field, out_psf[i]
            )
