# SPDX-License-Identifier: Apache-2.0
"""The data sets and their registration, which happens on import."""

from .coco import register_coco
from .custom import register_custom
from .toy import register_toy
from .voc import register_voc
from .voc_layout import register_voc_layout

__all__ = ["register_voc_layout"]

register_voc()
register_coco()
register_toy()
register_custom()
