# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from builders import VisitBuilder
from fsspec.implementations.memory import MemoryFileSystem

from lsst.images import Box, VisitImage, fits
from lsst.meas.tno._archives import open_image, read_tile_shape
from lsst.resources import ResourcePath

BOX = Box.factory[40:60, 20:50]


@pytest.fixture(scope="module")
def image() -> VisitImage:
    return VisitBuilder(np.random.default_rng(1), size=300).make()


def _write(image: VisitImage, path: Path, tile_shape: tuple[int, int] | None = None) -> ResourcePath:
    options = fits.FitsCompressionOptions(tile_shape=tile_shape)
    fits.write(image, path, compression_options=dict.fromkeys(("image", "mask", "variance"), options))
    return ResourcePath(path)


def _read(uri: ResourcePath, *, metadata_only: bool = False) -> tuple[np.ndarray, ResourcePath]:
    with open_image(uri, metadata_only=metadata_only) as (reader, read_from):
        assert reader.get_component("band") == "r"
        return reader.get_component("image", bbox=BOX).array, read_from


@pytest.mark.parametrize(("tile_shape", "expected"), [(None, (1, 300)), ((64, 100), (64, 100))])
def test_tile_shape(image: VisitImage, tmp_path: Path, tile_shape: tuple | None, expected: tuple) -> None:
    assert read_tile_shape(_write(image, tmp_path / "image.fits", tile_shape)) == expected


def test_tile_shape_with_a_long_header(image: VisitImage, tmp_path: Path) -> None:
    def add_cards(header: object) -> None:
        for number in range(2000):
            header[f"HIERARCH LSST BUTLER INPUT {number}"] = "a dataset"

    fits.write(image, tmp_path / "image.fits", update_header=add_cards)
    assert read_tile_shape(ResourcePath(tmp_path / "image.fits")) == (1, 300)


def test_no_tile_shape(image: VisitImage, tmp_path: Path) -> None:
    fits.write(image, tmp_path / "image.fits", compression_options={"image": None})
    assert read_tile_shape(ResourcePath(tmp_path / "image.fits")) is None
    assert read_tile_shape(ResourcePath(tmp_path / "image.json")) is None
    (tmp_path / "empty.fits").touch()
    assert read_tile_shape(ResourcePath(tmp_path / "empty.fits")) is None


def test_parts_are_read_of_a_remote_file(
    image: VisitImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a file system of fsspec that is not local, as s3fs."""
    content = _write(image, tmp_path / "image.fits", (64, 100)).read()
    file_system = MemoryFileSystem()
    file_system.pipe_file("/bucket/image.fits", content)
    uri = ResourcePath("s3://bucket/image.fits")
    monkeypatch.setattr(type(uri), "to_fsspec", lambda self: (file_system, "/bucket/image.fits"))
    for metadata_only in (False, True):
        pixels, read_from = _read(uri, metadata_only=metadata_only)
        assert read_from == uri
        np.testing.assert_array_equal(pixels, image.image[BOX].array)
    assert read_tile_shape(uri) == (64, 100)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(_PartsHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


class _PartsHandler(SimpleHTTPRequestHandler):
    """Serves files, also in parts, and counts the bytes that it sends."""

    n_bytes = 0

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if requested:
            start, stop = int(requested[1]), min(int(requested[2] or len(content)) + 1, len(content))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
            content = content[start:stop]
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        _PartsHandler.n_bytes += len(content)
        self.wfile.write(content)


def test_parts_are_read_over_http(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp")
    large = VisitBuilder(np.random.default_rng(1), size=1200).make()
    size = _write(large, tmp_path / "image.fits", (64, 100)).size()
    uri = ResourcePath(f"{server}/image.fits")
    for metadata_only, most in ((True, 0.1), (False, 0.7)):
        monkeypatch.setattr(_PartsHandler, "n_bytes", 0)
        pixels, read_from = _read(uri, metadata_only=metadata_only)
        assert read_from == uri
        np.testing.assert_array_equal(pixels, large.image[BOX].array)
        assert 0 < _PartsHandler.n_bytes < most * size
    assert read_tile_shape(uri) == (64, 100)


def test_a_file_is_fetched_where_it_cannot_be_read_in_parts(
    image: VisitImage, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(image, tmp_path / "image.fits", (64, 100))

    def fail(*args: object, **kwargs: object) -> None:
        raise ImportError("no file system for http")

    uri = ResourcePath(f"{server}/image.fits")
    monkeypatch.setattr(type(uri), "to_fsspec", fail)
    pixels, read_from = _read(uri)
    assert read_from.isLocal
    np.testing.assert_array_equal(pixels, image.image[BOX].array)
