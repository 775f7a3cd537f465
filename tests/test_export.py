# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import dataclasses
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time, TimeDelta
from astropy.wcs import WCS
from export_builders import injected_sequences, pad
from injection_builders import make_sequences
from scipy.ndimage import center_of_mass

from lsst.meas.tno import BANDS, ImageSequences, MaskBit
from lsst.meas.tno._output import making_folder, replacing
from lsst.meas.tno.export import (
    SEQUENCE_FORMATS,
    DifferentPixelsError,
    sequence_path,
    to_fits_cube,
    to_fits_image,
    write_arrays,
    write_sequence,
)
from lsst.meas.tno.geometry import apply_affine, inverse_gnomonic
from lsst.meas.tno.tracks import find_markers

MAX_SEPARATION = 1e-4
"""Arcsec: the affine map and the WCS are the same gnomonic projection."""


@pytest.fixture
def sequences() -> ImageSequences:
    """Return two sequences with objects, the second of which is padded."""
    sequences = injected_sequences(np.random.default_rng(1), 2, n_times=9, flux=1e5)
    sequences.band[:, 4:] = 3
    sequences.mask[0, 2, 3, 4] |= MaskBit.SATURATED
    sequences.mask[0, 3, 5, 6] |= MaskBit.NO_DATA
    for array in (sequences.image, sequences.variance):
        array[0, 3, 5, 6] = np.nan
    pad(sequences, 1, 6)
    return sequences


def sky_of(sequences: ImageSequences, row: int, index: int, x: np.ndarray, y: np.ndarray) -> SkyCoord:
    xi, eta = apply_affine(sequences.pixel_to_sky[row, index], x, y)
    centre = sequences.centre_ra[row, index], sequences.centre_dec[row, index]
    return SkyCoord(*inverse_gnomonic(xi, eta, *centre), unit="deg")


def fitsverify(path: Path) -> None:
    """Run the FITS support office's verifier, where it is installed."""
    if program := shutil.which("fitsverify"):
        result = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout
        assert "0 warning(s) and 0 error(s)" in result.stdout, result.stdout


def test_cube(sequences: ImageSequences, tmp_path: Path) -> None:
    path = tmp_path / "cube.fits"
    write_sequence(path, sequences, 0, file_format="fits", markers=find_markers(sequences)[0])
    fitsverify(path)
    with fits.open(path, checksum=True) as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "VARIANCE", "MASK", "PSF", "IMAGES"]
        for hdu, name in zip(hdus, ("image", "variance", "mask", "psf"), strict=False):
            np.testing.assert_array_equal(hdu.data, getattr(sequences, name)[0])
        header = hdus[0].header
        assert (header["BUNIT"], hdus["VARIANCE"].header["BUNIT"]) == ("nJy", "nJy2")
        assert (header["TIMESYS"], header["RADESYS"]) == ("TAI", "ICRS")
        assert (header["BAND"], header["NIMAGES"], header["SEQID"]) == ("ri", 9, 0)
        assert (header["OBJECT"], header["INJECTED"]) == ("object-0", True)
        assert hdus["MASK"].header["MBIT2"] == "SATURATED"
        table = Table.read(hdus["IMAGES"])
    assert list(table["visit"]) == list(range(9))
    assert list(table["band"]) == ["r"] * 4 + ["i"] * 5
    np.testing.assert_array_equal(table["mjd_avg"], sequences.mjd[0])
    # FITS counts pixels from 1.
    np.testing.assert_allclose(table["injected_x"], sequences.injection.inj_x[0] + 1)


def test_coordinates_are_those_of_the_sequence(sequences: ImageSequences) -> None:
    cube = to_fits_cube(sequences, 0)
    x, y = np.meshgrid(np.arange(15.0), np.arange(15.0))
    for hdu in cube[:3]:
        sky = WCS(hdu.header).celestial.pixel_to_world(x, y)
        assert sky.separation(sky_of(sequences, 0, 0, x, y)).arcsec.max() < MAX_SEPARATION
    # North is up and east is left.
    assert sky[1, 0].dec > sky[0, 0].dec
    assert sky[0, 0].ra > sky[0, 1].ra


