# SPDX-License-Identifier: Apache-2.0
"""The classification losses L_cls and L_inter: image logits against image-level labels."""

import torch.nn.functional as F
from torch import Tensor

from dalnet.modeling.precision import full_precision

from .counts import total_count


@full_precision
def image_classification(
    logits: Tensor, labels: Tensor, known: Tensor | None = None, across_processes: bool = False
) -> Tensor:
    """Return the multi-label soft margin loss, the mean over all known pairs of image and class.

    Args:
        logits: ``[N, C]`` of the classes without background.
        labels: ``[N, C]`` multi-hot.
        known: boolean ``[N, C]``, false where nobody has said whether the image shows the class;
            all known where not given.
        across_processes: count the pairs of all processes, see :func:`.counts.total_count`.

    Returns:
        Scalar; 0 with zero gradient if nothing is known.
    """
    if known is None:
        return F.multilabel_soft_margin_loss(logits, labels)
    # The loss divides by all pairs: the factor makes it the mean over the known ones.
    weight = known.to(logits.dtype)
    total, shares = total_count(weight.sum(), across_processes)
    weight = weight * (weight.numel() / (total.clamp(min=1) / shares))
    return F.multilabel_soft_margin_loss(logits, labels, weight=weight)
