# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sequences that look at the objects of a simulated survey, which are in its
images from the beginning, and the S/N of what is in sequences.
"""

from __future__ import annotations

__all__ = ("SimulatedObjects", "injected_snr", "simulated_sequences")

import dataclasses
from collections.abc import Iterator

import numpy as np
from astropy.table import Table

from lsst.daf.butler import Butler, DataCoordinate
from lsst.meas.tno import ImageSequences
from lsst.meas.tno.geometry import gnomonic, inverse_gnomonic
from lsst.meas.tno.injection import is_on_image, sky_to_cutout
from lsst.meas.tno.matched_filter import measure_trajectory
from lsst.meas.tno.tasks import ExtractCutoutsTask, WarpCutoutsTask
from lsst.pipe.base import NoWorkFound

CUTOUT = 28
"""Width of the cutouts, pixels."""

OFFSET = 0.6
"""Largest distance in x and y of a window's centre from the middle of an
object's path, arcsec.
"""

ALONE = 5.0
"""Distance from a window's centre within which there is one object only,
arcsec.
"""

MARGIN = 2
"""Distance from the edge of the window that an object keeps in all images,
pixels, as injected ones do.
"""


@dataclasses.dataclass(frozen=True)
class SimulatedObjects:
    """The moving objects that a simulation has put into a survey's images.

    What is about their paths has one row an object and one column a visit; NaN
    where an object is on no image.
    """

    visit: np.ndarray
    """Visits, sorted."""

    mjd: np.ndarray
    """TAI MJD of the visits."""

    ra: np.ndarray
    dec: np.ndarray
    """Positions, deg."""

    flux: np.ndarray
    """Fluxes, nJy."""

    @classmethod
    def from_table(cls, truth: Table) -> SimulatedObjects:
        """Return the objects of a table of `SIMULATED_OBJECT_COLUMNS`."""
        visit, first, column = np.unique(truth["visit"], return_index=True, return_inverse=True)
        names, row = np.unique(truth["object_id"], return_inverse=True)
        paths = np.full((3, len(names), len(visit)), np.nan)
        for path, name in zip(paths, ("ra", "dec", "flux"), strict=True):
            path[row, column] = truth[name]
        order = np.asarray(truth["mjd"])[first]
        return cls(visit, order, *paths)

    def distance(self, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
        """Return how near positions, deg, any object comes at any time,
        arcsec.
        """
        pairs = (self.ra.ravel(), self.dec.ravel())
        return np.array([np.nanmin(np.hypot(*gnomonic(*pairs, *at))) for at in zip(ra, dec, strict=True)])

    def positions(self, n_windows: int, rng: np.random.Generator) -> Table:
        """Return positions near the middle of the paths in both halves of the
        visits, several for each.
        """
        order = np.argsort(self.mjd)
        ra, dec = [], []
        for part in np.array_split(order, 2):
            middle = part[len(part) // 2]
            known = np.flatnonzero(np.isfinite(self.ra[:, middle]))
            xi, eta = rng.uniform(-OFFSET, OFFSET, (2, n_windows, len(known)))
            near = inverse_gnomonic(xi, eta, self.ra[known, middle], self.dec[known, middle])
            ra.append(near[0].ravel())
            dec.append(near[1].ravel())
        return Table({"ra": np.concatenate(ra), "dec": np.concatenate(dec)})

    def tracks(self, sequences: ImageSequences) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return where the object nearest to the centre of each window is in
        its images, pixels, and its flux; NaN and 0 where it is not, and where
        another one comes near.
        """
        x, y, flux = np.full((3, *sequences.mjd.shape), np.nan)
        for row, n_valid in enumerate(sequences.valid.sum(axis=1)):
            images = (row, slice(0, n_valid))
            column = np.searchsorted(self.visit, sequences.visit[images])
            column = np.minimum(column, len(self.visit) - 1)
            # Some visits may have no object.
            has_objects = self.visit[column] == sequences.visit[images]
            ra, dec = (np.where(has_objects, array[:, column], np.nan) for array in (self.ra, self.dec))
            near = np.hypot(*gnomonic(ra, dec, sequences.ra[row], sequences.dec[row]))
            closest = np.where(np.isfinite(near), near, np.inf).min(axis=1)
            nearest = int(np.argmin(closest))
            if np.count_nonzero(closest < ALONE) != 1:
                continue
            x[images], y[images] = sky_to_cutout(
                ra[nearest],
                dec[nearest],
                sequences.centre_ra[images],
                sequences.centre_dec[images],
                sequences.pixel_to_sky[images],
            )
            flux[images] = self.flux[nearest, column]
        return x, y, np.nan_to_num(flux)


def simulated_sequences(
    butler: Butler, image: str, objects: SimulatedObjects, n_windows: int, seed: int
) -> Iterator[tuple[ImageSequences, np.ndarray]]:
    """Yield sequences that an object stays inside, and its S/N in each.

    Parameters
    ----------
    butler
        Butler with the collections of the survey.
    image
        Dataset type of the images.
    objects
        The objects in them.
    n_windows
        Windows to try for the path of an object in a sequence.
    seed
        Seed of where in the window objects are.
    """
    positions = objects.positions(n_windows, np.random.default_rng(seed))
    seen: set[tuple[float, float, float]] = set()
    for data_id in sorted(butler.query_data_ids("patch", with_dimension_records=True)):
        try:
            sequences = _extract(butler, image, data_id, positions)
        except NoWorkFound:
            continue
        x, y, flux = objects.tracks(sequences)
        size = (sequences.height - 2 * MARGIN, sequences.width - 2 * MARGIN)
        rows = np.all(is_on_image(x - MARGIN, y - MARGIN, *size) | ~sequences.valid, axis=1)
        # Patches overlap.
        keys = list(zip(sequences.ra, sequences.dec, sequences.mjd[:, 0], strict=True))
        rows &= [key not in seen for key in keys]
        seen.update(keys)
        sequences = sequences[rows]
        yield sequences, _snr(sequences, x[rows], y[rows], flux[rows])


def _extract(butler: Butler, image: str, data_id: DataCoordinate, positions: Table) -> ImageSequences:
    config = ExtractCutoutsTask.ConfigClass()
    config.positions, config.cutout_size, config.max_table_size = "catalog", CUTOUT, 4.0
    region = data_id.region
    assert region is not None, "data IDs were queried with their regions"
    with butler.query() as query:
        refs = set(query.where(data_id).datasets(image, find_first=True))
    cutouts = ExtractCutoutsTask(config=config).run(
        [butler.getDeferred(ref) for ref in sorted(refs)],
        region=region,
        tract=int(data_id["tract"]),
        patch=int(data_id["patch"]),
        catalog=positions,
    )
    return WarpCutoutsTask().run(cutouts.cutouts).sequences


def injected_snr(sequences: ImageSequences) -> np.ndarray:
    """Return the S/N of injected objects as the sequences' own pixels have it;
    NaN where there is none.
    """
    truth = sequences.injection
    assert truth is not None
    snr = np.full(len(sequences), np.nan)
    rows = np.flatnonzero(truth.injected)
    snr[rows] = _snr(sequences[rows], truth.inj_x[rows], truth.inj_y[rows], truth.inj_flux[rows])
    return snr


def _snr(sequences: ImageSequences, x: np.ndarray, y: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """Return the S/N of objects of known fluxes on known trajectories."""
    # Relative to the true one the flux is 1, and its error one over the S/N.
    measured = measure_trajectory(sequences, x, y, relative_flux=np.where(sequences.valid, flux, 0.0))
    return np.where(np.isfinite(measured.flux_err), 1.0 / measured.flux_err, 0.0)