def test_sources_are_where_the_coordinates_say(sequences: ImageSequences) -> None:
    for index in (0, 8):
        with to_fits_image(sequences, 0, index) as hdus:
            data = hdus[0].data
            # Peak and what is about it: the noise is a thousandth of it.
            y, x = center_of_mass(np.where(data > 0.05 * data.max(), data, 0.0))
            found = WCS(hdus[0].header).pixel_to_world(x, y)
        truth = sequences.injection
        expected = sky_of(sequences, 0, index, truth.inj_x[0, index], truth.inj_y[0, index])
        assert found.separation(expected).arcsec < 0.05


def test_image_of_any_orientation() -> None:
    sequences = make_sequences(1, np.random.default_rng(2), n_times=3)
    x, y = np.array([0.0, 30.0, 11.0]), np.array([0.0, 30.0, 25.0])
    for index in range(3):
        with to_fits_image(sequences, 0, index) as hdus:
            hdus.verify("exception")
            sky = WCS(hdus[0].header).pixel_to_world(x, y)
        assert sky.separation(sky_of(sequences, 0, index, x, y)).arcsec.max() < MAX_SEPARATION
    with pytest.raises(DifferentPixelsError, match="one file an image"):
        to_fits_cube(sequences, 0)


def test_times(sequences: ImageSequences, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    write_sequence(folder, sequences, 1, file_format="fits", one_file_per_image=True)
    paths = sorted(folder.iterdir())
    assert [path.name for path in paths] == [f"00{index}_{index}_0.fits" for index in range(6)]
    for index, path in enumerate(paths):
        fitsverify(path)
        header = fits.getheader(path)
        assert (header["VISIT"], header["DETECTOR"]) == (index, 0)
        assert header["BAND"] == BANDS[sequences.band[1, index]]
        assert header["MJD-AVG"] == sequences.mjd[1, index]
        middle = Time(sequences.mjd[1, index], format="mjd", scale="tai")
        begin = middle - TimeDelta(15.0, format="sec")
        for key in ("DATE-OBS", "DATE-BEG"):
            assert abs((Time(header[key], scale="tai") - begin).sec) < 1e-3
        assert abs((Time(header["DATE-AVG"], scale="tai") - middle).sec) < 1e-3
        assert header["EXPTIME"] == 30.0
    # The cube is from the first begin to the last end.
    cube = to_fits_cube(sequences, 1)[0].header
    length = Time(cube["DATE-END"], scale="tai") - Time(cube["DATE-OBS"], scale="tai")
    assert length.sec == pytest.approx(5 * 41.0 + 30.0, abs=2e-3)
    assert cube["NAXIS3"] == 6


def test_what_is_unknown_is_left_out_of_headers(sequences: ImageSequences) -> None:
    sequences.exposure_time[0] = np.nan
    sequences.injection.mag[0] = np.nan
    header = to_fits_cube(sequences, 0)[0].header
    assert "MAG" not in header
    assert "EXPTIME" not in header
    assert header["MJD-OBS"] == sequences.mjd[0, 0]
    plain = to_fits_cube(dataclasses.replace(sequences, injection=None), 0)[0].header
    assert "INJECTED" not in plain


def test_archive(sequences: ImageSequences, tmp_path: Path) -> None:
    path = sequence_path(tmp_path, "tar", 0, 0, 1)
    assert path.name == "0_0_000001.tar.gz"
    write_sequence(path, sequences, 1, file_format="tar")
    first = path.read_bytes()
    time.sleep(1.1)
    write_sequence(path, sequences, 1, file_format="tar")
    assert path.read_bytes() == first
    with tarfile.open(path) as archive:
        names = archive.getnames()
        archive.extractall(tmp_path, filter="data")
    assert names[:2] == ["0_0_000001/0_0_000001.png", "0_0_000001/0_0_000001.gif"]
    assert len(names) == 2 + 6
    image = fits.getdata(tmp_path / "0_0_000001" / "images" / "000_0_0.fits")
    np.testing.assert_array_equal(image, sequences.image[1, 0])


def test_pictures(sequences: ImageSequences, tmp_path: Path) -> None:
    for file_format, magic in (("png", b"\x89PNG"), ("gif", b"GIF89a")):
        path = sequence_path(tmp_path, file_format, 3, 4, 5)
        write_sequence(path, sequences, 0, file_format=file_format, limits=(-100.0, 200.0))
        assert path.read_bytes().startswith(magic)
    with pytest.raises(ValueError, match="'jpg' is none of the formats fits, png"):
        write_sequence(tmp_path / "x.jpg", sequences, 0, file_format="jpg")
    assert not (tmp_path / "x.jpg").exists()
    assert list(SEQUENCE_FORMATS) == ["fits", "png", "gif", "tar"]


def test_arrays_are_read_without_this_package(sequences: ImageSequences, tmp_path: Path) -> None:
    path = tmp_path / "sequences.npz"
    write_arrays(path, sequences, "npz")
    code = (
        "import sys, numpy as np, torch; z = np.load(sys.argv[1], allow_pickle=False); "
        "x = torch.from_numpy(z['image']); y = torch.from_numpy(z['injected']); "
        "print(tuple(x.shape), x.dtype, y.sum().item(), z['bands'][z['band'][0, 0]], z['object_id'][1], "
        "'lsst' in sys.modules)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True
    )
    assert output.stdout.split("\n")[0] == "(2, 9, 15, 15) torch.float32 2 r object-1 False"
    with np.load(path, allow_pickle=False) as arrays:
        assert set(arrays) == {
            *(column.name for column, _ in sequences._all_items()),
            "bands",
        }
        for column, array in sequences._all_items():
            np.testing.assert_array_equal(arrays[column.name], array)
            assert arrays[column.name].dtype == array.dtype
        assert torch.from_numpy(arrays["mask"]).dtype == torch.uint8


def test_zarr_needs_its_package(
    sequences: ImageSequences, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ModuleNotFoundError, match="pip install 'zarr>=3'"):
        write_arrays(tmp_path / "a.zarr", sequences, "zarr")
    assert list(tmp_path.iterdir()) == []


def test_zarr(sequences: ImageSequences, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    write_arrays(tmp_path / "a.zarr", sequences, "zarr")
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")
    for column, array in sequences._all_items():
        np.testing.assert_array_equal(group[column.name][...], array)
    assert group["image"].attrs["unit"] == "nJy"


def test_what_fails_leaves_nothing_and_harms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.txt"

    def write(text: str, error: BaseException | None = None) -> None:
        with making_folder(path.parent), replacing(path) as temporary:
            temporary.write_text(text)
            if error is not None:
                raise error

    with pytest.raises(OSError, match="full"):
        write("half", OSError("full"))
    assert list(tmp_path.iterdir()) == []
    write("whole")
    with pytest.raises(KeyboardInterrupt):
        write("half", KeyboardInterrupt())
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]
    # A folder is replaced as a whole, too.
    for name in ("a", "b"):
        with replacing(tmp_path / "images") as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert [item.name for item in (tmp_path / "images").iterdir()] == ["b"]
    with pytest.raises(FileNotFoundError) as error, replacing(tmp_path / "none" / "file"):
        pass
    assert error.value.filename == str(tmp_path / "none" / "file")


def test_links_stay_and_devices_are_no_files(tmp_path: Path) -> None:
    target, link, pipe = (tmp_path / name for name in ("target", "link", "pipe"))
    target.touch()
    link.symlink_to(target)
    with replacing(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    os.mkfifo(pipe)
    with pytest.raises(FileExistsError, match="no regular file"), replacing(pipe):
        pass
    assert pipe.is_fifo()


def test_files_are_the_same_as_in_memory(sequences: ImageSequences, tmp_path: Path) -> None:
    write_sequence(tmp_path / "a.fits", sequences, 0, file_format="fits")
    output = io.BytesIO()
    hdus = to_fits_cube(sequences, 0)
    assert not any(re.search(r"20\d\d-", card) for hdu in hdus for card in hdu.header.comments)
    hdus.writeto(output)
    assert (tmp_path / "a.fits").read_bytes() == output.getvalue()
