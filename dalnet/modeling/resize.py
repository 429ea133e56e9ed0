# SPDX-License-Identifier: Apache-2.0
"""Resize images and maps bilinearly, corners not aligned, as everywhere in the method."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize images or maps ``[N, K, h, w]`` to ``[N, K, *size]``; K may be 0."""
    if maps.shape[-2:] == tuple(size):
        return maps
    if not maps.shape[1]:  # which interpolation refuses
        return maps.new_empty(len(maps), 0, *size)
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def resize_by(images: Tensor, scale: float) -> Tensor:
    """Resize images ``[N, 3, H, W]`` to ``int(scale * H)`` x ``int(scale * W)``, at least 1."""
    return resize(images, [max(int(scale * side), 1) for side in images.shape[-2:]])
