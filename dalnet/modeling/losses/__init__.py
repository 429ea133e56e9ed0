# SPDX-License-Identifier: Apache-2.0
"""The losses: alignment (Eq. 2 to 6), patch contrast, segmentation, and their weighted sum."""

from .alignment import global_implicit_alignment, local_explicit_alignment, text_similarity
from .classification import image_classification
from .patch_contrast import patch_token_contrast
from .segmentation import balanced_cross_entropy, dense_energy

__all__ = [
    "balanced_cross_entropy",
    "dense_energy",
    "global_implicit_alignment",
    "image_classification",
    "local_explicit_alignment",
    "patch_token_contrast",
    "text_similarity",
]
