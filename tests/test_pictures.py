# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pytest
from builders import white_sequences
from export_builders import found_candidates, injected_sequences, pad
from PIL import Image, ImageDraw

from lsst.meas.tno import ImageSequences, MaskBit
from lsst.meas.tno.pictures import (
    CANDIDATE_COLOUR,
    INJECTED_COLOUR,
    Marker,
    animate_sequence,
    draw_contact_sheet,
    robust_range,
)
from lsst.meas.tno.tracks import find_markers

RED, BLUE = (
    np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in (INJECTED_COLOUR, CANDIDATE_COLOUR)
)


@pytest.fixture
def sequences() -> ImageSequences:
    return injected_sequences(np.random.default_rng(1), 2, flux=4000.0)


def frames_of(gif: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(gif)) as image:
        frames = []
        for index in range(image.n_frames):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")).astype(int))
    return np.array(frames)


def is_colour(frames: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return np.all(frames == colour, axis=-1)


def panel_of(frames: np.ndarray, size: int) -> np.ndarray:
    """Return the part of an animation that is the image; below the text and
    inside of the margin.
    """
    zoom = (frames.shape[2] - 16) // size
    return frames[:, 58 : 58 + size * zoom, 8 : 8 + size * zoom]


def test_range_is_that_of_the_noise() -> None:
    images = np.random.default_rng(2).normal(10.0, 3.0, (50, 40, 40))
    images[:, :5] = 1e5
    images[0, 0, 0] = np.nan
    low, high = robust_range(images)
    # An eighth of the pixels are far off: the median is that of the 43 %, and
    # so on, 0.18 and 0.16 standard deviations off.
    assert low == pytest.approx(10.0 - 2 * 3.0, abs=1.5)
    assert high == pytest.approx(10.0 + 5 * 3.0, abs=4.0)
    assert robust_range(np.full((2, 2), np.nan)) == (0.0, 1.0)
    assert robust_range(np.full((2, 2), 7.0)) == (6.0, 8.0)


def test_animation_repeats_endlessly_and_shows_every_image(sequences: ImageSequences) -> None:
    pad(sequences, 0, 7)
    with Image.open(io.BytesIO(animate_sequence(sequences, 0))) as image:
        assert image.n_frames == 7
        assert image.info["loop"] == 0
        durations = []
        for index in range(7):
            image.seek(index)
            durations.append(image.info["duration"])
    assert durations == [700] * 7


def test_one_scale_through_a_sequence(sequences: ImageSequences) -> None:
    sequences.image[0] = np.linspace(-20, 70, 225).reshape(15, 15)
    sequences.image[0, 1::2] += 10.0
    panels = panel_of(frames_of(animate_sequence(sequences, 0, limits=(-50.0, 150.0))), 15)
    grey = panels[:, 14::28, 14::28, 0]
    expected = 255 * (1 - (sequences.image[0, :, ::-1] + 50) / 200)
    # Half a level of 240.
    assert np.max(np.abs(grey - expected)) < 1.1
    assert np.array_equal(grey[0], grey[48])
    # All greys: nothing is dithered.
    assert np.array_equal(panels[..., 0], panels[..., 2])


def test_markers_are_where_the_objects_are(sequences: ImageSequences) -> None:
    markers = find_markers(sequences, found_candidates(sequences))
    assert [marker.label.split(",")[0] for marker in markers[0]] == ["injected", "candidate"]
    for row in range(2):
        panels = panel_of(frames_of(animate_sequence(sequences, row, markers=markers[row])), 15)
        zoom = panels.shape[1] / 15
        for colour, radius in ((RED, 3 * zoom), (BLUE, 3 * zoom + 4)):
            for index in (0, 17, 49):
                y, x = np.nonzero(is_colour(panels[index], colour))
                middle = np.array([(x.min() + x.max() + 1) / 2, (y.min() + y.max() + 1) / 2]) / zoom
                truth = sequences.injection
                expected = truth.inj_x[row, index] + 0.5, 14.5 - truth.inj_y[row, index]
                # A tenth of a pixel, and what a candidate of this S/N may be
                # off.
                assert middle == pytest.approx(expected, abs=0.25)
                assert np.ptp(x) / 2 == pytest.approx(radius, abs=1.0)
                inside = sequences.image[row, index] == sequences.image[row, index].max()
                peak_y, peak_x = np.argwhere(inside)[0]
                assert np.hypot(peak_x + 0.5 - middle[0], 14.5 - peak_y - middle[1]) < 2.5


def test_frames_have_text_that_changes_with_time(sequences: ImageSequences) -> None:
    frames = frames_of(animate_sequence(sequences, 0))
    header = frames[:, :56]
    assert np.all(np.mean(header < 100, axis=(1, 2, 3)) > 0.01)
    assert len({frame.tobytes() for frame in header}) == 50


def test_unusable_pixels_are_no_grey(sequences: ImageSequences) -> None:
    sequences.mask[0, :, 4, 3] = MaskBit.SATURATED
    panels = panel_of(frames_of(animate_sequence(sequences, 0)), 15)
    assert tuple(panels[3, (14 - 4) * 28 + 14, 3 * 28 + 14]) == (0xB0, 0xC4, 0xDE)


def test_contact_sheet_has_every_image_and_marker(sequences: ImageSequences) -> None:
    pad(sequences, 0, 23)
    (injected,) = find_markers(sequences)[0]
    with Image.open(io.BytesIO(draw_contact_sheet(sequences, 0, markers=[injected]))) as image:
        assert image.format == "PNG"
        sheet = np.asarray(image.convert("RGB")).astype(int)
    with Image.open(io.BytesIO(draw_contact_sheet(sequences, 0))) as image:
        bare = np.asarray(image.convert("RGB")).astype(int)
    assert not is_colour(bare, RED).any()
    # 23 circles of 23 px, 3 rows of 10, below the legend.
    y, x = np.nonzero(is_colour(sheet[62:], RED))
    assert len(set(y // 181 * 10 + x // 143)) == 23


def test_texts_do_not_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes: list[tuple[float, float, float, float]] = []
    draw_text = ImageDraw.ImageDraw.text

    def record(self: ImageDraw.ImageDraw, xy: Any, text: str, fill: Any, font: Any, **options: Any) -> None:
        boxes.append(self.textbbox(xy, text, font, **options))
        draw_text(self, xy, text, fill, font, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    # Few images make the narrowest sheet.
    sequences = injected_sequences(np.random.default_rng(4), 1, n_times=3)
    sequences.tract[:], sequences.patch[:], sequences.sequence_id[:] = 12345, 99, 123456
    sequences.visit[:] = 2026021900123
    candidates = found_candidates(sequences)
    sequences.injection.snr[:] = candidates.snr[:] = 333.3
    markers = find_markers(sequences, candidates)[0]
    draw_contact_sheet(sequences, 0, markers=markers, limits=(-123456.0, 234567.0))
    sheet, boxes[:] = list(boxes), []
    animate_sequence(sequences, 0, markers=markers, limits=(-123456.0, 234567.0))
    frame = boxes[: len(boxes) // 3]
    for texts in (sheet, frame):
        for one, other in itertools.combinations(texts, 2):
            apart = (one[2] < other[0], other[2] < one[0], one[3] < other[1], other[3] < one[1])
            assert any(apart), (one, other)


def test_one_image_and_other_sizes() -> None:
    sequences = white_sequences(np.random.default_rng(4), 1, size=50, n_times=1)
    marker = Marker(label="nothing", x=np.array([np.nan]), y=np.array([np.nan]))
    for content in (animate_sequence(sequences, 0, markers=[marker]), draw_contact_sheet(sequences, 0)):
        with Image.open(io.BytesIO(content)) as image:
            assert image.width >= 400
            image.load()


def test_nothing_to_draw_is_an_error(sequences: ImageSequences) -> None:
    with pytest.raises(ValueError, match="range from 2 to 2"):
        animate_sequence(sequences, 0, limits=(2, 2))
    pad(sequences, 0, 0)
    with pytest.raises(ValueError, match="sequence 0 has no image"):
        draw_contact_sheet(sequences, 0)
