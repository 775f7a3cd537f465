# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Subcommands of ``butler``."""

from __future__ import annotations

__all__ = ("get_cli_subcommands",)

import click


def get_cli_subcommands() -> list[click.Command]:
    """Return the subcommands, for the entry-point group ``butler.cli``.

    Returns
    -------
    commands : `list` [`click.Command`]
        The subcommands of this package.
    """
    from . import cmd

    return [getattr(cmd, name) for name in cmd.__all__]
