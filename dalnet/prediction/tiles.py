# SPDX-License-Identifier: Apache-2.0
"""Predicts large images tile by tile, and blends the tiles where they overlap."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dalnet.modeling.boxes import window_boxes

_OVERLAP = 4  # neighboring tiles share a fourth of their side


def predict_tiles(
    predict: Callable[[np.ndarray], Tensor], pixels: np.ndarray, num_scores: int, tile: int
) -> Tensor:
    """Return the scores of an image that is predicted in overlapping tiles.

    A tile counts most in its middle and falls off linearly to its edges, so that no seam is seen.

    Args:
        predict: returns the scores ``[K, h, w]`` of a part of the image, uint8 ``[h, w, 3]``.
        pixels: the image, uint8 ``[H, W, 3]``.
        num_scores: K.
        tile: side of a tile in pixels; a side of the image that is not longer is not cut.

    Returns:
        ``[K, H, W]``, float32 on the CPU, weighted means of the tiles' scores.
    """
    height, width = pixels.shape[:2]
    total = torch.zeros(num_scores, height, width)
    weights = torch.zeros(height, width)
    for y1, y2, x1, x2 in window_boxes(height, width, tile, tile - tile // _OVERLAP):
        weight = _ramp(y2 - y1)[:, None] * _ramp(x2 - x1)  # [h, w]
        total[:, y1:y2, x1:x2] += weight * predict(pixels[y1:y2, x1:x2]).float().cpu()
        weights[y1:y2, x1:x2] += weight
    return total / weights


def _ramp(length: int) -> Tensor:
    """Return weights ``[length]`` that rise from the ends to the middle, all above 0."""
    places = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(places, places.flip(0)) / length
