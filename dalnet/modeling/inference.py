# SPDX-License-Identifier: Apache-2.0
"""From segmentation logits to scores of the photograph's size: scales, mirror image, dense CRF."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dalnet.layers import dense_crf


def multi_scale_probabilities(
    logits_fn: Callable[[Tensor], Tensor],
    images: Tensor,
    size: tuple[int, int],
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Tensor:
    """Class probabilities, averaged over scales and, if asked, the mirror image.

    Logits of all passes are enlarged to ``size`` and averaged before the softmax. The paper says
    only that scales and mirror image are used (Sec. 4.1).

    Args:
        logits_fn: maps images [N, 3, h, w] to logits [N, K, h', w'] at any resolution.
        images: normalised images [N, 3, H, W].
        size: (height, width) of the result.
        scales: factors on H and W.
        flip: also use the mirror image of every scale.

    Returns:
        [N, K, *size], probabilities that add up to 1 over K.
    """
    height, width = images.shape[-2:]
    total = None
    for scale in scales:
        scaled = images
        if scale != 1.0:
            target = (int(scale * height), int(scale * width))
            scaled = F.interpolate(images, size=target, mode="bilinear", align_corners=False)
        logits = _resize(logits_fn(scaled), size)
        if flip:
            logits = (logits + _resize(logits_fn(scaled.flip(-1)), size).flip(-1)) / 2
        total = logits if total is None else total + logits
    return (total / len(scales)).softmax(dim=1)


def crf_probabilities(pixels: Tensor, probs: Tensor, **parameters: float) -> Tensor:
    """Refine probabilities [N, K, H, W] by a dense CRF on photographs ``pixels`` of any size.

    Args:
        pixels: [N, 3, h, w], RGB in 0..255; resized to H x W.
        probs: [N, K, H, W].
        parameters: the keyword arguments of :func:`dalnet.layers.dense_crf`.

    Returns:
        [N, K, H, W], probabilities.
    """
    photographs = _resize(pixels, probs.shape[-2:]).round().clamp(0, 255).to(torch.uint8)
    return dense_crf(photographs.permute(0, 2, 3, 1).contiguous(), probs, **parameters)


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps.float()
    return F.interpolate(maps.float(), size=tuple(size), mode="bilinear", align_corners=False)
