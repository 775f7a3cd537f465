# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Image sequences as animations and contact sheets.

What is bright is dark, as on a photographic plate, and every image of a
sequence is on the same scale. Sequences that are not warped are drawn on the
pixels of each image, whatever their orientation.
"""

from __future__ import annotations

__all__ = (
    "CANDIDATE_COLOUR",
    "FRAME_DURATION",
    "INJECTED_COLOUR",
    "Marker",
    "animate_sequence",
    "draw_contact_sheet",
    "robust_range",
    "sequence_title",
)

import functools
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ._sequences import ImageSequences
from ._strips import (
    INJECTED_COLOUR,
    N_GREYS,
    UNUSABLE_COLOUR,
    Marker,
    Strip,
    grey_levels,
    parse_colour,
    robust_range,
    sequence_title,
)

FRAME_DURATION = 700
"""Milliseconds that an image of an animation is shown."""

CANDIDATE_COLOUR = "#1f77b4"
"""Colour of the marker of a candidate."""

_PAPER, _INK, _FAINT = "#ffffff", "#000000", "#707070"
"""Colours of the background and of text."""

_FRAME_SIZE, _PANEL_SIZE = 420, 132
"""Least width, in pixels of the picture, of an image of an animation, and of
one of a contact sheet.
"""

_N_COLUMNS = 10
"""Images in a row of a contact sheet."""

_GAP = 8
"""Pixels between what is drawn."""


def animate_sequence(
    sequences: ImageSequences,
    row: int,
    *,
    markers: Sequence[Marker] = (),
    limits: tuple[float, float] | None = None,
    title: str | None = None,
) -> bytes:
    """Return an animation of a sequence that repeats endlessly.

    Parameters
    ----------
    sequences
        Image sequences.
    row
        Row of the one to draw.
    markers
        Objects to mark.
    limits
        Values that are white and black, nJy; those of `robust_range` if
        `None`.
    title
        Title below the images; `sequence_title` if `None`.

    Returns
    -------
    gif : `bytes`
        The file's content. An image is shown for `FRAME_DURATION`.

    Raises
    ------
    ValueError
        Raised if the sequence has no valid image.
    """
    strip = Strip.make(sequences, row, markers, limits, _FRAME_SIZE)
    title = sequence_title(sequences, row) if title is None else title
    colours = [marker.colour for marker in markers]
    frames = [_to_palette(_draw_frame(strip, number, title), colours) for number in range(len(strip.shown))]
    output = io.BytesIO()
    frames[0].save(
        output,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=FRAME_DURATION,
        loop=0,
        optimize=False,
    )
    return output.getvalue()


def draw_contact_sheet(
    sequences: ImageSequences,
    row: int,
    *,
    markers: Sequence[Marker] = (),
    limits: tuple[float, float] | None = None,
    title: str | None = None,
) -> bytes:
    """Return a picture of all images of a sequence.

    Parameters
    ----------
    sequences
        Image sequences.
    row
        Row of the one to draw.
    markers
        Objects to mark.
    limits
        Values that are white and black, nJy; those of `robust_range` if
        `None`.
    title
        Title above the images; `sequence_title` if `None`.

    Returns
    -------
    png : `bytes`
        The file's content.

    Raises
    ------
    ValueError
        Raised if the sequence has no valid image.
    """
    strip = Strip.make(sequences, row, markers, limits, _PANEL_SIZE)
    title = sequence_title(sequences, row) if title is None else title
    output = io.BytesIO()
    _draw_sheet(strip, title).save(output, "PNG", optimize=True)
    return output.getvalue()


def _draw_frame(strip: Strip, number: int, title: str) -> Image.Image:
    """Draw an image of an animation with what is known of it."""
    width, height = strip.panel_size
    font, small = _font(19), _font(14)
    top = 58
    bottom = 52 + 20 * (len(strip.markers) > 0)
    frame = Image.new("RGB", (width + 2 * _GAP, top + height + bottom), _PAPER)
    draw = ImageDraw.Draw(frame)
    right = width + _GAP
    draw.text((_GAP, 8), f"{' '.join(strip.names[number])} UTC", _INK, font)
    draw.text((right, 8), f"{number + 1} / {len(strip.shown)}", _INK, font, anchor="ra")
    draw.text((_GAP, 34), strip.details[number], _INK, small)
    frame.paste(strip.panel(number), (_GAP, top))
    y = top + height + 6
    draw.text((_GAP, y), title, _INK, small)
    _draw_scale(draw, strip, right, y + 21)
    draw.text((_GAP, y + 21), _describe_range(strip), _INK, small)
    _draw_legend(draw, strip.markers, (_GAP, y + 42), small)
    return frame


def _draw_sheet(strip: Strip, title: str) -> Image.Image:
    """Draw a contact sheet."""
    width, height = strip.panel_size
    n_images = len(strip.shown)
    n_columns = min(_N_COLUMNS, n_images)
    n_rows = -(-n_images // n_columns)
    font, small = _font(20), _font(14)
    caption = 38
    top = 66
    # Room for the text above, however few images there are.
    sheet_width = max(n_columns * (width + _GAP) + _GAP, 760)
    sheet = Image.new("RGB", (sheet_width, top + n_rows * (height + caption + _GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 8), title, _INK, font)
    draw.text((_GAP, 38), _describe_range(strip), _INK, small)
    _draw_legend(draw, strip.markers, (330, 38), small)
    _draw_scale(draw, strip, sheet_width - _GAP, 12)
    date = ""
    for number in range(n_images):
        x = _GAP + number % n_columns * (width + _GAP)
        y = top + number // n_columns * (height + caption + _GAP)
        sheet.paste(strip.panel(number), (x, y))
        day, time = strip.names[number]
        draw.text((x, y + height + 2), f"{time} UTC", _INK, small)
        band, elapsed, _ = strip.details[number].split("   ")
        second = day if day != date or number % n_columns == 0 else elapsed
        draw.text((x, y + height + 18), second, _INK if second == day else _FAINT, small)
        draw.text((x + width, y + height + 18), band[0], _INK, small, anchor="ra")
        date = day
    return sheet


def _describe_range(strip: Strip) -> str:
    # Neither 1.23e+04, which is longer, nor more digits than anyone reads.
    low, high = (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" for value in strip.limits)
    return f"white {low}, black {high} nJy"


def _draw_scale(draw: ImageDraw.ImageDraw, strip: Strip, right: int, y: int) -> None:
    """Draw a bar of an arcsec, or of a length that can be seen."""
    lengths = (0.5, 1, 2, 5, 10, 20, 60, 120)
    length = next((n for n in lengths if n / strip.scale * strip.zoom >= 25), lengths[-1])
    pixels = length / strip.scale * strip.zoom
    draw.line((right - pixels, y + 9, right, y + 9), _INK, 3)
    draw.text((right - pixels - 6, y), f"{length} arcsec", _INK, _font(14), anchor="ra")


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    markers: Sequence[Marker],
    position: tuple[int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    x, y = position
    for marker in markers:
        draw.ellipse((x, y + 2, x + 12, y + 14), outline=marker.colour, width=2)
        draw.text((x + 18, y), marker.label, _INK, font)
        x += 18 + int(font.getlength(marker.label)) + 3 * _GAP


def _to_palette(frame: Image.Image, colours: Sequence[str]) -> Image.Image:
    """Return a frame in the colours that all of an animation share: greys,
    and those that are no grey, as they are.
    """
    rgb = np.asarray(frame)
    greys = grey_levels()
    # Text has greys of its own, each of which becomes the nearest.
    nearest = np.argmin(np.abs(np.arange(256)[:, np.newaxis] - greys.astype(int)), axis=1)
    index = nearest[rgb[..., 0]].astype(np.uint8)
    others = [parse_colour(colour) for colour in (UNUSABLE_COLOUR, *colours)][: 256 - N_GREYS]
    for number, colour in enumerate(others, start=N_GREYS):
        index[np.all(rgb == colour, axis=-1)] = number
    entries = [*np.repeat(greys[:, np.newaxis], 3, axis=1), *others]
    image = Image.fromarray(index, "P")
    image.putpalette(np.array(entries, dtype=np.uint8).tobytes())
    return image


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that matplotlib brings along."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)
