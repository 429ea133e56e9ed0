# SPDX-License-Identifier: Apache-2.0
"""Pixel-adaptive refinement as published (L. Ru et al., CVPR 2022): all neighbors at once."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

DILATIONS = (1, 2, 4, 8, 12, 24)


def _one_hot_kernels(like: Tensor) -> Tensor:
    """[8, 1, 3, 3]: each picks one neighbor of the center."""
    kernels = torch.eye(9, dtype=like.dtype, device=like.device).view(9, 1, 3, 3)
    return torch.cat([kernels[:4], kernels[5:]])


def neighbor_copies(maps: Tensor, dilations: Sequence[int]) -> Tensor:
    """[N, C, 8 * dilations, H, W] from [N, C, H, W], replicate padding."""
    n, c, height, width = maps.shape
    kernels = _one_hot_kernels(maps)
    planes = maps.reshape(n * c, 1, height, width)
    copies = []
    for dilation in dilations:
        padded = F.pad(planes, [dilation] * 4, mode="replicate")
        shifted = F.conv2d(padded, kernels, dilation=dilation)
        copies.append(shifted.view(n, c, 8, height, width))
    return torch.cat(copies, dim=2)


@torch.no_grad()
def published_par(
    images: Tensor, masks: Tensor, num_iters: int = 10, dilations: Sequence[int] = DILATIONS
) -> Tensor:
    """[N, K, H, W] from images [N, 3, H, W] in 0..1 and masks [N, K, h, w]."""
    masks = F.interpolate(masks, size=images.shape[-2:], mode="bilinear", align_corners=True)
    neighbors = neighbor_copies(images, dilations)
    differences = (neighbors - images.unsqueeze(2)).abs()
    std = neighbors.std(dim=2, keepdim=True)
    image_term = -((differences / (std + 1e-8) / 0.3) ** 2).mean(dim=1, keepdim=True)

    one, diagonal = 1.0, math.sqrt(2.0)
    ring = [diagonal, one, diagonal, one, one, diagonal, one, diagonal]
    distances = images.new_tensor([d * r for d in dilations for r in ring]).view(1, 1, -1, 1, 1)
    position_std = distances.std(dim=2, keepdim=True)
    position_term = -((distances / (position_std + 1e-8) / 0.3) ** 2)

    affinity = image_term.softmax(dim=2) + 0.01 * position_term.softmax(dim=2)
    for _ in range(num_iters):
        masks = (neighbor_copies(masks, dilations) * affinity).sum(dim=2)
    return masks


@torch.no_grad()
def published_refine(
    par: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    cams: Tensor,
    labels: Tensor,
    boxes: Tensor,
    low: float,
    high: float,
    ignore: int = 255,
) -> Tensor:
    """Arguments and result as ``dalnet.modeling.pseudo_labels.refine``: two calls per image."""
    height, width = images.shape[-2:]
    half = (height // 2, width // 2)
    small = F.interpolate(images, half, mode="bilinear", align_corners=False)
    runs = []
    for threshold in (high, low):
        background = torch.full_like(cams[:, :1], threshold)
        scores = torch.cat([background, cams], dim=1)
        scores = F.interpolate(scores, half, mode="bilinear", align_corners=False)
        run = torch.full_like(cams[:, 0], ignore, dtype=torch.int64)
        for i, (y0, y1, x0, x1) in enumerate(boxes.tolist()):
            keys = torch.cat([labels.new_ones(1), labels[i]]).nonzero()[:, 0]
            masks = scores[i : i + 1, keys].softmax(dim=1)
            refined = par(small[i : i + 1], masks)
            refined = F.interpolate(refined, (height, width), mode="bilinear", align_corners=False)
            found = keys[refined.argmax(dim=1)[0]]
            run[i, y0:y1, x0:x1] = found[y0:y1, x0:x1]
        runs.append(run)
    by_high, by_low = runs
    result = by_high.clone()
    result[by_high == 0] = ignore
    result[(by_high + by_low) == 0] = 0
    return result
