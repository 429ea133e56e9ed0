# SPDX-License-Identifier: Apache-2.0
"""Mask images so that CLIP sees only the object, or only the rest."""

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_images(
    images: Tensor, maps: Tensor, image_labels: Tensor, size: int
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Multiply each image with the map of each class that it shows, and with the map's complement.

    Both are resized first, bilinearly with aligned corners. The K pairs of an image and one of its
    classes are in row-major order of ``image_labels``. As the images are normalized, pixels where
    the mask is 0 get the mean color.

    Args:
        images: normalized, ``[N, 3, H, W]``.
        maps: ``[N, C, h, w]`` in 0..1.
        image_labels: multi-hot ``[N, C]``; a value other than 1 is no class that is shown.
        size: S, side of the result in pixels, CLIP's.

    Returns:
        The foreground images ``[K, 3, S, S]``, the background images, and of each pair the index
        of its image and of its class, long ``[K]``. At least float32.
    """
    image_index, class_index = (image_labels == 1).nonzero(as_tuple=True)
    dtype = torch.promote_types(torch.float32, torch.result_type(images, maps))
    small = _resize(images.to(dtype), size)[image_index]  # [K, 3, S, S]
    masks = _resize(maps[image_index, class_index].to(dtype)[:, None], size)  # [K, 1, S, S]
    return masks * small, (1 - masks) * small, (image_index, class_index)


def _resize(maps: Tensor, size: int) -> Tensor:
    return F.interpolate(maps, (size, size), mode="bilinear", align_corners=True)
