# SPDX-License-Identifier: Apache-2.0
"""Compute the losses of dense image-text alignment (DALNet paper, Eq. 2 to 6).

They are GIA, global implicit alignment, the paper's L_im, and LEA, local explicit alignment, L_ex.
Similarities are cosines in the common space of tokens and texts, in float32 (float64 stays float64)
also under autocast. Each loss is computed for every image, then averaged over the images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dalnet.modeling.precision import full_precision, unit_vectors

from .counts import total_count

_CLAMP_MARGIN = 1e-4  # CLIMS (CVPR 2022) keeps cosines this far from 0 and 1


@full_precision
def global_implicit_alignment(
    cls_tokens: Tensor,
    text_fg: Tensor,
    text_bg: Tensor,
    labels: Tensor,
    cross: bool = True,
    similarity: str = "affine",
    sample_weight: Tensor | None = None,
    across_processes: bool = False,
) -> Tensor:
    """Return the Global Implicit Alignment loss L_im (DALNet paper, Eq. 3).

    ``- sum_c y_c log(sim(v_cls, t_c)) - log(1 - sim(v_cls, t_bg))``, mean over the images. A cosine
    may be negative, so the logarithm's argument is ``(1 + cos) / 2`` ("affine") or the cosine
    clipped to [1e-4, 1 - 1e-4] ("clamp").

    Args:
        cls_tokens: ``[N, d]`` projected class tokens; N may be 0.
        text_fg: ``[C, d]`` projected class texts.
        text_bg: ``[1, d]`` projected background text.
        labels: ``[N, C]`` multi-hot labels of the views that the tokens belong to.
        cross: keep the second term, the contrast with the background text.
        similarity: "affine" or "clamp".
        sample_weight: ``[N]``, 1 for tokens that the mean is taken over, 0 for the others; where
            not given, all have the weight 1.
        across_processes: sum the weights of all processes, see :func:`.counts.total_count`.

    Returns:
        Scalar; 0 with zero gradient if no token has a weight.

    Raises:
        ValueError: unknown ``similarity``.
    """
    tokens = unit_vectors(cls_tokens)  # [N, d]
    positive = _positive(tokens @ unit_vectors(text_fg).T, similarity)  # [N, C]
    per_image = -(labels * _safe_log(positive)).sum(dim=1)  # [N]
    if cross:
        background = _positive(tokens @ unit_vectors(text_bg).T, similarity)  # [N, 1]
        per_image = per_image - _safe_log(1 - background).sum(dim=1)
    return _batch_mean(per_image, sample_weight, across_processes)


@full_precision
def local_explicit_alignment(
    patch_tokens: Tensor,
    mask: Tensor,
    text_fg: Tensor,
    text_bg: Tensor,
    labels: Tensor,
    cross: bool = True,
    temperature: float = 1.0,
    bg_weight: float = 0.001,
    normalize: str = "all",
    similarity: str = "affine",
    sample_weight: Tensor | None = None,
    across_processes: bool = False,
) -> Tensor:
    """Return the Local Explicit Alignment loss L_ex (DALNet paper, Eq. 2 and 4 to 6).

    With ``m`` the summed cosine to the image's classes minus the cosine to the background text,
    Eq. 6's two-way softmax is ``softplus(-m / tau)`` for an object patch and ``softplus(m / tau)``
    for a background patch. A patch masked out by Eq. 2 has both similarities 0: it adds log 2 and
    no gradient.

    Args:
        patch_tokens: ``[N, P, d]`` projected patch tokens; N may be 0.
        mask: ``[N, P]`` object-aware mask M_obj of 0 and 1, or boolean.
        text_fg: ``[C, d]`` projected class texts.
        text_bg: ``[1, d]`` projected background text.
        labels: ``[N, C]`` multi-hot image labels.
        cross: contrast both ways; if not, ``-1/P sum_i mask_i log p(s+fg_i)`` alone is left, p as
            in :func:`global_implicit_alignment`.
        temperature: tau.
        bg_weight: lambda, weight of the background patches' term.
        normalize: "all" divides by P, as the paper prints it. "region" averages the first term over
            the object patches and the second over the background patches, so that other patches
            do not add their log 2; without such patches the term is 0.
        similarity: "affine" or "clamp"; read only if not ``cross``.
        sample_weight, across_processes: as in :func:`global_implicit_alignment`.

    Returns:
        Scalar; 0 with zero gradient if no image has a weight.

    Raises:
        ValueError: unknown ``normalize`` or ``similarity``.
    """
    tokens = unit_vectors(patch_tokens)  # [N, P, d]
    mask = mask.to(tokens.dtype)
    # First the sum over the image's classes, then the product: [N, d] instead of [N, P, C].
    summed_texts = labels.to(tokens.dtype) @ unit_vectors(text_fg)  # [N, d]
    to_classes = torch.einsum("npd,nd->np", tokens, summed_texts)  # [N, P]
    if not cross:
        loss = -_safe_log(_positive(to_classes, similarity)) * mask
        per_image = _patch_mean(loss, mask, normalize)
        return _batch_mean(per_image, sample_weight, across_processes)
    margin = (to_classes - tokens @ unit_vectors(text_bg)[0]) / temperature  # [N, P]
    foreground = _patch_mean(F.softplus(-margin * mask), mask, normalize)
    background = _patch_mean(F.softplus(margin * (1 - mask)), 1 - mask, normalize)
    per_image = foreground + bg_weight * background
    return _batch_mean(per_image, sample_weight, across_processes)


@full_precision
def text_similarity(patch_tokens: Tensor, texts: Tensor) -> Tensor:
    """Return the cosine of every patch token with every text (DALNet paper, Fig. 6).

    Args:
        patch_tokens: ``[N, P, d]`` projected patch tokens.
        texts: ``[K, d]`` projected texts, of classes or background.

    Returns:
        ``[N, K, P]`` in -1..1; 0 for a token or text that is zero.
    """
    return torch.einsum("npd,kd->nkp", unit_vectors(patch_tokens), unit_vectors(texts))


def _positive(cosine: Tensor, similarity: str) -> Tensor:
    """Return cosines mapped to values that a logarithm can be taken of."""
    if similarity == "affine":
        return (1 + cosine) / 2
    if similarity == "clamp":
        return cosine.clamp(_CLAMP_MARGIN, 1 - _CLAMP_MARGIN)
    raise ValueError(f"similarity {similarity!r}: choose affine or clamp")


def _safe_log(value: Tensor) -> Tensor:
    # Clamped from below only, because without ``cross`` a sum of cosines may exceed 1.
    return value.clamp(min=torch.finfo(value.dtype).eps).log()


def _patch_mean(values: Tensor, region: Tensor, normalize: str) -> Tensor:
    """Return the mean of ``values [N, P]`` over all patches, or over those of ``region``."""
    if normalize == "all":
        return values.mean(dim=1)
    if normalize == "region":
        return (values * region).sum(dim=1) / region.sum(dim=1).clamp(min=1)
    raise ValueError(f"normalize {normalize!r}: choose all or region")


def _batch_mean(per_image: Tensor, sample_weight: Tensor | None, across_processes: bool) -> Tensor:
    # A batch may have no local view, or no image with a class: the mean of nothing would be NaN.
    if sample_weight is None:
        return per_image.sum() / max(len(per_image), 1)
    total, shares = total_count(sample_weight.sum(), across_processes)
    return (per_image * sample_weight).sum() / (total.clamp(min=1) / shares)
