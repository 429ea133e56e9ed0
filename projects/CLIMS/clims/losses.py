# SPDX-License-Identifier: Apache-2.0
"""The losses of CLIMS (Xie et al., CVPR 2022, Sec. 3.3), as its published code computes them.

Similarities are cosines of CLIP's image and text features: no logit scale, no softmax. Each loss
has the data type of its input, but never less than float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dalnet.modeling.losses.counts import total_count
from dalnet.modeling.precision import full_precision

_LEAST, _MOST = 1e-4, 0.9999  # similarities are clamped to this range, as published


@full_precision
def object_matching(
    similarity: Tensor,
    weights: Tensor | None = None,
    clamp: bool = True,
    across_processes: bool = False,
) -> Tensor:
    """Return L_OTM: the masked object has to match the text of its class.

    ``-1/K sum_k w_k log(s_k)``, with s clamped to 1e-4..0.9999. Outside of it there is no gradient.

    Args:
        similarity: ``[K]``, of each foreground image with the text of its class.
        weights: ``[K]``; all 1 where not given. The sum is divided by K in any case.
        clamp: False clamps only where the logarithm does not exist (camera-ready variant).
        across_processes: count the pairs of all processes as K, see
            :func:`dalnet.modeling.losses.counts.total_count`; as published, each process its own.

    Returns:
        Scalar; 0 for K = 0.
    """
    similarity = similarity.clamp(_LEAST, _MOST if clamp else None)
    return _mean(-similarity.log(), weights, across_processes)


@full_precision
def background_matching(
    similarity: Tensor,
    weights: Tensor | None = None,
    clamp: bool = True,
    across_processes: bool = False,
) -> Tensor:
    """Return L_BTM: what is left of the image must not match the text of the class.

    ``-1/K sum_k w_k log(1 - r_k)``, with r clamped to 1e-4..0.9999.

    Args:
        similarity: ``[K]``, of each background image with the text of the class cut out of it.
        weights, clamp, across_processes: see :func:`object_matching`.

    Returns:
        Scalar; 0 for K = 0.
    """
    similarity = similarity.clamp(_LEAST if clamp else None, _MOST)
    return _mean(-(1 - similarity).log(), weights, across_processes)


@full_precision
def background_suppression(
    image_features: Tensor, text_features: Tensor, threshold: float
) -> Tensor:
    """Return L_CBS: no masked object may match a phrase of what objects are often seen with.

    ``-sum_k sum_m [q_km > threshold] log(1 - q_km)``: a plain sum, which grows with K and M.

    Args:
        image_features: ``[K, d]`` of the foreground images, of any length.
        text_features: ``[M, d]`` of the background phrases, of any length.
        threshold: a pair with this cosine or less contributes nothing and gets no gradient.

    Returns:
        Scalar; 0 for K = 0 or M = 0.
    """
    cosines = _cosines(image_features, text_features)
    return torch.where(cosines > threshold, _mismatch(cosines), 0.0).sum()


@full_precision
def related_suppression(image_features: Tensor, text_features: Tensor, related: Tensor) -> Tensor:
    """Return L_CBS of the camera-ready variant: phrases belong to classes, and none is left out.

    The mean of ``-log(1 - q_km)`` over the phrases m related to the class of pair k, summed over
    the pairs. It may be negative.

    Args:
        image_features, text_features: see :func:`background_suppression`.
        related: boolean ``[K, M]``; a pair without phrases contributes nothing.

    Returns:
        Scalar.
    """
    values = _mismatch(_cosines(image_features, text_features)) * related
    return (values.sum(dim=1) / related.sum(dim=1).clamp(min=1)).sum()


@full_precision
def area(maps: Tensor) -> Tensor:
    """Return L_REG: the mean of ``maps [N, C, h, w]`` in 0..1, absent classes included."""
    return maps.mean()


def _mean(values: Tensor, weights: Tensor | None, across_processes: bool) -> Tensor:
    weighted = values if weights is None else values * weights
    count = values.new_full((), len(values), dtype=torch.int64)
    total, shares = total_count(count, across_processes)
    return weighted.sum() / (total.clamp(min=1) / shares)


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosines ``[K, M]`` of rows ``[K, d]`` and ``[M, d]`` in the finer type."""
    dtype = torch.promote_types(a.dtype, b.dtype)
    return F.normalize(a.to(dtype), dim=1) @ F.normalize(b.to(dtype), dim=1).T


def _mismatch(cosines: Tensor) -> Tensor:
    """Return ``-log(1 - q)``, kept finite where rounding makes a cosine 1 or more."""
    return -(1 - cosines).clamp(min=torch.finfo(cosines.dtype).eps).log()
