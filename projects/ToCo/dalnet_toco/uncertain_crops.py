# SPDX-License-Identifier: Apache-2.0
"""Local views of ToCo (CVPR 2023, Sec. 3.4): cut where the CAM is not sure of an object."""

from dataclasses import dataclass

import torch
from torch import Tensor

_SURE_BACKGROUND, _UNSURE, _SURE_OBJECT = 0.0, 1.0, 2.0


@dataclass(frozen=True)
class UncertainCrops:
    """Cuts the local views of a training step.

    Attributes:
        number: L, views per image.
        size: S, side of a view in pixels.
        low, high: CAM thresholds of sure background and sure objects.
        max_background: largest mean region value of a view without objects.
    """

    number: int
    size: int
    low: float
    high: float
    max_background: float

    def __call__(self, source: Tensor, cams: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Cut views of ``source [N, 3, H, W]`` where its CAMs ``[N, K, H, W]`` are not sure.

        Returns:
            Views ``[N, L, 3, S, S]``, and whether they show an object, boolean ``[N, L]``.
        """
        regions = region_map(cams, valid, self.low, self.high)
        corners = draw_crops(regions, self.number, self.size)
        positive = show_objects(regions, corners, self.size, self.max_background)
        return cut_crops(source, corners, self.size), positive


@torch.no_grad()
def region_map(cams: Tensor, valid: Tensor, low: float, high: float) -> Tensor:
    """Return how sure the CAMs of an image's classes are of an object.

    Args:
        cams: ``[N, K, H, W]`` in 0..1.
        valid: ``[N, K]``, 0 for a map whose class the image does not show.
        low, high: thresholds of the largest CAM.

    Returns:
        ``[N, H, W]``: 0 up to ``low``, 2 from ``high`` on, else 1.
    """
    largest = (cams * valid[:, :, None, None]).amax(dim=1)
    regions = torch.full_like(largest, _UNSURE)
    regions.masked_fill_(largest <= low, _SURE_BACKGROUND)
    return regions.masked_fill_(largest >= high, _SURE_OBJECT)


@torch.no_grad()
def draw_crops(regions: Tensor, number: int, size: int) -> Tensor:
    """Draw square crops whose centers lie outside the sure objects.

    The centers are drawn uniformly and without replacement from the pixels of regions 0 and 1 that
    leave a margin of half a crop; where an image has fewer of them than crops are wanted, from all
    pixels with that margin.

    Args:
        regions: ``[N, H, W]`` of :func:`region_map`, each side at least ``size``.
        number: L, at most as many as there are places.
        size: side S of a crop in pixels.

    Returns:
        ``[N, L, 2]`` long, the (top, left) corners.
    """
    height, width = regions.shape[1:]
    half = size // 2
    rows, columns = height - size + 1, width - size + 1
    centers = regions[:, half : half + rows, half : half + columns].flatten(1)
    allowed = centers <= _UNSURE
    allowed |= allowed.sum(dim=1, keepdim=True) < number
    # The largest of uniform numbers are a draw without replacement.
    chances = torch.rand_like(centers).masked_fill(~allowed, -1.0)
    place = chances.topk(number, dim=1).indices
    return torch.stack([place // columns, place % columns], dim=2)


def cut_crops(images: Tensor, corners: Tensor, size: int) -> Tensor:
    """Cut the crops of :func:`draw_crops`.

    Args:
        images: ``[N, C, H, W]``.
        corners: ``[N, L, 2]``.
        size: side S.

    Returns:
        ``[N, L, C, S, S]``.
    """
    offsets = torch.arange(size, device=images.device)
    rows = (corners[..., :1] + offsets)[..., :, None]
    columns = (corners[..., 1:] + offsets)[..., None, :]
    image = torch.arange(len(images), device=images.device)[:, None, None, None]
    return images.movedim(1, -1)[image, rows, columns].movedim(-1, 2)


@torch.no_grad()
def show_objects(regions: Tensor, corners: Tensor, size: int, max_background: float) -> Tensor:
    """Return which crops are positive: boolean ``[N, L]``.

    A crop whose mean region value is at most ``max_background`` is negative: nearly all of it is
    sure background.
    """
    inside = cut_crops(regions[:, None], corners, size)
    return inside.mean(dim=(2, 3, 4)) > max_background
