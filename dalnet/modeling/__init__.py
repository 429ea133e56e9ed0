# SPDX-License-Identifier: Apache-2.0
"""The network. Importing this package registers its parts with Detectron2."""

from .backbone import TimmViT
from .meta_arch import DALNet

__all__ = ["DALNet", "TimmViT"]
