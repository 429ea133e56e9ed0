# SPDX-License-Identifier: Apache-2.0
"""The losses that are not alignment: patch-token contrast, segmentation, dense energy.

All are computed in float32 (float64 stays float64) also under autocast, and are finite and
differentiable on every batch. Multi-label soft margin is ``torch``'s own.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dalnet.layers import bilateral_filter

from .cam import box_mask

_DEAD_NORM = 1e-6  # below this length a vector has no direction
_ENERGY_UNIT = 1e-7  # brings the sum over all pixel pairs to the size of the other losses


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make ``loss`` run outside autocast, with half-precision tensor arguments as float32.

    The first argument of ``loss`` must be a tensor: its device says which autocast is meant.
    """

    @functools.wraps(loss)
    def wrapper(*args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast(args[0].device.type, enabled=False):
            kwargs = {name: _at_least_float32(value) for name, value in kwargs.items()}
            return loss(*map(_at_least_float32, args), **kwargs)

    return wrapper


def _at_least_float32(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, torch.float32))
    return value


def unit_vectors(vectors: Tensor) -> Tensor:
    """Scale ``vectors [..., d]`` to length 1 along the last dimension.

    A vector shorter than 1e-6 has no direction: it becomes zero and gets a zero gradient, where a
    plain normalisation would pass on one of size 1/eps.
    """
    dead = vectors.detach().norm(dim=-1, keepdim=True) < _DEAD_NORM
    return F.normalize(vectors.masked_fill(dead, 0.0), dim=-1)


@full_precision
def patch_token_contrast(tokens: Tensor, labels: Tensor, ignore: int = 255) -> Tensor:
    """Patch-token contrast L_ptc (ToCo, CVPR 2023, Eq. 3): alike within a label, unlike across.

    With ``c = |cos|`` of two tokens of one image, ``0.5 (1 - sum_pos c / (n_pos + 1)) +
    0.5 sum_neg c / (n_neg + 1)``; the sums run over the ordered pairs of the whole batch. A token
    with itself, and every pair with an ignored token, counts for nothing.

    Args:
        tokens: ``[N, D, h, w]`` patch tokens of the last block.
        labels: ``[N, h, w]`` integer label map on the token grid.
        ignore: label of the tokens left out.

    Returns:
        Scalar in 0..1; 0.5 without gradient if no pair counts.
    """
    unit = unit_vectors(tokens.flatten(2).transpose(1, 2))
    affinity = (unit @ unit.transpose(1, 2)).abs()
    flat = labels.flatten(1)
    valid = flat != ignore
    pair = valid[:, :, None] & valid[:, None, :]
    same = flat[:, :, None] == flat[:, None, :]
    itself = torch.eye(flat.shape[1], dtype=torch.bool, device=flat.device)
    positive, negative = pair & same & ~itself, pair & ~same
    attract = (affinity * positive).sum() / (positive.sum() + 1)
    repel = (affinity * negative).sum() / (negative.sum() + 1)
    return 0.5 * (1 - attract) + 0.5 * repel


@full_precision
def balanced_cross_entropy(logits: Tensor, labels: Tensor, ignore: int = 255) -> Tensor:
    """Segmentation loss L_seg: cross-entropy in which background weighs as much as foreground.

    Half the mean over background pixels plus half the mean over foreground pixels, each over the
    whole batch (ToCo, CVPR 2023). A kind without a pixel adds 0, where the mean of nothing would
    be NaN.

    Args:
        logits: ``[N, K, H, W]``, background first.
        labels: ``[N, H, W]`` integers in 0..K-1 or ``ignore``.
        ignore: label of the pixels left out.

    Returns:
        Scalar; 0 with zero gradient if every pixel is ignored.
    """
    per_pixel = F.cross_entropy(logits, labels.long(), ignore_index=ignore, reduction="none")
    background = labels == 0
    foreground = ~background & (labels != ignore)

    def mean(region: Tensor) -> Tensor:
        return (per_pixel * region).sum() / region.sum().clamp(min=1)

    return 0.5 * mean(background) + 0.5 * mean(foreground)


@full_precision
def dense_energy(
    images: Tensor,
    probs: Tensor,
    boxes: Tensor,
    labels: Tensor,
    sigma_rgb: float = 15.0,
    sigma_xy: float = 100.0,
    scale: float = 0.5,
    method: str = "lattice",
    ignore: int = 255,
) -> Tensor:
    """Dense energy loss L_reg (Tang et al., ECCV 2018), gated as in its public implementations.

    ``-1e-7 / N * sum_k sum_p gate_p S_kp (A S_k)_p`` with A the Gaussian kernel over position and
    colour. Everything is first shrunk by ``scale`` (scores bilinearly, the rest to the nearest
    pixel) and ``sigma_xy`` with it. Scores outside the photograph's box are zero. The gate is 1 at
    unlabelled pixels and 1 minus the top score elsewhere, and is a constant to the gradient.

    The gradient is that of the value, ``gate A S + A (gate S)`` per pixel. The published code
    writes its backward pass by hand as ``2 gate A S``, the same only where the gate is uniform.

    Args:
        images: ``[N, 3, H, W]`` RGB in 0..255.
        probs: ``[N, K, H, W]`` softmax scores.
        boxes: ``[N, 4]`` integers (y0, y1, x0, x1), the photograph inside the padded view.
        labels: ``[N, H, W]`` pseudo labels.
        sigma_rgb: width of the kernel in colour, in grey levels of 0..255.
        sigma_xy: width of the kernel in position, in pixels of the full-size view.
        scale: share of the side length to which everything is shrunk.
        method: form of the Gaussian sum, see ``dalnet.layers.bilateral_filter``.
        ignore: label of the unlabelled pixels.

    Returns:
        Scalar, never positive.
    """
    height, width = probs.shape[-2:]
    size = (max(int(height * scale), 1), max(int(width * scale), 1))
    inside = box_mask(boxes, height, width).to(probs.dtype)
    images, inside, labels = (
        F.interpolate(x.to(probs.dtype), size=size)
        for x in (images, inside[:, None], labels[:, None])
    )
    probs = F.interpolate(probs, size=size, mode="bilinear", align_corners=False)
    gate = (1 - probs.detach().amax(dim=1, keepdim=True)).masked_fill(labels == ignore, 1.0)
    probs = probs * inside
    filtered = bilateral_filter(images, probs, sigma_rgb, sigma_xy * scale, method=method)
    return -_ENERGY_UNIT / max(len(probs), 1) * (gate * probs * filtered).sum()
