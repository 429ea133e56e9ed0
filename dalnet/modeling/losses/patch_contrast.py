# SPDX-License-Identifier: Apache-2.0
"""Patch-token contrast L_ptc (ToCo, CVPR 2023)."""

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx, once_differentiable

from dalnet.modeling.precision import full_precision, unit_vectors

from .counts import total_count

_PAIRS_AT_A_TIME = 1 << 20  # cosines of token pairs: 4 MB, what a CPU's cache holds


@full_precision
def patch_token_contrast(
    tokens: Tensor, labels: Tensor, ignore: int = 255, across_processes: bool = False
) -> Tensor:
    """Return the patch-token contrast L_ptc (ToCo, CVPR 2023, Eq. 3).

    It makes tokens of one label alike and tokens of different labels unlike.

    With ``c = |cos|`` of two tokens of one image, ``0.5 (1 - sum_pos c / (n_pos + 1)) +
    0.5 sum_neg c / (n_neg + 1)``; the sums run over the ordered pairs of the whole batch. A token
    with itself, and every pair with an ignored token, counts for nothing.

    Args:
        tokens: ``[N, D, h, w]`` patch tokens of the last block.
        labels: ``[N, h, w]`` integer label map on the token grid.
        ignore: label of the tokens left out.
        across_processes: count the pairs of all processes, see :func:`.counts.total_count`.

    Returns:
        Scalar in 0..1; 0.5 without gradient if no pair counts.
    """
    flat = labels.flatten(1)  # [N, P]
    valid = flat != ignore
    # A zero vector is at right angles to all, so pairs with an ignored token add nothing.
    vectors = tokens.flatten(2).transpose(1, 2).masked_fill(~valid[:, :, None], 0.0)
    ordered = flat.sort(dim=1).values
    # [N, P], of each token how many of its image have its label, itself included
    alike = torch.searchsorted(ordered, flat, right=True) - torch.searchsorted(ordered, flat)
    num_alike = (alike * valid).sum()
    num_positive = num_alike - valid.sum()
    num_negative = valid.sum(dim=1).square().sum() - num_alike
    pairs = torch.stack([num_positive, num_negative])
    total, shares = total_count(pairs, across_processes)
    num_positive, num_negative = (total + 1) / shares
    attract = -0.5 / num_positive.to(vectors.dtype)
    repel = 0.5 / num_negative.to(vectors.dtype)
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
    def backward(ctx: BackwardCFunction, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None, None
