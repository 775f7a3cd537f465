# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest
from astropy.table import Table
from builders import CENTRE, VisitBuilder, region_about

from lsst.images.psfs import GaussianPointSpreadFunction
from lsst.meas.tno import BANDS, MaskBit
from lsst.meas.tno.extraction import bytes_per_sequence
from lsst.meas.tno.geometry import apply_affine, gnomonic, invert_affine
from lsst.meas.tno.positions import htm_index, split_of_htm
from lsst.meas.tno.tasks import ExtractCutoutsConfig, ExtractCutoutsTask
from lsst.pipe.base import InMemoryDatasetHandle, NoWorkFound
from lsst.pipe.base.testUtils import lintConnections

N_VISITS = 8


@pytest.fixture
def builder():
    return VisitBuilder(np.random.default_rng(1), size=120)


@pytest.fixture
def config():
    config = ExtractCutoutsConfig()
    config.n_positions = 6
    config.n_times, config.min_times = 5, 2
    config.cutout_size = 20
    return config


def _run(config, handles, size=12.0, **kwargs):
    task = ExtractCutoutsTask(config=config)
    region = region_about(*CENTRE, size)
    return task, task.run(handles, region=region, tract=3, patch=4, **kwargs).cutouts


def test_connections():
    lintConnections(ExtractCutoutsConfig.ConnectionsClass)


def test_sequences_are_in_order_of_time_and_complete(config, builder):
    handles = builder.handles(N_VISITS)
    task, sequences = _run(config, handles[::-1])
    sequences.validate()
    assert len(sequences) == 12
    assert sequences.sequence_id.tolist() == list(range(12))
    assert sequences.visit[:2].tolist() == [[100, 101, 102, 103, 104], [105, 106, 107, -1, -1]]
    np.testing.assert_allclose(sequences.mjd[0], [builder.mjd(i) for i in range(5)], atol=1e-10)
    assert np.all(sequences.tract == 3)
    assert np.all(sequences.patch == 4)
    assert np.all(sequences.band[sequences.valid] == BANDS.index("r"))
    assert np.all(sequences.noise_scale[sequences.valid] == 1)
    np.testing.assert_array_equal(sequences.htm, htm_index(sequences.ra, sequences.dec, 12))
    np.testing.assert_array_equal(sequences.split, split_of_htm(sequences.htm))
    assert task.metadata["n_visits_used"] == task.metadata["n_visits_given"] == N_VISITS


def test_dates_stay_with_their_pixels(config, builder):
    """Each image is constant at the number of its visit."""
    handles = builder.handles(N_VISITS)
    for handle in handles:
        handle.inMemoryDataset.image.array[:] = handle.dataId["visit"]
    _, sequences = _run(config, np.random.default_rng(2).permutation(handles))
    valid = sequences.valid
    for image, visit in zip(sequences.image[valid], sequences.visit[valid], strict=True):
        assert np.all(image[np.isfinite(image)] == visit)


def test_a_star_is_where_the_affine_says(config, builder):
    """Independent of our geometry: astropy's WCS puts the star in."""
    star = CENTRE[0] + 0.5 / 3600, CENTRE[1] - 0.7 / 3600
    handles = builder.handles(N_VISITS)
    yy, xx = np.mgrid[0:120, 0:120]
    for index, handle in enumerate(handles):
        x, y = builder.wcs(index).wcs_world2pix(*star, 0)
        handle.inMemoryDataset.image.array[:] = 1000 * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * 1.8**2))
    config.positions = "catalog"
    _, sequences = _run(config, handles, catalog=Table({"ra": [CENTRE[0]], "dec": [CENTRE[1]]}))
    offset = gnomonic(*star, *CENTRE)
    x, y = apply_affine(invert_affine(sequences.pixel_to_sky), *offset)
    cutout_y, cutout_x = np.mgrid[0:20, 0:20]
    for index in np.ndindex(sequences.valid.shape):
        if sequences.valid[index]:
            image = sequences.image[index]
            centroid = (image * cutout_x).sum() / image.sum(), (image * cutout_y).sum() / image.sum()
            assert centroid == pytest.approx((x[index], y[index]), abs=0.01)


def test_the_same_seed_gives_the_same_bytes(config, builder):
    handles = builder.handles(N_VISITS)
    first, second = (_run(config, handles)[1] for _ in range(2))
    for (column, a), (_, b) in zip(first.items(), second.items(), strict=True):
        assert a.tobytes() == b.tobytes(), column.name
    config.seed = 1
    assert not np.any(_run(config, handles)[1].ra == first.ra)


