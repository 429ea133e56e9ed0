# SPDX-License-Identifier: Apache-2.0
"""Pixel-adaptive refinement of class maps by the colours of the photograph.

L. Ru et al., "Learning Affinity from Attention: End-to-End Weakly-Supervised Semantic Segmentation
with Transformers", CVPR 2022, Section 3.4.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Constants of the published module: the bandwidth of both terms and the position term's share.
_BANDWIDTH = 0.3
_POSITION_WEIGHT = 0.01
_EPS = 1e-8
# The eight neighbours as (dy, dx), in units of the dilation.
_DIRECTIONS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


class PixelAdaptiveRefinement(nn.Module):
    """Repeatedly replaces each pixel of a map by the mean of its neighbours of similar colour.

    A pixel p has eight neighbours q per dilation (replicate padding). Their weights are
    ``softmax(image term) + 0.01 softmax(position term)`` over q, the image term being the mean over
    the channels of ``-(|I_p - I_q| / (std + 1e-8) / 0.3)^2`` with ``std`` the unbiased standard
    deviation of the neighbours' values, the position term the same with the distance of q from p.

    Args:
        num_iters: how often the map is averaged.
        dilations: distances of the neighbours in pixels, each at least 1.

    Raises:
        ValueError: no dilation, a dilation below 1, or a negative number of iterations.
    """

    def __init__(
        self, num_iters: int = 10, dilations: Sequence[int] = (1, 2, 4, 8, 12, 24)
    ) -> None:
        super().__init__()
        if num_iters < 0 or not dilations or min(dilations) < 1:
            raise ValueError(
                "refinement needs at least one dilation, all of them 1 or more, and 0 or more "
                f"iterations, got dilations {tuple(dilations)} and {num_iters} iterations"
            )
        self.num_iters = num_iters
        self.dilations = tuple(dilations)
        self._margin = max(dilations)
        self._offsets = [(d * dy, d * dx) for d in dilations for dy, dx in _DIRECTIONS]
        distances = torch.tensor([math.hypot(*o) for o in self._offsets], dtype=torch.float64)
        position_term = -((distances / (distances.std() + _EPS) / _BANDWIDTH) ** 2)
        self._position_weights = (_POSITION_WEIGHT * position_term.softmax(dim=0)).tolist()

    @torch.no_grad()
    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """Refine ``masks`` along the edges of ``images``; no gradient passes.

        Args:
            images: [N, 3, H, W] in 0..1.
            masks: [N, K, h, w], any scores; brought to H x W bilinearly, corners aligned.

        Returns:
            [N, K, H, W], float32, or float64 where both inputs are.

        Raises:
            ValueError: images and masks of different number.
        """
        if images.dim() != 4 or masks.dim() != 4 or len(images) != len(masks):
            raise ValueError(
                "refinement takes as many masks [N, K, h, w] as images [N, 3, H, W], got "
                f"{tuple(masks.shape)} and {tuple(images.shape)}"
            )
        dtype = torch.promote_types(torch.float32, torch.result_type(images, masks))
        images = images.to(dtype)
        masks = F.interpolate(
            masks.to(dtype), size=images.shape[2:], mode="bilinear", align_corners=True
        )
        weights = self._affinity(images)
        for _ in range(self.num_iters):
            refined = torch.zeros_like(masks)
            for neighbour, weight in zip(self._shifted(masks), weights, strict=True):
                refined.addcmul_(neighbour, weight)
            masks = refined
        return masks

    def _shifted(self, maps: Tensor) -> Iterator[Tensor]:
        """The neighbours of all pixels, one offset at a time: views [N, C, H, W], no copies."""
        height, width = maps.shape[2:]
        margin = self._margin
        padded = F.pad(maps, (margin,) * 4, mode="replicate")
        for dy, dx in self._offsets:
            yield padded.narrow(2, margin + dy, height).narrow(3, margin + dx, width)

    def _affinity(self, images: Tensor) -> Tensor:
        """Weights of the neighbours, [offsets, N, 1, H, W]."""
        count = len(self._offsets)
        mean = torch.zeros_like(images)
        for neighbour in self._shifted(images):
            mean.add_(neighbour, alpha=1.0 / count)
        # In two passes: in a flat region the difference of squares would be all rounding.
        variance = torch.zeros_like(images)
        for neighbour in self._shifted(images):
            variance.add_((neighbour - mean).square_(), alpha=1.0 / (count - 1))
        scale = 1.0 / ((variance.sqrt_() + _EPS) * _BANDWIDTH)
        image_term = images.new_empty(count, len(images), 1, *images.shape[2:])
        for term, neighbour in zip(image_term, self._shifted(images), strict=True):
            difference = (images - neighbour).mul_(scale).square_()
            torch.mean(difference, dim=1, keepdim=True, out=term).neg_()
        position_weights = images.new_tensor(self._position_weights).view(-1, 1, 1, 1, 1)
        return image_term.softmax(dim=0).add_(position_weights)
