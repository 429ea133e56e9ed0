# SPDX-License-Identifier: Apache-2.0
"""The losses of the segmentation head: L_seg against pseudo labels and the dense energy L_reg.

Both are computed in float32 (float64 stays float64) also under autocast, and are finite and
differentiable on every batch.
"""

import torch.nn.functional as F
from torch import Tensor

from dalnet.layers import bilateral_filter
from dalnet.modeling.boxes import box_mask
from dalnet.modeling.precision import full_precision
from dalnet.modeling.resize import resize

from .counts import total_count

_ENERGY_UNIT = 1e-7  # brings the sum over all pixel pairs to the size of the other losses


@full_precision
def balanced_cross_entropy(
    logits: Tensor, labels: Tensor, ignore: int = 255, across_processes: bool = False
) -> Tensor:
    """Return L_seg: cross-entropy in which background weighs as much as foreground.

    Half the mean over background pixels plus half the mean over foreground pixels, each over the
    whole batch (ToCo, CVPR 2023). A kind without a pixel adds 0, where the mean of nothing would
    be NaN.

    Args:
        logits: ``[N, K, H, W]``, background first.
        labels: ``[N, H, W]`` integers in 0..K-1 or ``ignore``.
        ignore: label of the pixels left out.
        across_processes: count the pixels of all processes, see :func:`.counts.total_count`.

    Returns:
        Scalar; 0 with zero gradient if every pixel is ignored.
    """
    labels = labels.long()
    per_pixel = F.cross_entropy(logits, labels, ignore_index=ignore, reduction="none")  # [N, H, W]
    background = labels == 0
    foreground = ~background & (labels != ignore)

    def mean(region: Tensor) -> Tensor:
        total, shares = total_count(region.sum(), across_processes)
        return (per_pixel * region).sum() / (total.clamp(min=1) / shares)

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
    """Return the dense energy loss L_reg (Tang et al., ECCV 2018), gated as in public code.

    ``-1e-7 / N * sum_k sum_p gate_p S_kp (A S_k)_p`` with A the Gaussian kernel over position and
    color. Everything is first shrunk by ``scale`` (scores bilinearly, the rest to the nearest
    pixel) and ``sigma_xy`` with it. Scores outside the image's box are zero. The gate is 1 at
    unlabeled pixels and 1 minus the top score elsewhere, and is a constant to the gradient.

    The gradient is that of the value, ``gate A S + A^T (gate S)`` per pixel. The published code
    writes its backward pass by hand as ``2 gate A S``, the same only where the gate is uniform and
    A symmetric, which the lattice is but roughly.

    Args:
        images: ``[N, 3, H, W]`` RGB in 0..255.
        probs: ``[N, K, H, W]`` softmax scores.
        boxes: ``[N, 4]`` integers (y0, y1, x0, x1), the image inside the padded view.
        labels: ``[N, H, W]`` pseudo labels.
        sigma_rgb: width of the kernel in color, in 0..255.
        sigma_xy: width of the kernel in position, in pixels of the full-size view.
        scale: fraction of the side length to which everything is shrunk.
        method: form of the Gaussian sum, see ``dalnet.layers.bilateral_filter``.
        ignore: label of the unlabeled pixels.

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
    probs = resize(probs, size)  # [N, K, h, w]
    # [N, 1, h, w]: a labeled pixel counts the less the surer its score is.
    gate = (1 - probs.detach().amax(dim=1, keepdim=True)).masked_fill(labels == ignore, 1.0)
    probs = probs * inside
    filtered = bilateral_filter(images, probs, sigma_rgb, sigma_xy * scale, method=method)
    return -_ENERGY_UNIT / max(len(probs), 1) * (gate * probs * filtered).sum()
