# SPDX-License-Identifier: Apache-2.0
"""The visual encoder and its pre-trained weights."""

from .cnn import TimmCNN
from .vit import TimmViT

__all__ = ["TimmCNN", "TimmViT"]
