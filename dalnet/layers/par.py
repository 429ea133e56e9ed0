# SPDX-License-Identifier: Apache-2.0
"""Pixel-adaptive refinement of class maps along the edges of the image.

L. Ru et al., "Learning Affinity from Attention: End-to-End Weakly-Supervised Semantic Segmentation
with Transformers", CVPR 2022, Section 3.4.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_EPS = 1e-8
# The eight neighbors as (dy, dx), in units of the dilation.
_DIRECTIONS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
# Pixels that a GPU refines at a time, at 700 bytes each. A batch then needs as few kernel launches
# as one image, and launches take most of the time. On a CPU images are refined one by one, because
# its cache hardly holds more than one.
_GPU_PIXELS = 1 << 20


class PixelAdaptiveRefinement(nn.Module):
    """Repeatedly replaces each pixel of a map by the mean of its neighbors, weighted by color.

    A pixel p has eight neighbors q per dilation (replicate padding). Their weights are
    ``softmax(image term) + 0.01 softmax(position term)`` over q, the image term being the mean over
    the channels of ``-(|I_p - I_q| / (std + 1e-8) / 0.3)^2`` with ``std`` the unbiased standard
    deviation of the neighbors' values, the position term the same with the distance of q from p.
    The published constants may be changed; :meth:`pamr` has those of another method.

    Args:
        num_iters: how often the map is averaged.
        dilations: distances of the neighbors in pixels, each at least 1.
        bandwidth: the 0.3 of both terms.
        squared: whether both terms are squared.
        position_weight: the factor 0.01 of the position term.
        std_with_center: whether p itself counts in ``std``, once for each dilation.

    Raises:
        ValueError: no dilation, a dilation below 1, or a negative number of iterations.
    """

    _position_weights: Tensor
    _offset_table: Tensor

    def __init__(
        self,
        num_iters: int = 10,
        dilations: Sequence[int] = (1, 2, 4, 8, 12, 24),
        *,
        bandwidth: float = 0.3,
        squared: bool = True,
        position_weight: float = 0.01,
        std_with_center: bool = False,
    ) -> None:
        super().__init__()
        if num_iters < 0 or not dilations or min(dilations) < 1:
            raise ValueError(
                "refinement needs at least one dilation, all of them 1 or more, and 0 or more "
                f"iterations, got dilations {tuple(dilations)} and {num_iters} iterations"
            )
        self.num_iters = num_iters
        self.dilations = tuple(dilations)
        self._bandwidth, self._squared, self._std_with_center = bandwidth, squared, std_with_center
        self._margin = max(dilations)
        self._offsets = [(d * dy, d * dx) for d in dilations for dy, dx in _DIRECTIONS]
        distances = torch.tensor([math.hypot(*o) for o in self._offsets], dtype=torch.float64)
        scaled = distances / (distances.std() + _EPS) / bandwidth
        position_term = -(scaled.square() if squared else scaled)
        # Buffers, because numbers that lie on the CPU would have to be copied at every call.
        position_weights = position_weight * position_term.softmax(dim=0)
        self.register_buffer("_position_weights", position_weights, persistent=False)
        offsets = torch.tensor(self._offsets, dtype=torch.int32)
        self.register_buffer("_offset_table", offsets, persistent=False)

    @classmethod
    def pamr(
        cls, num_iters: int = 10, dilations: Sequence[int] = (1, 2, 4, 8, 12, 24)
    ) -> "PixelAdaptiveRefinement":
        """Return PAMR (N. Araslanov and S. Roth, "Single-Stage Semantic Segmentation from Image
        Labels", CVPR 2020), which PAR was made from: linear differences, and no position term.
        """
        return cls(
            num_iters,
            dilations,
            bandwidth=0.1,
            squared=False,
            position_weight=0.0,
            std_with_center=True,
        )

    @torch.no_grad()
    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """Refine ``masks`` along the edges of ``images``; no gradient passes.

        Args:
            images: [N, 3, H, W] in 0..1.
            masks: [N, K, h, w], any scores; brought to H x W bilinearly, corners aligned.

        Returns:
            [N, K, H, W], float32, or float64 where one of the inputs is.

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
        at_a_time = _images_at_a_time(images)
        parts = zip(images.split(at_a_time), masks.split(at_a_time), strict=True)
        return torch.cat([self._refine(*part) for part in parts])

    def _refine(self, images: Tensor, maps: Tensor) -> Tensor:
        """Return ``num_iters`` weighted sums over the neighbors of maps [N, K, H, W]."""
        weights = self._affinity(images).flatten()
        neighbors = self._neighbors(images)
        # For embedding_bag each pixel is a bag of its neighbors; it sums all of them in one pass.
        starts = torch.arange(
            0, neighbors.numel(), neighbors.shape[1], dtype=torch.int32, device=maps.device
        )
        rows = maps.movedim(1, -1).flatten(0, 2).contiguous()  # [NHW, K]
        for _ in range(self.num_iters):
            rows = F.embedding_bag(
                neighbors.flatten(), rows, starts, mode="sum", per_sample_weights=weights
            )
        return rows.view(len(maps), *maps.shape[2:], -1).movedim(-1, 1)

    def _neighbors(self, images: Tensor) -> Tensor:
        """Return the flat indices of every pixel's neighbors, int32 [NHW, offsets].

        Index i stands for row i of the maps [NHW, K] in :meth:`_refine`.
        """
        count, (height, width) = len(images), images.shape[2:]
        down, right = self._offset_table.to(images.device).unbind(1)
        numbers = torch.arange(max(count, height, width), dtype=torch.int32, device=images.device)
        # Clamping is the replicate padding.
        y = (numbers[:height, None] + down).clamp_(0, height - 1)
        x = (numbers[:width, None] + right).clamp_(0, width - 1)
        in_image = y[:, None] * width + x  # [H, W, offsets]
        first = numbers[:count, None, None, None] * (height * width)
        return (first + in_image).flatten(0, 2)

    def _affinity(self, images: Tensor) -> Tensor:
        """Return the weights of the neighbors [NHW, offsets] in images [N, 3, H, W]."""
        count = len(self._offsets)
        # How often the pixel itself counts, and how many values there are.
        own = len(self.dilations) if self._std_with_center else 0
        total = count + own
        mean = images * (own / total)
        for neighbor in self._shifted(images):
            mean.add_(neighbor, alpha=1.0 / total)
        # In two passes, because where colors hardly differ, the mean of the squares minus the
        # square of the mean would consist of rounding errors.
        variance = (images - mean).square_().mul_(own / (total - 1))
        for neighbor in self._shifted(images):
            variance.add_((neighbor - mean).square_(), alpha=1.0 / (total - 1))
        # PAR adds the small number to the deviation, PAMR to what it divides by.
        eps = self._bandwidth * _EPS if self._squared else _EPS
        scale = 1.0 / (variance.sqrt_() * self._bandwidth + eps)
        image_term = images.new_empty(count, len(images), *images.shape[2:])
        for term, neighbor in zip(image_term, self._shifted(images), strict=True):
            difference = (images - neighbor).mul_(scale)
            difference = difference.square_() if self._squared else difference.abs_()
            torch.mean(difference, dim=1, out=term).neg_()
        return image_term.flatten(1).T.softmax(dim=1).add_(self._position_weights.to(images))

    def _shifted(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the neighbors of all pixels, one offset at a time: views [N, 3, H, W]."""
        height, width = images.shape[2:]
        margin = self._margin
        padded = F.pad(images, (margin,) * 4, mode="replicate")
        for dy, dx in self._offsets:
            yield padded.narrow(2, margin + dy, height).narrow(3, margin + dx, width)


def _images_at_a_time(images: Tensor) -> int:
    """Return how many images [N, 3, H, W] are refined together, which changes the speed alone."""
    return max(1, _GPU_PIXELS // images[0, 0].numel()) if images.is_cuda else 1
