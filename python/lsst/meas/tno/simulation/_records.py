# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dimension records of a simulated survey."""

from __future__ import annotations

__all__ = ("insert_records",)

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.time import Time, TimeDelta

from lsst.daf.butler import Registry, Timespan

from ._camera import INSTRUMENT
from ._instrument import VISIT_SYSTEM, TnoSimCam
from ._observations import SECONDS, Visit
from ._sky import TRACT, make_patches, make_polygon, tract_half_size, tract_polygon

if TYPE_CHECKING:
    from lsst.sphgeom import ConvexPolygon

    from ._config import SimulateSurveyConfig
    from ._render import Scene

type Rows = dict[str, list[dict[str, Any]]]


def insert_records(registry: Registry, scene: Scene) -> None:
    """Insert all dimension records of a survey into a registry.

    Parameters
    ----------
    registry
        Registry to insert into.
    scene
        The survey.
    """
    rows = _skymap_rows(scene.config)
    visit_rows: Rows = {}
    for visit in scene.visits:
        for element, new in _visit_rows(scene, visit).items():
            visit_rows.setdefault(element, []).extend(new)
    visit_rows["visit_system"] = [{"instrument": INSTRUMENT, "id": VISIT_SYSTEM, "name": "one-to-one"}]
    days = {visit.day_obs for visit in scene.visits}
    visit_rows["day_obs"] = [_day_obs_row(day) for day in sorted(days)]
    with registry.transaction():
        TnoSimCam.from_detectors(scene.camera.detectors).register(registry)
        order = ("skymap", "tract", "patch", "day_obs", "group", "exposure", "visit_system", "visit")
        joins = ("visit_definition", "visit_system_membership", "visit_detector_region")
        for element in (*order, *joins):
            registry.insertDimensionData(element, *(rows | visit_rows)[element])


def _skymap_rows(config: SimulateSurveyConfig) -> Rows:
    geometry = [config.ra, config.dec, *tract_half_size(config), config.n_patches_x, config.n_patches_y]
    geometry.append(config.patch_border)
    skymap = {
        "name": config.skymap,
        "hash": hashlib.sha1(json.dumps(geometry).encode(), usedforsecurity=False).digest(),
        "tract_max": 1,
        "patch_nx_max": config.n_patches_x,
        "patch_ny_max": config.n_patches_y,
    }
    tract = {"skymap": config.skymap, "id": TRACT, "region": tract_polygon(config)}
    patches = [
        {
            "skymap": config.skymap,
            "tract": TRACT,
            "id": patch.id,
            "cell_x": patch.cell_x,
            "cell_y": patch.cell_y,
            "region": patch.region,
        }
        for patch in make_patches(config)
    ]
    return {"skymap": [skymap], "tract": [tract], "patch": patches}


def _visit_rows(scene: Scene, visit: Visit) -> Rows:
    key = {"instrument": INSTRUMENT}
    regions, outline = _regions(scene, visit)
    shared = {
        **key,
        "id": visit.id,
        "physical_filter": visit.physical_filter,
        "day_obs": visit.day_obs,
        "seq_num": visit.seq_num,
        "exposure_time": visit.exposure_time,
        "target_name": "tno_sim",
        "observation_reason": "science",
        "science_program": "tno_sim",
        "azimuth": visit.azimuth,
        "zenith_angle": visit.zenith_angle,
        "timespan": _timespan(visit),
    }
    name = f"{INSTRUMENT}_{visit.day_obs}_{visit.seq_num:05d}"
    group = str(visit.id)
    exposure = {
        **shared,
        "obs_id": name,
        "group": group,
        "dark_time": visit.exposure_time,
        "observation_type": "science",
        "seq_start": visit.seq_num,
        "seq_end": visit.seq_num,
        "tracking_ra": visit.ra,
        "tracking_dec": visit.dec,
        "sky_angle": visit.rotation,
        "has_simulated": True,
        "can_see_sky": True,
    }
    return {
        "group": [{**key, "name": group}],
        "exposure": [exposure],
        "visit": [{**shared, "name": name, "region": outline}],
        "visit_definition": [{**key, "exposure": visit.id, "visit": visit.id}],
        "visit_system_membership": [{**key, "visit_system": VISIT_SYSTEM, "visit": visit.id}],
        "visit_detector_region": [
            {**key, "visit": visit.id, "detector": detector, "region": region}
            for detector, region in regions.items()
        ],
    }


def _timespan(visit: Visit) -> Timespan:
    begin = Time(visit.mjd_begin, format="mjd", scale="tai")
    return Timespan(begin, begin + TimeDelta(visit.exposure_time / SECONDS, format="jd", scale="tai"))


def _day_obs_row(day_obs: int) -> dict[str, Any]:
    text = str(day_obs)
    begin = Time(f"{text[:4]}-{text[4:6]}-{text[6:]}T12:00:00", format="isot", scale="utc").tai
    timespan = Timespan(begin, begin + TimeDelta(1.0, format="jd", scale="tai"))
    return {"instrument": INSTRUMENT, "id": day_obs, "timespan": timespan}


def _regions(scene: Scene, visit: Visit) -> tuple[dict[int, ConvexPolygon], ConvexPolygon]:
    """Return the region of each detector, and that of the visit."""
    regions, ra, dec = {}, [], []
    for detector in scene.camera.detectors:
        x, y = detector.corners()
        corners = scene.camera.projection(visit, detector).pixel_to_sky(x=x, y=y)
        regions[detector.id] = make_polygon(corners.ra.deg, corners.dec.deg)
        ra.append(corners.ra.deg)
        dec.append(corners.dec.deg)
    return regions, make_polygon(np.concatenate(ra), np.concatenate(dec))
