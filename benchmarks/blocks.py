# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Held-out sequences in blocks that any process can make."""

from __future__ import annotations

__all__ = (
    "Block",
    "InjectedSequences",
    "Patch",
    "WhiteNoise",
    "injected_blocks",
    "patch_blocks",
    "white_blocks",
)

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from white_noise import BLOCK, PIXEL_SCALE, Sky

from lsst.daf.butler import Butler
from lsst.meas.tno import ImageSequences
from lsst.meas.tno.geometry import inverse_gnomonic, north_up_affine
from lsst.meas.tno.tasks import ExtractCutoutsTask, WarpCutoutsTask

WINDOW, N_SIDE = 15, 5
"""Width of a window, pixels, and windows along a side of a warped image."""

CUTOUT = 96
"""Width of the cutouts, pixels, for warped images that are turned by 5 deg."""


class Block(Protocol):
    """Sequences of one origin."""

    def sequences(self) -> Iterator[ImageSequences]:
        """Yield them, some hundreds at a time."""
        ...


@dataclasses.dataclass(frozen=True)
class WhiteNoise:
    """White noise with a known PSF."""

    seed: int
    n: int
    snr: tuple[float, float] | None = None
    """Lowest and highest S/N of the objects, if there are any."""

    def sequences(self) -> Iterator[ImageSequences]:
        """Yield the sequences."""
        if self.snr is None:
            yield from Sky().clean(self.seed, self.n)
        else:
            yield from Sky().injected(self.seed, self.n, self.snr)


@dataclasses.dataclass(frozen=True)
class InjectedSequences:
    """A patch of injected sequences of a repository."""

    repo: str
    collection: str
    patch: int

    def sequences(self) -> Iterator[ImageSequences]:
        """Yield the sequences that hold an object."""
        with Butler.from_config(self.repo, collections=self.collection) as butler:
            refs = butler.query_datasets("tno_sequences_injected")
            (ref,) = (ref for ref in refs if ref.dataId["patch"] == self.patch)
            sequences = ImageSequences.from_table(butler.get(ref))
        assert sequences.injection is not None
        yield sequences[sequences.injection.injected]


@dataclasses.dataclass(frozen=True)
class Patch:
    """A patch of visit images or difference images in which nothing moves,
    covered with windows side by side.
    """

    repo: str
    collection: str
    image: str
    patch: int

    def sequences(self) -> Iterator[ImageSequences]:
        """Yield the sequences of all windows."""
        extract, warp = ExtractCutoutsTask.ConfigClass(), WarpCutoutsTask.ConfigClass()
        extract.positions, extract.grid_spacing = "grid", WINDOW * N_SIDE * PIXEL_SCALE
        extract.cutout_size, extract.max_table_size = CUTOUT, 4.0
        warp.warp_size, warp.pixel_scale = WINDOW * N_SIDE, PIXEL_SCALE
        with Butler.from_config(self.repo, collections=self.collection) as butler:
            data_ids = butler.query_data_ids("patch")
            (patch,) = (data_id for data_id in data_ids if data_id["patch"] == self.patch)
            where = f"tract = {patch['tract']} AND patch = {self.patch} AND skymap = '{patch['skymap']}'"
            with butler.query() as query:
                refs = set(query.where(where).datasets(self.image, find_first=True))
            region = butler.registry.expandDataId(patch).region
            assert region is not None
            cutouts = (
                ExtractCutoutsTask(config=extract)
                .run(
                    [butler.getDeferred(ref) for ref in sorted(refs)],
                    region=region,
                    tract=int(patch["tract"]),
                    patch=self.patch,
                )
                .cutouts
            )
        for first in range(0, len(cutouts), BLOCK // N_SIDE**2):
            part = cutouts[first : first + BLOCK // N_SIDE**2]
            yield windows(WarpCutoutsTask(config=warp).run(part).sequences)


def windows(sequences: ImageSequences) -> ImageSequences:
    """Return the windows that larger images are made of, each a sequence.

    They have the PSF and the noise scale of the middle of the larger image.
    """
    parts = []
    middle = (N_SIDE - 1) / 2
    for row in range(N_SIDE):
        for column in range(N_SIDE):
            inside = (
                slice(None),
                slice(None),
                slice(WINDOW * row, WINDOW * (row + 1)),
                slice(WINDOW * column, WINDOW * (column + 1)),
            )
            # East is left.
            step = WINDOW * PIXEL_SCALE
            xi, eta = (middle - column) * step, (row - middle) * step
            ra, dec = inverse_gnomonic(np.array(xi), np.array(eta), sequences.ra, sequences.dec)
            shape = sequences.centre_ra.shape
            parts.append(
                dataclasses.replace(
                    sequences,
                    image=sequences.image[inside],
                    variance=sequences.variance[inside],
                    mask=sequences.mask[inside],
                    ra=ra,
                    dec=dec,
                    centre_ra=np.where(sequences.valid, ra[:, np.newaxis], np.nan),
                    centre_dec=np.where(sequences.valid, dec[:, np.newaxis], np.nan),
                    pixel_to_sky=np.broadcast_to(north_up_affine(WINDOW, PIXEL_SCALE), (*shape, 2, 3)).copy(),
                )
            )
    return ImageSequences.concatenate(parts)


def white_blocks(seed: int, n_clean: int, n_objects: int, snr: tuple[float, float]) -> list[Block]:
    """Return blocks of white noise, and of as much with objects."""
    clean = [WhiteNoise(seed + number, BLOCK) for number in range(-(-n_clean // BLOCK))]
    objects = [WhiteNoise(seed + number, BLOCK, snr) for number in range(-(-n_objects // BLOCK))]
    return [*clean, *objects]


def injected_blocks(repo: str, collection: str) -> list[Block]:
    """Return the blocks of a collection of injected sequences."""
    with Butler.from_config(repo, collections=collection) as butler:
        refs = butler.query_datasets("tno_sequences_injected")
    patches = sorted(int(ref.dataId["patch"]) for ref in refs)
    return [InjectedSequences(repo, collection, patch) for patch in patches]


def patch_blocks(repo: str, collection: str, image: str) -> list[Block]:
    """Return the blocks of all patches of a repository."""
    with Butler.from_config(repo, collections=collection) as butler:
        data_ids = butler.query_data_ids("patch")
    patches = sorted(int(data_id["patch"]) for data_id in data_ids)
    return [Patch(repo, collection, image, patch) for patch in patches]
