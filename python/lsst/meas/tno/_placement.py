# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of a catalog put where an observer looks."""

from __future__ import annotations

__all__ = ("place", "place_in_view", "sky_direction")

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from ._integration import SPEED_OF_LIGHT
from ._two_body import ECLIPTIC_TO_ICRS
from .ephemerides import InitialStates, ObserverStates


def sky_direction(ra: ArrayLike, dec: ArrayLike) -> np.ndarray:
    """Return unit vectors of sky positions.

    Parameters
    ----------
    ra, dec
        ICRS positions, deg.

    Returns
    -------
    direction : `numpy.ndarray`
        Unit vectors, ``(..., 3)``.
    """
    ra, dec = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def place(
    position: np.ndarray, velocity: np.ndarray, scale: np.ndarray, direction: np.ndarray, observer: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Move objects out, and turn them about the barycentre to where they are
    seen in given directions.

    Positions grow by the scale and velocities shrink by its square root, so
    that orbits keep their shape. Of its velocity an object keeps the parts
    away from the barycentre, along the parallel of the ecliptic, and to its
    north.

    Parameters
    ----------
    position, velocity
        Barycentric ICRS states, ``(n, 3)``, au and au/day.
    scale
        Factors on the distances from the barycentre, ``(n,)``.
    direction
        ICRS unit vectors from the observer, ``(n, 3)``.
    observer
        Barycentric ICRS positions of the observer, ``(n, 3)``, au.

    Returns
    -------
    position, velocity : `numpy.ndarray`
        States when the light leaves that the observer sees, ``(n, 3)``; NaN
        where the object is too near to the barycentre to be seen there.
    distance : `numpy.ndarray`
        Distances from the observer, ``(n,)``, au.
    """
    scale = np.asarray(scale)[:, np.newaxis]
    position, velocity = scale * position, velocity / np.sqrt(scale)
    square = np.sum(position**2, axis=1)
    along = np.sum(observer * direction, axis=1)
    # On the line of sight, as far from the barycentre as before.
    discriminant = along**2 - np.sum(observer**2, axis=1) + square
    distance = np.sqrt(np.where(discriminant >= 0, discriminant, np.nan)) - along
    distance = np.where(distance > 0, distance, np.nan)
    seen_at = observer + distance[:, np.newaxis] * direction
    to_local = _local_axes(position)
    from_local = np.swapaxes(_local_axes(seen_at), 1, 2)
    turned = from_local @ to_local @ velocity[:, :, np.newaxis]
    return seen_at, turned[:, :, 0], distance


def place_in_view(
    states: InitialStates, scale: np.ndarray, ra: ArrayLike, dec: ArrayLike, observer: ObserverStates
) -> InitialStates:
    """Move objects out, and turn them about the barycentre to where an
    observer sees them at given places.

    Parameters
    ----------
    states
        The objects; their epochs do not matter.
    scale
        Factors on the distances from the barycentre, ``(n,)``.
    ra, dec
        ICRS positions, ``(n,)``, deg.
    observer
        When and from where each object is seen there, ``n`` times.

    Returns
    -------
    states : `InitialStates`
        The objects when the light leaves that the observer sees; see `place`.
    """
    position, velocity, distance = place(
        states.position, states.velocity, scale, sky_direction(ra, dec), observer.position
    )
    return dataclasses.replace(
        states,
        epoch=observer.mjd_tdb - np.nan_to_num(distance) / SPEED_OF_LIGHT,
        position=position,
        velocity=velocity,
        magnitudes=states.magnitudes.copy(),
    )


def _local_axes(position: np.ndarray) -> np.ndarray:
    """Return the unit vectors away from the barycentre, along the parallel of
    the ecliptic and to its north, ``(n, 3, 3)``, one a row.
    """
    x, y, z = (position @ ECLIPTIC_TO_ICRS).T
    longitude, latitude = np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))
    cos_longitude, sin_longitude = np.cos(longitude), np.sin(longitude)
    cos_latitude, sin_latitude = np.cos(latitude), np.sin(latitude)
    axes = np.array(
        [
            [cos_latitude * cos_longitude, cos_latitude * sin_longitude, sin_latitude],
            [-sin_longitude, cos_longitude, np.zeros(len(position))],
            [-sin_latitude * cos_longitude, -sin_latitude * sin_longitude, cos_latitude],
        ]
    )
    return np.moveaxis(axes, 2, 0) @ ECLIPTIC_TO_ICRS.T
