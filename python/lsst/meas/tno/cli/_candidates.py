# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What subcommands that read candidates share."""

from __future__ import annotations

__all__ = ("match_candidates_with_orbits",)

import logging
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

    from ..candidates import Candidates
    from ..known_objects import KnownObjects


def match_candidates_with_orbits(
    butler: Butler, candidates: Candidates, log: logging.Logger, *, orbits: str | None, radius: float
) -> KnownObjects:
    """Look for candidates among known objects, if there is a catalog.

    Parameters
    ----------
    butler
        The butler.
    candidates
        Candidates.
    log
        Logger of what they are compared with.
    orbits
        Collection of ``tno_orbits``; those of the butler if `None`.
    radius
        How far from where it is predicted a known object may be, arcsec.

    Raises
    ------
    click.ClickException
        Raised if that collection has no ``tno_orbits``.
    """
    from lsst.daf.butler import MissingDatasetTypeError

    from ..known_objects import KnownObjects, match_known_objects

    try:
        found = butler.find_dataset("tno_orbits", collections=orbits)
    except MissingDatasetTypeError:
        found = None
    if found is None:
        if orbits is not None:
            raise click.ClickException(f"There is no tno_orbits in {orbits}.")
        log.warning("There is no tno_orbits in these collections, so that no known objects are named.")
        return KnownObjects.none(len(candidates))
    catalog = butler.get(found)
    log.info("Comparing with %d orbits of %s.", len(catalog), found.run)
    return match_known_objects(candidates, catalog, radius=radius)
