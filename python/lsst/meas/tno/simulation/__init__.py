# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small survey of simulated visits in a butler repository."""

from ._config import *
from ._instrument import *
from ._survey import *
