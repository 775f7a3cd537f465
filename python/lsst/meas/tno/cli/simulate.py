# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``butler simulate-tno-survey`` does."""

from __future__ import annotations

__all__ = ("simulate",)

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..simulation import SimulateSurveyConfig, SurveySummary

_LOG = logging.getLogger("lsst.meas.tno.simulation")

_INTERVAL = 15.0
"""Seconds between messages about the progress."""


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
        with _progress() as progress:
            summary = simulate_survey(repo, survey_config, n_processes=processes, progress=progress)
    except (FileExistsError, SurveyExistsError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(_describe(summary))


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


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show how far the simulation is: a bar on a terminal, else messages."""
    if not sys.stderr.isatty():
        from lsst.utils.logging import PeriodicLogger

        logger = PeriodicLogger(_LOG, interval=_INTERVAL)

        def log(done: int, total: int) -> None:
            logger.log("Drew %d of %d visits.", done, total)

        yield log
        return
    from tqdm import tqdm

    with tqdm(desc="Drawing visits", unit="visit") as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance


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
