# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The images of a sequence, made ready to be drawn."""

from __future__ import annotations

__all__ = (
    "INJECTED_COLOUR",
    "N_GREYS",
    "UNUSABLE_COLOUR",
    "Marker",
    "Strip",
    "grey_levels",
    "parse_colour",
    "robust_range",
    "sequence_title",
)

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ._clock import utc_iso
from ._sequences import BANDS, ImageSequences
from .geometry import pixel_area

INJECTED_COLOUR = "#d62728"
"""Colour of the marker of an injected object."""

UNUSABLE_COLOUR = "#b0c4de"
"""Colour of pixels that no measurement may use."""

N_GREYS = 240
"""Levels of grey of an animation; the other colours of its 256 are for what is
drawn over the images.
"""

_MARKER_RADIUS = 0.6
"""Radius of the circle about an object, arcsec."""


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
    """Colour, as in ``#d62728`` (`str`)."""


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


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Strip:
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
    ) -> Strip:
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
            grey=grey_levels()[np.clip(np.round(level * (N_GREYS - 1)), 0, N_GREYS - 1).astype(int)],
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
        colour = np.where(usable[..., np.newaxis], grey[..., np.newaxis], parse_colour(UNUSABLE_COLOUR))
        panel = Image.fromarray(colour.astype(np.uint8)).resize(self.panel_size, Image.Resampling.NEAREST)
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


def _elapsed(days: float) -> str:
    """Return how long after the first image another is."""
    if days < 2 / 24:
        return f"+{days * 24 * 60:.1f} min"
    return f"+{days * 24:.2f} h" if days < 2 else f"+{days:.1f} d"


def grey_levels() -> np.ndarray:
    """Return the levels of grey from faint to bright."""
    return np.round(np.linspace(255, 0, N_GREYS)).astype(np.uint8)


def parse_colour(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.uint8)
