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
from torch.autograd.function import FunctionCtx, once_differentiable

from dalnet.layers import bilateral_filter

from .cam import box_mask

_DEAD_NORM = 1e-6  # below this length a vector has no direction
_PAIRS_AT_A_TIME = 1 << 20  # cosines of token pairs: 4 MB, what a CPU's cache holds
_ENERGY_UNIT = 1e-7  # brings the sum over all pixel pairs to the size of the other losses


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make ``loss`` run outside autocast, with half-precision tensor arguments as float32.

    The device of its first tensor argument says which autocast is meant.
    """

    @functools.wraps(loss)
    def wrapper(*args: Any, **kwargs: Any) -> Tensor:
        first = next(a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        with torch.autocast(first.device.type, enabled=False):
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
    flat = labels.flatten(1)
    valid = flat != ignore
    # A zero vector is at right angles to all, so pairs with an ignored token add nothing.
    vectors = tokens.flatten(2).transpose(1, 2).masked_fill(~valid[:, :, None], 0.0)
    ordered = flat.sort(dim=1).values
    alike = torch.searchsorted(ordered, flat, right=True) - torch.searchsorted(ordered, flat)
    num_alike = (alike * valid).sum()
    num_positive = num_alike - valid.sum()
    num_negative = valid.sum(dim=1).square().sum() - num_alike
    attract = -0.5 / (num_positive + 1).to(vectors.dtype)
    repel = 0.5 / (num_negative + 1).to(vectors.dtype)
    return 0.5 + _PairwiseCosines.apply(unit_vectors(vectors), flat, attract, repel)


class _PairwiseCosines(torch.autograd.Function):
    """Weighted sum of |cos| over all ordered pairs of different tokens of an image.

    The matrix of all pairs exists only a few rows at a time. The gradient falls out of the same
    rows, so it is computed at once and nothing else is kept for the backward pass.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, unit: Tensor, labels: Tensor, same: Tensor, different: Tensor
    ) -> Tensor:
        """Sum pairs of ``unit [N, P, D]`` by whether their ``labels [N, P]`` are the same."""
        num_images, num_tokens, _ = unit.shape
        total, gradient = unit.new_zeros(()), torch.empty_like(unit)
        transposed = unit.transpose(1, 2)
        rows = max(1, _PAIRS_AT_A_TIME // max(num_images * num_tokens, 1))
        for start in range(0, num_tokens, rows):
            tile = slice(start, start + rows)
            cosines = unit[:, tile] @ transposed
            weights = torch.where(labels[:, tile, None] == labels[:, None], same, different)
            weights.diagonal(start, 1, 2).zero_()
            total += (cosines.abs() * weights).sum()
            torch.bmm(cosines.sign_().mul_(weights), unit, out=gradient[:, tile])
        # Every pair occurs in both orders.
        ctx.save_for_backward(gradient.mul_(2))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None, None


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

    The gradient is that of the value, ``gate A S + A^T (gate S)`` per pixel. The published code
    writes its backward pass by hand as ``2 gate A S``, the same only where the gate is uniform and
    A symmetric, which the lattice is but roughly.

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
