# SPDX-License-Identifier: Apache-2.0
"""CLIMS (Xie et al., CVPR 2022): cross language image matching for weakly supervised segmentation.

Importing this package registers the meta-architectures and the config keys.
"""

from dalnet.config import register_system

from .cam_network import CAMBaseline
from .clims import CLIMS
from .config import CAM_BASELINE_SYSTEM, CLIMS_SYSTEM, EDGE_SYSTEM, SEGMENTATION_SYSTEM
from .edges import EdgeNetwork
from .segmentation import LabelMapSegmentor

register_system(CLIMS_SYSTEM)
register_system(CAM_BASELINE_SYSTEM)
register_system(EDGE_SYSTEM)
register_system(SEGMENTATION_SYSTEM)

__all__ = ["CLIMS", "CAMBaseline", "EdgeNetwork", "LabelMapSegmentor"]
