# SPDX-License-Identifier: Apache-2.0
"""Boxes of images in padded views, in pixels and tokens, and sliding windows over an image."""

from collections.abc import Sequence

import torch
from torch import Tensor


def box_mask(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return which pixels lie inside the box of each image.

    Args:
        boxes: ``[N, 4]`` integers (y0, y1, x0, x1) in pixels, ends excluded.
        height, width: H and W of the result.

    Returns:
        Boolean ``[N, H, W]``, true inside the box.
    """
    y0, y1, x0, x1 = boxes[:, :, None].unbind(1)
    rows = torch.arange(height, device=boxes.device)
    columns = torch.arange(width, device=boxes.device)
    inside_rows = (rows >= y0) & (rows < y1)
    inside_columns = (columns >= x0) & (columns < x1)
    return inside_rows[:, :, None] & inside_columns[:, None, :]


def token_grid_boxes(boxes: Tensor, image_size: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Return boxes on the token grid, for label maps at token resolution.

    A token belongs to the box if the center of its patch does: the pixel coordinates are divided
    by the stride and rounded, halves down.

    Args:
        boxes: ``[N, 4]`` integers (y0, y1, x0, x1) in pixels.
        image_size: (H, W) of the image in pixels.
        grid: (h, w) of the token grid.

    Returns:
        ``[N, 4]`` integers (y0, y1, x0, x1) in tokens.
    """
    (height, width), (rows, columns) = image_size, grid

    def scale(ends: Tensor, pixels: int, tokens: int) -> Tensor:
        return torch.div(2 * ends * tokens + pixels - 1, 2 * pixels, rounding_mode="floor")

    # Python numbers, because a GPU would wait for the copy of a tensor that holds them.
    return torch.cat(
        [scale(boxes[:, :2], height, rows), scale(boxes[:, 2:], width, columns)], dim=1
    )


def window_boxes(
    height: int, width: int, crop: int, stride: int
) -> list[tuple[int, int, int, int]]:
    """Return the windows that cover an image, (y1, y2, x1, x2) in pixels, row by row.

    The last window of a row or column ends at the border, so that it may overlap more. A side that
    is shorter than ``crop`` is one window, as long as the side.

    Args:
        height, width: of the image.
        crop: side of a window.
        stride: from one window to the next.

    Raises:
        ValueError: a number below 1.
    """
    if min(height, width, crop, stride) < 1:
        raise ValueError(
            f"image {height} x {width}, window {crop} and stride {stride} must all be 1 or more"
        )
    rows, columns = _spans(height, crop, stride), _spans(width, crop, stride)
    return [(*row, *column) for row in rows for column in columns]


def _spans(side: int, crop: int, stride: int) -> list[tuple[int, int]]:
    number = max(side - crop + stride - 1, 0) // stride + 1
    ends = [min(i * stride + crop, side) for i in range(number)]
    return [(max(end - crop, 0), end) for end in ends]
