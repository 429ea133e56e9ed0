# SPDX-License-Identifier: Apache-2.0
"""The dense energy loss as its public code computes it (M. Tang et al., ECCV 2018)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain.bilateral import published_lattice


class _Energy(torch.autograd.Function):
    """``-sum gate S (A S) / N`` with the hand-written gradient ``-2 gate (A S) / N``."""

    @staticmethod
    def forward(ctx, images, probs, gate, sigma_rgb, sigma_xy, bounds):
        filtered = published_lattice(images, probs, sigma_rgb, sigma_xy, bounds).to(probs.device)
        gated = filtered * gate
        ctx.save_for_backward(gated)
        return -(probs * gated).sum() / len(probs)

    @staticmethod
    def backward(ctx, grad):
        (gated,) = ctx.saved_tensors
        return None, -2 * grad * gated / len(gated), None, None, None, None


def published_dense_energy(
    images: Tensor,
    probs: Tensor,
    labels: Tensor,
    bounds: list[float],
    sigma_rgb: float = 15.0,
    sigma_xy: float = 100.0,
    scale: float = 0.5,
    ignore: int = 255,
) -> Tensor:
    """Return the dense energy of images without padding, a scalar.

    Args:
        images: [N, 3, H, W] in 0..255.
        probs: [N, K, H, W], with the sum 1 over K.
        labels: [N, H, W].
        bounds: of the shrunk images, see :func:`published_lattice`.
        sigma_rgb, sigma_xy: standard deviations, in gray levels and pixels at full size.
        scale: fraction of the side to which everything is shrunk.
        ignore: label of unlabeled pixels.
    """
    images = F.interpolate(images, scale_factor=scale)
    probs = F.interpolate(probs, scale_factor=scale, mode="bilinear", align_corners=False)
    labels = F.interpolate(labels[:, None].float(), scale_factor=scale)
    gate = 1 - probs.detach().amax(dim=1, keepdim=True)
    gate[labels == ignore] = 1
    return 1e-7 * _Energy.apply(images, probs, gate, sigma_rgb, sigma_xy * scale, bounds)
