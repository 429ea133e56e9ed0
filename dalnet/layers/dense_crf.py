# SPDX-License-Identifier: Apache-2.0
"""Mean-field inference in a fully connected CRF, without compiled extensions.

P. Kraehenbuehl, V. Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NeurIPS 2011.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dalnet.layers.bilateral import pixel_features, pixel_positions
from dalnet.layers.permutohedral import PermutohedralLattice

# Keeps the unary energy of an impossible class finite.
MIN_PROB = 1e-5


@torch.no_grad()
def dense_crf(
    images: Tensor,
    probs: Tensor,
    iters: int = 10,
    pos_w: float = 1.0,
    pos_xy_std: float = 1.0,
    bi_w: float = 4.0,
    bi_xy_std: float = 121.0,
    bi_rgb_std: float = 5.0,
) -> Tensor:
    """Refine class probabilities by a CRF whose pairs are all pixels (Eq. 3 and Algorithm 1).

    Potts compatibility; an appearance kernel over (x, y, r, g, b) and a smoothness kernel over
    (x, y), each normalised symmetrically. Not differentiable.

    Args:
        images: uint8 [N, H, W, 3], RGB.
        probs: [N, K, H, W], class probabilities in 0..1.
        iters: mean-field updates; 0 gives back the clipped and renormalised ``probs``.
        pos_w: weight of the smoothness kernel.
        pos_xy_std: its standard deviation, in pixels.
        bi_w: weight of the appearance kernel.
        bi_xy_std: its standard deviation in position, in pixels.
        bi_rgb_std: its standard deviation in colour, in 0..255.

    Returns:
        [N, K, H, W] float32, the marginals; they sum to 1 over the classes.

    Raises:
        ValueError: shapes or dtypes that differ from the above, a standard deviation that is not
            positive.
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[3] != 3:
        raise ValueError(
            f"images must be uint8 [N, H, W, 3], got {images.dtype} {tuple(images.shape)}"
        )
    if probs.dim() != 4 or (len(probs), *probs.shape[2:]) != images.shape[:3]:
        raise ValueError(
            "probs [N, K, H, W] must have the number and size of the images [N, H, W, 3], "
            f"got {tuple(probs.shape)} for images {tuple(images.shape)}"
        )
    pixels = images.permute(0, 3, 1, 2).float()
    log_probs = probs.float().clamp(MIN_PROB, 1.0).log().flatten(2).transpose(1, 2)
    marginals = torch.empty_like(log_probs)
    group = max(1, len(images)) if _infer_together(pixels) else 1
    # Positions are the same in every image, so their lattice is built once.
    positions = pixel_positions(pixels, pos_xy_std).expand(group, -1, -1)
    smoothness = _normalised_kernel(positions)
    for start in range(0, len(images), group):
        chosen = slice(start, start + group)
        unary = log_probs[chosen]
        appearance = _normalised_kernel(pixel_features(pixels[chosen], bi_xy_std, bi_rgb_std))
        q = unary.softmax(dim=2)
        for _ in range(iters):
            energy = torch.add(unary, smoothness(q), alpha=pos_w)
            q = energy.add_(appearance(q), alpha=bi_w).softmax(dim=2)
        marginals[chosen] = q
    return marginals.transpose(1, 2).reshape(probs.shape)


def _infer_together(pixels: Tensor) -> bool:
    """Whether to take all images of a batch at once, which changes the speed alone."""
    # A GPU launches fewer kernels then; a CPU's cache hardly holds one image.
    return pixels.is_cuda


def _normalised_kernel(features: Tensor) -> Callable[[Tensor], Tensor]:
    """The Gaussian filter on features [N, P, d], each side divided by the root of its row sums."""
    # Many filterings repay the wait for a table as short as it can be.
    lattice = PermutohedralLattice(features, compact=True)
    row_sums = lattice.filter(torch.ones_like(features[:, :, :1]))
    scale = (row_sums + 1e-20).rsqrt()
    return lambda values: lattice.filter(scale * values).mul_(scale)
