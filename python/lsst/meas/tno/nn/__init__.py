# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks that tell sequences with an object from those without.

Importing this package does not import torch: `architectures`, `TrainingConfig`
and `metrics` do without it, the other modules need it.
"""

from .architectures import *
from .training_config import *
