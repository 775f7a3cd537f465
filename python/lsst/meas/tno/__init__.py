# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find slow-moving objects in LSST images."""

from ._schema import *
from ._sequences import *
