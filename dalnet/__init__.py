# SPDX-License-Identifier: Apache-2.0
"""DALNet: dual-alignment weakly supervised semantic segmentation, as a Detectron2 add-on."""

import os

__version__ = "0.2.0.dev0"

# OpenMP reads this once, when torch is loaded. Threads that wait in a loop, its default, keep other
# work off their cores: on two busy cores a training step takes several times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
