# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``butler simulate-tno-survey`` does."""

from __future__ import annotations

__all__ = ("simulate",)

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._common import show_progress

if TYPE_CHECKING:
    from ..simulation import SimulateSurveyConfig, SurveySummary

_LOG = logging.getLogger("lsst.meas.tno.simulation")


def simulate(repo: str, config: Mapping[str, str], config_file: str | None, processes: int) -> None:
    """Simulate a survey, and print what was written.

    Parameters
    ----------
    repo
        Path or URI of the repository.
    config
        Overrides of the configuration, by field.
    config_file
        Path or URI of a file of overrides, applied first.
    processes
        Number of processes.

    Raises
    ------
    click.ClickException
        Raised if the survey cannot be written there, or is impossible.
    """
    from ..simulation import SurveyExistsError, simulate_survey

    survey_config = _make_config(config, config_file)
    try:
        with _complete(repo) as root, show_progress("Drawing", "visit", _LOG) as progress:
            summary = simulate_survey(root, survey_config, n_processes=processes, progress=progress)
    except SurveyExistsError as error:
        raise click.ClickException(str(error)) from error
    click.echo(_describe(dataclasses.replace(summary, root=repo)))


@contextlib.contextmanager
def _complete(repo: str) -> Iterator[str]:
    """Give the root of the repository; of one that is to be made it is a
    temporary one, until it is complete, unless its folder is there.
    """
    from lsst.resources import ResourcePath

    from .._output import filling_folder, making_folder, replacing

    root = ResourcePath(repo, forceDirectory=True)
    path = Path(root.ospath) if root.isLocal else None
    if path is None or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        yield repo
        return
    if path.exists():
        with filling_folder(path):
            yield repo
        return
    with making_folder(path.parent), replacing(path) as temporary:
        yield str(temporary)


def _make_config(overrides: Mapping[str, str], path: str | None) -> SimulateSurveyConfig:
    """Return the valid configuration, or say in one line why there is none."""
    from lsst.pipe.base.configOverrides import ConfigOverrides

    from ..simulation import SimulateSurveyConfig

    config = SimulateSurveyConfig()
    config_overrides = ConfigOverrides()
    if path is not None:
        config_overrides.addFileOverride(path)
    for field, value in overrides.items():
        config_overrides.addValueOverride(field, value)
    try:
        config_overrides.applyTo(config)
        config.validate()
    except (AttributeError, OSError, SyntaxError, TypeError, ValueError) as error:
        # A FieldValidationError goes on to say where the field was defined.
        raise click.ClickException(f"Configuration: {str(error).splitlines()[0]}") from error
    return config


def _describe(summary: SurveySummary) -> str:
    return "\n".join(
        (
            f"Wrote {summary.n_images} images of {len(summary.visits)} visits to {summary.root}",
            f"  dataset types  {', '.join(summary.dataset_types)}",
            f"  collection     {summary.collection}",
            f"  skymap         {summary.skymap}, tract {summary.tract}, {len(summary.patches)} patches",
            f"  scene          {summary.n_stars} stars, {summary.n_galaxies} galaxies, "
            f"{summary.n_objects} moving objects",
            f"Use it with: pipetask run -b {summary.root} -i {summary.collection} "
            f"-d \"skymap='{summary.skymap}'\" ...",
        )
    )
