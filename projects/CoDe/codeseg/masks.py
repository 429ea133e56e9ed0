# SPDX-License-Identifier: Apache-2.0
"""From cosines to masks of regions and words."""

import torch
from torch import Tensor, nn

from dalnet.modeling.precision import full_precision


class Affine(nn.Module):
    """A learned scale and shift of cosines."""

    def __init__(self, weight: float, bias: float) -> None:
        """Start from ``weight`` and ``bias``."""
        super().__init__()
        self.w = nn.Parameter(torch.tensor(float(weight)))
        self.b = nn.Parameter(torch.tensor(float(bias)))

    def forward(self, cosines: Tensor) -> Tensor:
        """Return ``w cosines + b``, in full precision."""
        return _affine(cosines, self.w, self.b)


@full_precision
def _affine(cosines: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return weight * cosines + bias


@full_precision
def region_cosines(features: Tensor, nouns: Tensor) -> Tensor:
    """Return ``[B, N, h, w]`` of features ``[B, d, h, w]`` and nouns ``[N, d]`` of length one."""
    return torch.einsum("bdhw,nd->bnhw", features, nouns)


@full_precision
def hard_masks(logits: Tensor, uniform: Tensor) -> Tensor:
    """Return masks of 0 and 1 whose gradient is that of the soft ones (Gumbel-sigmoid).

    Args:
        logits: any shape.
        uniform: of the same shape, drawn from 0..1; a pixel is 1 with the probability
            ``sigmoid(logits)``.
    """
    soft = (logits + torch.logit(uniform)).sigmoid()
    return (soft > 0.5).to(soft) - soft.detach() + soft


def word_logits(words: Tensor, nouns: Tensor, affine: Affine) -> Tensor:
    """Return the logits ``[B, K + 1, L]`` of each word of a caption for each of its K nouns.

    Args:
        words: of the captions ``[B, L, d]``, of length one.
        nouns: ``[K, B, d]``, of length one.
        affine: of cosines.

    Returns:
        For each word 0 for no noun, then its logit for each.
    """
    logits = affine(_word_cosines(words, nouns))  # [B, K, L]
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)


@full_precision
def _word_cosines(words: Tensor, nouns: Tensor) -> Tensor:
    return torch.einsum("bld,kbd->bkl", words, nouns)


def word_masks(logits: Tensor, ends: Tensor) -> Tensor:
    """Return how much each word of a caption belongs to each of its nouns, ``[K, B, L]``.

    Args:
        logits: ``[B, K + 1, L]``, see :func:`word_logits`.
        ends: position of each caption's end of text ``[B]``.

    Returns:
        Probabilities of the K nouns; 1 for the start, the end and what comes after it.
    """
    masks = logits.softmax(dim=1)[:, 1:].transpose(0, 1)
    position = torch.arange(logits.shape[-1], device=logits.device)
    is_no_word = (position == 0) | (position >= ends[:, None])  # [B, L]
    return masks.masked_fill(is_no_word, 1.0)


def highlight(mask: Tensor, values: Tensor, prompt: Tensor) -> Tensor:
    """Return ``values`` where ``mask`` is 1 and ``prompt`` where it is 0; shapes broadcast."""
    return mask * values + (1 - mask) * prompt
