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
        # Buffers, so that a GPU need not wait for them at every call.
        position_weights = _POSITION_WEIGHT * position_term.softmax(dim=0)
        self.register_buffer("_position_weights", position_weights, persistent=False)
        offsets = torch.tensor(self._offsets, dtype=torch.int32)
        self.register_buffer("_offset_table", offsets, persistent=False)

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
        neighbours = self._neighbours(*images.shape[2:], device=images.device)
        return torch.stack(
            [
                self._average(maps, self._affinity(image), neighbours)
                for image, maps in zip(images, masks, strict=True)
            ]
        )

    def _average(self, maps: Tensor, weights: Tensor, neighbours: Tensor) -> Tensor:
        """``num_iters`` weighted sums over the neighbours of maps [K, H, W] of one image."""
        # A bag per pixel: one pass over the picture sums all neighbours of all maps.
        rows = maps.flatten(1).T.contiguous()
        starts = torch.arange(
            0, neighbours.numel(), neighbours.shape[1], dtype=torch.int32, device=maps.device
        )
        for _ in range(self.num_iters):
            rows = F.embedding_bag(
                neighbours.flatten(), rows, starts, mode="sum", per_sample_weights=weights.flatten()
            )
        return rows.T.reshape(maps.shape)

    def _neighbours(self, height: int, width: int, device: torch.device) -> Tensor:
        """Numbers of every pixel's neighbours [HW, offsets], pixels counted row by row."""
        down, right = self._offset_table.to(device).unbind(1)
        # Clamping is the replicate padding.
        y = torch.arange(height, dtype=torch.int32, device=device)[:, None] + down
        x = torch.arange(width, dtype=torch.int32, device=device)[:, None] + right
        y, x = y.clamp_(0, height - 1), x.clamp_(0, width - 1)
        return (y[:, None] * width + x).flatten(0, 1)

    def _affinity(self, image: Tensor) -> Tensor:
        """Weights of the neighbours [HW, offsets] of one image [3, H, W]."""
        count = len(self._offsets)
        mean = torch.zeros_like(image)
        for neighbour in self._shifted(image):
            mean.add_(neighbour, alpha=1.0 / count)
        # In two passes: in a flat region the difference of squares would be all rounding.
        variance = torch.zeros_like(image)
        for neighbour in self._shifted(image):
            variance.add_((neighbour - mean).square_(), alpha=1.0 / (count - 1))
        scale = 1.0 / ((variance.sqrt_() + _EPS) * _BANDWIDTH)
        image_term = image.new_empty(count, *image.shape[1:])
        for term, neighbour in zip(image_term, self._shifted(image), strict=True):
            difference = (image - neighbour).mul_(scale).square_()
            torch.mean(difference, dim=0, out=term).neg_()
        return image_term.flatten(1).T.softmax(dim=1).add_(self._position_weights.to(image))

    def _shifted(self, image: Tensor) -> Iterator[Tensor]:
        """The neighbours of all pixels, one offset at a time: views [C, H, W], no copies."""
        height, width = image.shape[1:]
        margin = self._margin
        padded = F.pad(image, (margin,) * 4, mode="replicate")
        for dy, dx in self._offsets:
            yield padded.narrow(1, margin + dy, height).narrow(2, margin + dx, width)
