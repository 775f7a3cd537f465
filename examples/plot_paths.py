# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plot how far objects move over a night, a week and a season.

Ten objects from 40 to 1000 au, on nearly circular orbits, are seen from Rubin
in the COSMOS field about its opposition::

    python examples/plot_paths.py [FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lsst.meas.tno._placement import place_in_view
from lsst.meas.tno.ephemerides import initial_states, observe, observer_states
from lsst.meas.tno.geometry import gnomonic

RA, DEC = 150.1192, 2.2058
"""The COSMOS field, deg."""

OPPOSITION = 61090.25
"""TAI MJD at which the field is opposite to the Sun, and high in the sky."""

DISTANCES = np.geomspace(40.0, 1000.0, 10)
"""Distances from the barycentre, au."""

SPANS = {
    "one night": (8.0 / 24.0, 1.0 / 24.0),
    "one week": (7.0, 1.0),
    "one season": (180.0, 20.0),
}
"""Length of the paths, and time between dots, days."""

WINDOW = 3.0
"""Size of the window of a sequence, arcsec."""


def main(arguments: Sequence[str]) -> None:
    """Write the plot."""
    default = Path(__file__).parents[1] / "doc" / "images" / "paths.png"
    figure = Figure(figsize=(12.0, 5.0), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, (title, (span, interval)) in zip(panels, SPANS.items(), strict=True):
        plot_paths(axes, span, interval)
        axes.set_title(f"{title}, a dot every {describe(interval)}")
    colours = matplotlib.cm.ScalarMappable(LogNorm(DISTANCES[0], DISTANCES[-1]), "viridis")
    bar = figure.colorbar(colours, ax=panels, label="distance (au)", ticks=DISTANCES[::3])
    bar.ax.set_yticklabels([f"{distance:.0f}" for distance in DISTANCES[::3]])
    bar.ax.minorticks_off()
    figure.savefig(arguments[0] if arguments else default, dpi=110)


def describe(days: float) -> str:
    """Return a time as text."""
    return "hour" if days < 1 else "day" if days == 1 else f"{days:.0f} days"


def plot_paths(axes: Axes, span: float, interval: float) -> None:
    """Plot the paths of the objects over a time about opposition, one below
    the other, each with the window that a sequence sees.
    """
    dots = OPPOSITION + np.arange(-span / 2, span / 2 + interval / 2, interval)
    line = np.linspace(dots[0], dots[-1], 300)
    xi, eta = paths(np.concatenate([line, dots]))
    spacing = 0.12 * np.ptp(xi)
    colours = matplotlib.colormaps["viridis"](LogNorm(DISTANCES[0], DISTANCES[-1])(DISTANCES))
    for i, (x, y, colour) in enumerate(zip(xi, eta, colours, strict=True)):
        y = y - i * spacing
        axes.plot(x[: len(line)], y[: len(line)], color=colour, lw=1.2)
        axes.plot(x[len(line) :], y[len(line) :], ".", color=colour, ms=4)
        corner = (-WINDOW / 2, -WINDOW / 2 - i * spacing)
        axes.add_patch(Rectangle(corner, WINDOW, WINDOW, fill=False, edgecolor="tab:red", lw=0.8))
    axes.set_aspect("equal", adjustable="datalim")
    axes.invert_xaxis()
    axes.set_xlabel("east (arcsec)")
    axes.set_ylabel("north, each path moved down (arcsec)")


def paths(mjd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the tangent-plane positions of the objects, ``(10, n)``, arcsec.

    All are at the same place at opposition.
    """
    n = len(DISTANCES)
    circle = Table({"name": [f"{distance:.0f} au" for distance in DISTANCES]})
    elements = {
        "epoch": OPPOSITION,
        "q": 40.0,
        "e": 0.0,
        "i": 3.0,
        "node": 0.0,
        "peri": 0.0,
        "tp": OPPOSITION,
    }
    for column, value in elements.items():
        circle[column] = np.full(n, value)
    states = initial_states(circle)
    scale = DISTANCES / np.linalg.norm(states.position, axis=1)
    now = observer_states(np.full(n, OPPOSITION))
    states = place_in_view(states, scale, np.full(n, RA), np.full(n, DEC), now)
    seen = observe(states, observer_states(mjd))
    return gnomonic(seen.ra, seen.dec, RA, DEC)


if __name__ == "__main__":
    main(sys.argv[1:])
