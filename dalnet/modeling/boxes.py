# SPDX-License-Identifier: Apache-2.0
"""Boxes of images inside their padded views, in pixels and on the token grid."""

import torch
from torch import Tensor


def box_mask(boxes: Tensor, height: int, width: int) -> Tensor:
    """Rasterise one box per image.

    Args:
        boxes: ``[N, 4]`` integers (y0, y1, x0, x1) in pixels, ends excluded.
        height: H of the raster.
        width: W of the raster.

    Returns:
        Boolean ``[N, H, W]``, true inside the box.
    """
    y0, y1, x0, x1 = boxes[:, :, None].unbind(1)
    rows = torch.arange(height, device=boxes.device)
    columns = torch.arange(width, device=boxes.device)
    inside_rows = (rows >= y0) & (rows < y1)
    inside_columns = (columns >= x0) & (columns < x1)
    return inside_rows[:, :, None] & inside_columns[:, None, :]


def token_grid_boxes(boxes: Tensor, image_size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Boxes on the token grid, for label maps at token resolution.

    A token belongs to the box if the centre of its patch does: the pixel coordinates are divided
    by the stride and rounded, halves downwards.

    Args:
        boxes: ``[N, 4]`` integers (y0, y1, x0, x1) in pixels.
        image_size: (H, W) of the image in pixels.
        grid: (h, w) of the token grid.

    Returns:
        ``[N, 4]`` integers (y0, y1, x0, x1) in tokens.
    """
    (height, width), (rows, columns) = image_size, grid
    tokens = boxes.new_tensor([rows, rows, columns, columns])
    pixels = boxes.new_tensor([height, height, width, width])
    return torch.div(2 * boxes * tokens + pixels - 1, 2 * pixels, rounding_mode="floor")
