# SPDX-License-Identifier: Apache-2.0
"""CoDe (Wu et al., CVPR 2024): segmentation learned from captions.

Importing this package registers the meta-architecture, the loader and the config keys.
"""

from dalnet.config import register_system

from .config import CODE
from .model import CoDe

register_system(CODE)

__all__ = ["CoDe"]
