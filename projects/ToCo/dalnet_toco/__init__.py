# SPDX-License-Identifier: Apache-2.0
"""ToCo (Ru et al., CVPR 2023): token contrast for weakly supervised semantic segmentation.

Importing this package registers the meta-architecture, the mapper and the config keys.
"""

from dalnet.config import register_system

from . import mapper  # noqa: F401  registers
from .config import TOCO
from .toco import ToCo

register_system(TOCO)

__all__ = ["ToCo"]
