# SPDX-License-Identifier: Apache-2.0
"""CoDe (Wu et al., CVPR 2024): segmentation learned from captions.

Importing this package registers it, and NACLIP (Hajimiri et al., WACV 2025), a baseline that is not
trained.
"""

from dalnet.config import register_system

from . import naclip
from .config import CODE
from .model import CoDe
from .naclip import NACLIP
from .toy_compositions import register_toy_compositions

register_system(CODE)
register_system(naclip.SYSTEM)
register_toy_compositions()

__all__ = ["NACLIP", "CoDe"]
