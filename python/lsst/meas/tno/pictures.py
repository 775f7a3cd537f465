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

import dataclasses
import functools
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ._clock import utc_iso
from ._sequences import BANDS, ImageSequences
from .geometry import pixel_area

FRAME_DURATION = 700
"""Milliseconds that an image of an animation is shown."""

INJECTED_COLOUR, CANDIDATE_COLOUR = "#d62728", "#1f77b4"
"""Colours of the markers of an injected object and of a candidate."""

_UNUSABLE, _PAPER, _INK, _FAINT = "#b0c4de", "#ffffff", "#000000", "#707070"
"""Colours of pixels that no measurement may use, of the background and of
text.
"""

_N_GREYS = 240
"""Levels of grey of an animation; the other colours of its 256 are for what is
drawn over the images.
"""

_FRAME_SIZE, _PANEL_SIZE = 420, 132
"""Least width, in pixels of the picture, of an image of an animation, and of
one of a contact sheet.
"""

_N_COLUMNS = 10
"""Images in a row of a contact sheet."""

_MARKER_RADIUS = 0.6
"""Radius of the circle about an object, arcsec."""

_GAP = 8
"""Pixels between what is drawn."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Marker:
    """An object to mark in the images of a sequence."""

    label: str
    """What it is (`str`)."""

    x: np.ndarray
    """x in each image, pixels, ``(n_times,)``; NaN where it has none."""

    y: np.ndarray
    """y in each image, likewise."""

    colour: str = INJECTED_COLOUR
    """Colour, as Pillow knows it (`str`)."""


def robust_range(images: np.ndarray) -> tuple[float, float]:
    """Return a range of pixel values in which faint objects are seen.

    Parameters
    ----------
    images
        Images of any shape; NaN where there is nothing to see.

    Returns
    -------
    low, high : `float`
        From 2 standard deviations of the noise below the median to 5 above,
        the noise as half of the pixels have it: faint objects are to be
        looked for in it, not behind the peaks.
    """
    values = images[np.isfinite(images)]
    if len(values) == 0:
        return 0.0, 1.0
    median = float(np.median(values))
    sigma = 1.4826 * float(np.median(np.abs(values - median)))
    return (median - 2 * sigma, median + 5 * sigma) if sigma > 0 else (median - 1, median + 1)


def sequence_title(sequences: ImageSequences, row: int) -> str:
    """Return the name of a sequence for people.

    Parameters
    ----------
    sequences
        Image sequences.
    row
        Row of the sequence.
    """
    return (
        f"tract {sequences.tract[row]}, patch {sequences.patch[row]}, sequence {sequences.sequence_id[row]}"
    )


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
    strip = _Strip.make(sequences, row, markers, limits, _FRAME_SIZE)
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
    strip = _Strip.make(sequences, row, markers, limits, _PANEL_SIZE)
    title = sequence_title(sequences, row) if title is None else title
    output = io.BytesIO()
    _draw_sheet(strip, title).save(output, "PNG", optimize=True)
    return output.getvalue()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Strip:
    """The valid images of a sequence as they are drawn."""

    shown: np.ndarray
    """Their indices in the sequence."""

    grey: np.ndarray
    """Levels, uint8 ``(n, height, width)``."""

    usable: np.ndarray
    """Pixels that are usable, likewise."""

    markers: Sequence[Marker]
    limits: tuple[float, float]

    zoom: int
    """Pixels of the picture to a pixel of the image."""

    scale: float
    """Arcsec to a pixel of the image."""

    names: list[tuple[str, str]]
    """Date and time of each image (UTC)."""

    details: list[str]
    """Band, time since the first image, and visit of each."""

    @classmethod
    def make(
        cls,
        sequences: ImageSequences,
        row: int,
        markers: Sequence[Marker],
        limits: tuple[float, float] | None,
        size: int,
    ) -> _Strip:
        shown = np.flatnonzero(sequences.valid[row])
        if len(shown) == 0:
            raise ValueError(f"The {sequence_title(sequences, row)} has no image.")
        usable = sequences.usable[row, shown]
        image = np.where(usable, sequences.image[row, shown], np.nan)
        low, high = robust_range(image) if limits is None else limits
        if not high > low:
            raise ValueError(f"The display range from {low} to {high} is empty.")
        level = np.nan_to_num((image - low) / (high - low))
        mjd = sequences.mjd[row, shown]
        dates = [tuple(text.split("T")) for text in utc_iso(mjd, 0).tolist()]
        return cls(
            shown=shown,
            # Only as many levels as an animation has greys.
            grey=_greys()[np.clip(np.round(level * (_N_GREYS - 1)), 0, _N_GREYS - 1).astype(int)],
            usable=usable,
            markers=markers,
            limits=(low, high),
            zoom=max(1, -(-size // sequences.width)),
            scale=float(np.sqrt(pixel_area(sequences.pixel_to_sky[row, shown[0]]))),
            names=dates,
            details=[
                f"{BANDS[band]} band   {_elapsed(days)}   visit {visit}"
                for band, days, visit in zip(
                    sequences.band[row, shown], mjd - mjd[0], sequences.visit[row, shown], strict=True
                )
            ],
        )

    @property
    def panel_size(self) -> tuple[int, int]:
        """Width and height of an image in the picture."""
        height, width = self.grey.shape[1:]
        return width * self.zoom, height * self.zoom

    def panel(self, number: int) -> Image.Image:
        """Draw one image with its markers.

        Parameters
        ----------
        number
            Number of the image among those that are drawn.
        """
        grey, usable = self.grey[number, ::-1], self.usable[number, ::-1]
        rgb = np.where(usable[..., np.newaxis], grey[..., np.newaxis], _rgb(_UNUSABLE)).astype(np.uint8)
        panel = Image.fromarray(rgb).resize(self.panel_size, Image.Resampling.NEAREST)
        draw = ImageDraw.Draw(panel)
        radius = max(_MARKER_RADIUS / self.scale * self.zoom, 5.0)
        for ring, marker in enumerate(self.markers):
            # Those that are in one place shall all be seen.
            self._circle(draw, marker, self.shown[number], radius + 4 * ring)
        return panel

    def _circle(self, draw: ImageDraw.ImageDraw, marker: Marker, index: int, radius: float) -> None:
        x, y = marker.x[index], marker.y[index]
        if not (np.isfinite(x) and np.isfinite(y)):
            return
        x, y = (x + 0.5) * self.zoom, (self.grey.shape[1] - 0.5 - y) * self.zoom
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, outline=marker.colour, width=2)


def _draw_frame(strip: _Strip, number: int, title: str) -> Image.Image:
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


def _draw_sheet(strip: _Strip, title: str) -> Image.Image:
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
    _draw_scale(draw, strip, sheet_width - _GAP, 38)
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


def _describe_range(strip: _Strip) -> str:
    low, high = (f"{value:.3g}" for value in strip.limits)
    return f"white {low}, black {high} nJy a pixel"


def _draw_scale(draw: ImageDraw.ImageDraw, strip: _Strip, right: int, y: int) -> None:
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


def _elapsed(days: float) -> str:
    """Return how long after the first image another is."""
    if days < 2 / 24:
        return f"+{days * 24 * 60:.1f} min"
    return f"+{days * 24:.2f} h" if days < 2 else f"+{days:.1f} d"


def _greys() -> np.ndarray:
    """Return the levels of grey from faint to bright."""
    return np.round(np.linspace(255, 0, _N_GREYS)).astype(np.uint8)


def _to_palette(frame: Image.Image, colours: Sequence[str]) -> Image.Image:
    """Return a frame in the colours that all of an animation share: greys,
    and those that are no grey, as they are.
    """
    rgb = np.asarray(frame)
    greys = _greys()
    # Text has greys of its own, each of which becomes the nearest.
    nearest = np.argmin(np.abs(np.arange(256)[:, np.newaxis] - greys.astype(int)), axis=1)
    index = nearest[rgb[..., 0]].astype(np.uint8)
    others = [_rgb(colour) for colour in (_UNUSABLE, *colours)][: 256 - _N_GREYS]
    for number, colour in enumerate(others, start=_N_GREYS):
        index[np.all(rgb == colour, axis=-1)] = number
    entries = [*np.repeat(greys[:, np.newaxis], 3, axis=1), *others]
    image = Image.fromarray(index, "P")
    image.putpalette(np.array(entries, dtype=np.uint8).tobytes())
    return image


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.uint8)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that matplotlib brings along."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)
