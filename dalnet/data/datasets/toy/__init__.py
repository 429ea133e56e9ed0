# SPDX-License-Identifier: Apache-2.0
"""The toy data set: a small generated world in the layout of PASCAL VOC."""

from .folder import register_toy
from .scenes import SIZE, TOY_CLASSES, TOY_LOOKS

__all__ = ["SIZE", "TOY_CLASSES", "TOY_LOOKS", "register_toy"]