def test_time_window_and_bands(config, builder):
    handles = builder.handles(N_VISITS)
    handles[2] = InMemoryDatasetHandle(builder.make(2, band="i"), visit=102, detector=0)
    # The first exposure's middle is MJD 60980.1, 2 h 24 min; the next come
    # every 41 s.
    config.time_begin = "2025-11-01T02:24:20"
    config.bands = ["r"]
    task, sequences = _run(config, handles)
    assert sequences.visit[0].tolist() == [101, 103, 104, 105, 106]
    assert task.metadata["n_visits_selected"] == 6
    config.time_end = "2025-11-01T02:26:10"
    assert _run(config, handles)[1].visit[0].tolist() == [101, 103, -1, -1, -1]


def test_coverage_decides_at_the_edge(config, builder):
    handles = builder.handles(N_VISITS)
    ra, dec = builder.wcs(0).wcs_pix2world([3.0], [60.0], 0)
    config.positions = "catalog"
    catalog = Table({"ra": ra, "dec": dec})
    config.min_coverage = 0.6
    _, sequences = _run(config, handles, size=40.0, catalog=catalog)
    off_edge = (sequences.mask[0, 0] & MaskBit.NO_DATA) != 0
    assert off_edge.mean() == pytest.approx(0.3, abs=0.06)
    config.min_coverage = 0.95
    with pytest.raises(NoWorkFound):
        _run(config, handles, size=40.0, catalog=catalog)


@pytest.mark.parametrize("damage", ["no psf", "large psf", "no wcs", "masked"])
def test_one_bad_visit_is_left_out_and_counted(config, builder, damage, caplog):
    handles = builder.handles(N_VISITS)
    bad = handles[1].inMemoryDataset
    if damage == "no psf":
        bad._psf = None
    elif damage == "large psf":
        bad._psf = GaussianPointSpreadFunction(7.0, bounds=bad.bbox, stamp_size=61)
    elif damage == "no wcs":
        bad.image._sky_projection = None
    else:
        bad.mask.set("NO_DATA")
    with caplog.at_level(logging.WARNING):
        task, sequences = _run(config, handles)
    sequences.validate()
    assert sequences.visit[0].tolist() == (
        [100, 102, 103, 104, 105] if damage == "no wcs" else [100, 102, 103, 104, -1]
    )
    key = "n_visits_masked" if damage == "masked" else "n_visits_unreadable"
    assert task.metadata[key] == 1
    assert task.metadata["n_visits_used"] == N_VISITS - 1
    assert "101" in caplog.text


def test_too_few_visits_are_no_work(config, builder):
    config.min_times = 3
    with pytest.raises(NoWorkFound, match="2 of 2 visit images"):
        _run(config, builder.handles(2))


def test_too_few_visits_are_no_work_even_if_one_is_bad(config, builder):
    config.min_times = 3
    handles = builder.handles(2)
    handles[0].inMemoryDataset.image._sky_projection = None
    with pytest.raises(NoWorkFound, match="1 of 2 visit images"):
        _run(config, handles)


def test_positions_elsewhere_are_no_work(config, builder):
    config.box = [10.0, 11.0, 0.0, 1.0]
    with pytest.raises(NoWorkFound, match="No position"):
        _run(config, builder.handles(2))


def test_only_bad_visits_are_an_error(config, builder):
    handles = builder.handles(3)
    for handle in handles:
        handle.inMemoryDataset.image._sky_projection = None
    with pytest.raises(RuntimeError, match="3 cannot be used, the first.*no WCS"):
        _run(config, handles)


def test_no_psf_at_all_is_an_error(config, builder):
    handles = builder.handles(3)
    for handle in handles:
        handle.inMemoryDataset._psf = None
    with pytest.raises(RuntimeError, match="3 cannot be used, the first.*no PSF"):
        _run(config, handles)


def test_a_psf_too_large_for_psf_size_is_an_error(config, builder):
    config.psf_size = 5
    with pytest.raises(RuntimeError, match=r"3 cannot be used, the first.*'visit': 100.*raise psf_size"):
        _run(config, builder.handles(3))


def test_a_table_too_large_fails_before_anything_is_read(config):
    config.positions = "grid"
    config.grid_spacing = 0.01
    with pytest.raises(ValueError, match="max_table_size"):
        _run(config, [None])


def _table_size(config, n_sequences):
    """Return a size in GB that this many sequences fit in."""
    row_size = bytes_per_sequence(config.n_times, config.cutout_size, config.psf_size)
    return (n_sequences + 0.5) * row_size / 1e9


