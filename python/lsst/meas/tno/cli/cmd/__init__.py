# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Definitions of the subcommands; what they do is imported when they run."""

__all__ = (
    "export_tno_candidates",
    "export_tno_sequences",
    "ingest_tno_orbits",
    "list_tno_classifiers",
    "report_tno_search",
    "simulate_tno_survey",
)

from .commands import ingest_tno_orbits, simulate_tno_survey
from .export import export_tno_candidates, export_tno_sequences, list_tno_classifiers
from .report import report_tno_search
