# SPDX-License-Identifier: Apache-2.0
"""The data sets: those with a fixed place are registered on import, others when asked for."""

from .coco import register_coco
from .custom import ensure_registered
from .toy import register_toy
from .voc import register_voc
from .voc_layout import register_voc_layout
from .zero_shot import register_zero_shot

__all__ = ["ensure_registered", "register_voc_layout"]

register_voc()
register_coco()
register_toy()
register_zero_shot()