def test_a_table_of_too_many_sequences_is_refused(config, builder):
    config.max_table_size = _table_size(config, 11)
    with pytest.raises(ValueError, match="12 sequences has about .*max_table_size.*large_table"):
        _run(config, builder.handles(N_VISITS))


@pytest.mark.parametrize(
    ("large_table", "n_left", "n_positions"), [("fewer_positions", 4, 2), ("fewer_images", 5, 5)]
)
def test_large_tables_are_made_smaller_as_configured(
    config, builder, large_table, n_left, n_positions, caplog
):
    config.n_positions = 5
    handles = builder.handles(N_VISITS)
    _, complete = _run(config, handles)
    config.large_table = large_table
    config.max_table_size = _table_size(config, 5)
    with caplog.at_level(logging.WARNING):
        task, sequences = _run(config, handles)
    sequences.validate()
    assert len(complete) == 10
    assert len(sequences) == n_left
    assert len(np.unique(sequences.ra)) == n_positions
    assert task.metadata["n_sequences_left_out"] == 10 - n_left
    assert large_table in caplog.text
    same = np.isin(complete.ra, sequences.ra)
    if large_table == "fewer_positions":
        assert complete.image[same].tobytes() == sequences.image.tobytes()
    else:
        assert np.isin(sequences.mjd[:, 0], complete.mjd[:, 0]).all()


def test_fewer_images_need_one_run_at_each_position(config, builder):
    config.large_table = "fewer_images"
    config.max_table_size = _table_size(config, 5)
    with pytest.raises(ValueError, match="6 sequences"):
        _run(config, builder.handles(N_VISITS))


def test_positions_of_a_fine_grid_are_left_out_if_configured(config, builder):
    config.positions, config.grid_spacing = "grid", 1.0
    config.large_table = "fewer_positions"
    config.max_table_size = _table_size(config, 20)
    task, sequences = _run(config, builder.handles(N_VISITS))
    assert 10 <= len(sequences) <= 20
    assert len(sequences) == 2 * task.metadata["n_positions"] or task.metadata["n_sequences_left_out"] > 0


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"min_times": 51}, ("min_times", "n_times")),
        ({"psf_size": 24}, ("psf_size",)),
        ({"cutout_size": 1}, ("cutout_size",)),
        ({"seed": -1}, ("seed",)),
        ({"catalog_file": "positions.ecsv"}, ("catalog_file", "positions")),
        ({"min_coverage": 0.0}, ("min_coverage",)),
        ({"htm_level": 30}, ("htm_level",)),
        ({"bands": ["w"]}, ("bands",)),
        ({"time_begin": "2026-01-01", "time_end": "2025-01-01"}, ("time_begin", "time_end")),
        ({"time_begin": "yesterday"}, ("time_begin",)),
        ({"box": [0.0, 1.0, 5.0, -5.0]}, ("box",)),
        ({"grid_spacing": -1.0}, ("grid_spacing",)),
        ({"max_table_size": 1e-6}, ("max_table_size", "n_times", "cutout_size")),
        ({"large_table": "split"}, ("large_table",)),
    ],
)
def test_impossible_configurations_are_named(settings, names):
    with pytest.raises(ValueError, match="(?s)" + ".*".join(names)):
        _validate(settings)


def _validate(settings):
    config = ExtractCutoutsConfig()
    config.update(**settings)
    config.validate()


def test_catalog_connection_is_there_when_it_is_needed():
    config = ExtractCutoutsConfig()
    assert "catalog" not in config.ConnectionsClass(config=config).prerequisiteInputs
    config.positions = "catalog"
    assert "catalog" in config.ConnectionsClass(config=config).prerequisiteInputs
    config.catalog_file = "positions.ecsv"
    assert "catalog" not in config.ConnectionsClass(config=config).prerequisiteInputs


def test_a_task_is_imported_without_the_others():
    code = """
import sys
from lsst.meas.tno.tasks import ExtractCutoutsTask
assert ExtractCutoutsTask.__module__ == "lsst.meas.tno.tasks.extract_cutouts"
loaded = [name for name in sys.modules if name.startswith("lsst.meas.tno.tasks.")]
assert all("extract_cutouts" in name for name in loaded), loaded
from lsst.meas.tno import tasks
assert all(hasattr(tasks, name) for name in tasks.__all__)
assert not hasattr(tasks, "ExtractCutoutsResult")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
