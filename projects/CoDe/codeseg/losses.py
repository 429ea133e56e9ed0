# SPDX-License-Identifier: Apache-2.0
"""CoDe's losses (Image-Text Co-Decomposition, CVPR 2024; those of TCL, CVPR 2023, among them).

M pairs of an image and a noun are on this process, N on all processes together. Row m of any two
arguments belongs to the same pair.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dalnet.modeling.precision import full_precision

from .ranks import gather_rows, own_rows

EPS = 1e-6  # vectors are not made longer than this allows; chosen by the authors for float16
_MAX_SCALE = 100.0
_OTHER_WORDS = 0.5  # weight of the words that no selected noun explains


@full_precision
def noun_agreement(nouns: Tensor, prompts: Tensor) -> Tensor:
    """Return 1 - the mean cosine of the learned and the hand-written prompt of a noun ("kg").

    Args:
        nouns: ``[M, d]``, of length one, by learned prompts.
        prompts: ``[M, d]``, of length one, by CLIP's own sentences; without gradient.
    """
    return 1 - (nouns * prompts).sum(dim=1).mean()


@full_precision
def info_nce(first: Tensor, second: Tensor, log_scale: Tensor) -> Tensor:
    """Return the contrast of pairs ("hli" of regions and nouns, "hcl" of regions and words).

    Args:
        first, second: ``[M, d]``, any length.
        log_scale: scalar, logarithm of the factor on cosines, which is 100 at most.

    Returns:
        The mean over this process's pairs of the cross-entropy, half for each direction; all
        processes' pairs are the choices.
    """
    first, second = (F.normalize(rows, dim=1, eps=EPS) for rows in (first, second))
    scale = log_scale.exp().clamp(max=_MAX_SCALE)
    own = own_rows(len(first), first.device)
    to_second = F.cross_entropy(scale * first @ gather_rows(second).T, own)
    to_first = F.cross_entropy(scale * second @ gather_rows(first).T, own)
    return (to_second + to_first) / 2


@full_precision
def pool(features: Tensor, masks: Tensor) -> Tensor:
    """Return the mean feature inside each soft mask, ``[B, N, d]``.

    Args:
        features: ``[B, d, h, w]``.
        masks: of each image for every noun ``[B, N, h, w]``, in 0..1.
    """
    sums = torch.einsum("bdhw,bnhw->bnd", features, masks)
    return sums / (masks.sum(dim=(2, 3))[..., None] + EPS)


@full_precision
def feature_contrast(
    pooled: Tensor, nouns: Tensor, log_scale: Tensor, as_released: bool = False
) -> Tensor:
    """Return the contrast of pooled features and nouns ("hlf"), as :func:`info_nce` does.

    What an image shows for a noun is pooled inside that noun's mask, so that there is a feature
    for each pair of both.

    Args:
        pooled: ``[M, N, d]``, feature of pair m's image inside the mask of noun n.
        nouns: ``[M, d]``.
        log_scale: see :func:`info_nce`.
        as_released: from nouns to images of another process, use the feature inside the mask of
            the noun in the same place of *that* process, as the published code does.
    """
    pooled, nouns = (F.normalize(rows, dim=-1, eps=EPS) for rows in (pooled, nouns))
    scale = log_scale.exp().clamp(max=_MAX_SCALE)
    own = own_rows(len(nouns), nouns.device)
    to_nouns = torch.einsum("mnd,nd->mn", pooled, gather_rows(nouns))
    if as_released:
        blocks = gather_rows(pooled[:, own])  # [N, M, d]
        to_images = torch.einsum("nmd,md->mn", blocks, nouns)
    else:
        to_images = gather_rows(to_nouns)[:, own].T  # the same cosines, by noun: [M, N]
    return (F.cross_entropy(scale * to_nouns, own) + F.cross_entropy(scale * to_images, own)) / 2


@full_precision
def total_variation(maps: Tensor) -> Tensor:
    """Return the mean difference of neighbors, across plus down ("tv_img", "tv_mask").

    Args:
        maps: ``[N, C, h, w]``, h and w at least 2.
    """
    across = (maps[..., 1:] - maps[..., :-1]).abs().mean()
    down = (maps[..., 1:, :] - maps[..., :-1, :]).abs().mean()
    return across + down


@full_precision
def area_prior(mean: Tensor, prior: float, by_process: bool = False) -> Tensor:
    """Return how far the mean of masks is from a prior ("area", "neg_area").

    Args:
        mean: scalar, of this process's masks.
        prior: what the mean of all should be.
        by_process: compare each process's own mean, so that the number of processes matters.
    """
    if not by_process:
        mean = gather_rows(mean[None]).mean()
    return (mean - prior).abs()


@full_precision
def word_classification(logits: Tensor, labels: Tensor, by_process: bool = False) -> Tensor:
    """Return the cross-entropy of words against their pseudo labels ("tseg").

    Args:
        logits: ``[B, K + 1, L]``, the first for words of no selected noun.
        labels: ``[B, L]``, 0..K, -1 for words that count for nothing.
        by_process: average over the words of each process rather than over all.

    Returns:
        The mean over the labeled words, those of no selected noun with weight 0.5; 0 if there
        are none.
    """
    weights = logits.new_ones(logits.shape[1])
    weights[:1] = _OTHER_WORDS
    total = F.cross_entropy(logits, labels, weights, ignore_index=-1, reduction="sum")
    weight = (weights[labels.clamp(min=0)] * (labels >= 0)).sum()
    if not by_process:
        total, weight = gather_rows(torch.stack([total, weight])[None]).sum(dim=0)
    return total / weight.clamp(min=EPS)
