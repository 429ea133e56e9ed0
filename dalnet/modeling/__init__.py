# SPDX-License-Identifier: Apache-2.0
"""The network. Importing this package registers its parts with Detectron2."""

from .dalnet import DALNet
from .segmentation_head import LargeFOVHead
from .vit import TimmViT

__all__ = ["DALNet", "LargeFOVHead", "TimmViT"]
