# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PipelineTasks, one a module."""

from .compute_ephemerides import *
from .extract_cutouts import *
from .find_candidates import *
from .inject_tnos import *
from .measure_efficiency import *
from .score_sequences import *
from .train_classifier import *
from .warp_cutouts import *
