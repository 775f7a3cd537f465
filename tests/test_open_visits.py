# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that stay open between their metadata and their pixels."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import astropy.io.fits
import botocore.exceptions
import numpy as np
import pytest
import requests
from builders import VisitBuilder, real_file
from fsspec.implementations.memory import MemoryFileSystem

from lsst.images import Box, fits
from lsst.meas.tno import visits
from lsst.meas.tno.visits import OpenVisits, VisitError
from lsst.resources import ResourcePath

BOX = Box.factory[40:60, 20:50]


class _Handle(SimpleNamespace):
    """Handle of a file, as a butler gives it."""

    def __init__(self, uri: ResourcePath, visit: int) -> None:
        super().__init__(
            dataId={"instrument": "TestCam", "visit": visit, "detector": 0},
            ref=SimpleNamespace(datasetType=SimpleNamespace(storageClass_name="VisitImage")),
            butler=SimpleNamespace(getURI=lambda ref: uri),
        )


@pytest.fixture(scope="module")
def handles(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Return handles of three files."""
    folder = tmp_path_factory.mktemp("visits")
    builder = VisitBuilder(np.random.default_rng(1), size=100)
    made = []
    for visit in range(3):
        fits.write(builder.make(), folder / f"{visit}.fits")
        made.append(_Handle(ResourcePath(folder / f"{visit}.fits"), visit))
    return made


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Count how often each file is opened, and see that all are closed."""
    counts: dict[str, int] = {}
    n_open, open_image = 0, visits.open_image

    @contextlib.contextmanager
    def counting(uri: ResourcePath, *, metadata_only: bool) -> Iterator[Any]:
        nonlocal n_open
        counts[uri.basename()] = counts.get(uri.basename(), 0) + 1
        n_open += 1
        try:
            with open_image(uri, metadata_only=metadata_only) as image:
                yield image
        finally:
            n_open -= 1

    monkeypatch.setattr(visits, "open_image", counting)
    yield counts
    assert n_open == 0


def _read_all(handles: list[Any], pool: OpenVisits) -> list[np.ndarray]:
    images = []
    for handle in handles:
        with pool.read(handle) as visit:
            images.append(visit.read_pixels(BOX).image)
    return images


def test_files_are_opened_once(handles: list[Any], opened: dict[str, int]) -> None:
    with OpenVisits() as pool:
        assert [pool.read_metadata(handle).visit for handle in handles] == [0, 1, 2]
        images = _read_all(handles, pool)
        assert opened == {"0.fits": 1, "1.fits": 1, "2.fits": 1}
        # Once read they are closed, and opened anew.
        for image, again in zip(images, _read_all(handles, pool), strict=True):
            np.testing.assert_array_equal(again, image)
    assert opened == {"0.fits": 2, "1.fits": 2, "2.fits": 2}


def test_only_so_many_stay_open(handles: list[Any], opened: dict[str, int]) -> None:
    with OpenVisits(max_open=1) as pool:
        for handle in handles:
            pool.read_metadata(handle)
        _read_all(handles, pool)
    assert opened == {"0.fits": 1, "1.fits": 2, "2.fits": 2}


def test_what_is_closed_makes_room(handles: list[Any], opened: dict[str, int]) -> None:
    with OpenVisits(max_open=1) as pool:
        pool.read_metadata(handles[0])
        pool.close(handles[0])
        pool.close(handles[1])
        pool.read_metadata(handles[1])
        _read_all(handles[1:2], pool)
    assert opened == {"0.fits": 1, "1.fits": 1}


def test_remote_files_do_not_stay_open(
    handles: list[Any], opened: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    file_system, remote = MemoryFileSystem(), ResourcePath("s3://bucket/0.fits")
    file_system.pipe_file("/open-visits/0.fits", handles[0].butler.getURI(None).read())
    monkeypatch.setattr(type(remote), "to_fsspec", lambda self: (file_system, "/open-visits/0.fits"))
    handle = _Handle(remote, 0)
    with OpenVisits() as pool:
        pool.read_metadata(handle)
        _read_all([handle], pool)
    assert opened == {"0.fits": 2}


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        requests.exceptions.ConnectTimeout(),
        requests.exceptions.ChunkedEncodingError(),
        requests.exceptions.RetryError(),
        botocore.exceptions.EndpointConnectionError(endpoint_url="https://store"),
        botocore.exceptions.ConnectionClosedError(endpoint_url="https://store"),
        botocore.exceptions.ResponseStreamingError(error="reset"),
        botocore.exceptions.NoCredentialsError(),
        botocore.exceptions.ClientError({"ResponseMetadata": {"HTTPStatusCode": 403}}, "GetObject"),
        requests.exceptions.HTTPError(response=SimpleNamespace(status_code=503)),
        PermissionError(errno.EACCES, "expired"),
        OSError(errno.EBUSY, "s3fs: slow down"),
        OSError(errno.EMFILE, "too many open files"),
        OSError(errno.ESTALE, "stale file handle"),
        OSError(errno.ENOTCONN, "transport endpoint is not connected"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("wrapper", [None, ValueError, FileNotFoundError])
def test_stores_that_are_not_reached(
    handles: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    wrapper: type[Exception] | None,
) -> None:
    """They are no fault of a visit, which must not be left out for it."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        if wrapper is None:
            raise error
        raise wrapper("As the butler or fsspec puts it.") from error

    monkeypatch.setattr(visits, "open_image", fail)
    with OpenVisits() as pool, pytest.raises(wrapper or type(error)) as caught:
        pool.read_metadata(handles[1])
    assert "'visit': 1" in caught.value.__notes__[-1]


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "gone"),
        botocore.exceptions.ClientError({"ResponseMetadata": {"HTTPStatusCode": 404}}, "GetObject"),
        requests.exceptions.HTTPError(response=SimpleNamespace(status_code=410)),
        requests.exceptions.HTTPError(response=SimpleNamespace(status_code=404)),
        OSError("Header missing END card."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_gone_or_damaged_is_left_out(
    handles: list[Any], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise FileNotFoundError("As fsspec puts it.") from error

    monkeypatch.setattr(visits, "open_image", fail)
    with OpenVisits() as pool, pytest.raises(VisitError, match="'visit': 1"):
        pool.read_metadata(handles[1])


@pytest.mark.parametrize(
    ("storage_class", "error", "message"),
    [
        ("VisitImage", VisitError, "storage class to read it with is ExposureF"),
        ("ExposureF", ImportError, "read with lsst.afw, which is not here"),
    ],
)
def test_exposures_of_afw_say_what_they_need(
    storage_class: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lsst.daf.base", None)  # Whether it is here or not.
    handle = _Handle(ResourcePath(real_file("afw/exp0.fits")), 7)
    handle.ref.datasetType.storageClass_name = storage_class
    with OpenVisits() as pool, pytest.raises(error, match=message):
        pool.read_metadata(handle)


def test_damaged_files_are_closed(handles: list[Any], opened: dict[str, int], tmp_path: Path) -> None:
    content = handles[0].butler.getURI(None).read()
    (tmp_path / "damaged.fits").write_bytes(content[:20_000])
    with OpenVisits() as pool, pytest.raises(VisitError, match="'visit': 7"):
        pool.read_metadata(_Handle(ResourcePath(tmp_path / "damaged.fits"), 7))


def test_damaged_tiles_name_the_visit(handles: list[Any], opened: dict[str, int], tmp_path: Path) -> None:
    """What zlib raises is none of Python's own errors."""
    content = bytearray(handles[0].butler.getURI(None).read())
    with astropy.io.fits.open(BytesIO(content), disable_image_compression=True) as hdus:
        table, header = hdus["IMAGE"].fileinfo()["datLoc"], hdus["IMAGE"].header
    row = table + 50 * header["NAXIS1"]
    offset = int.from_bytes(content[row + 4 : row + 8])
    # After the 10 bytes of its header. There is no such type of block.
    content[table + header["NAXIS1"] * header["NAXIS2"] + offset + 10] = 0xFF
    path = tmp_path / "damaged.fits"
    path.write_bytes(content)
    with OpenVisits() as pool:
        handle = _Handle(ResourcePath(path), 7)
        pool.read_metadata(handle)
        with pool.read(handle) as visit, pytest.raises(VisitError, match="'visit': 7"):
            visit.read_pixels(BOX)
