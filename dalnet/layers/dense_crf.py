# SPDX-License-Identifier: Apache-2.0
"""Mean-field inference in a fully connected CRF, without compiled extensions.

P. Kraehenbuehl, V. Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NeurIPS 2011.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dalnet.layers.bilateral import pixel_features
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
    (x, y), each normalized symmetrically. Not differentiable.

    Args:
        images: uint8 [N, H, W, 3], RGB.
        probs: [N, K, H, W], class probabilities in 0..1.
        iters: mean-field updates; 0 gives back the clipped and renormalized ``probs``.
        pos_w: weight of the smoothness kernel.
        pos_xy_std: its standard deviation, in pixels.
        bi_w: weight of the appearance kernel.
        bi_xy_std: its standard deviation in position, in pixels.
        bi_rgb_std: its standard deviation in color, in 0..255.

    Returns:
        [N, K, H, W] float32, the marginals; they sum to 1 over the classes.

    Raises:
        ValueError: shapes or dtypes that differ from the above, a standard deviation that is not
            positive.
    """
    shape, dtype = (len(probs), *probs.shape[2:], 3), images.dtype
    if images.shape != shape or probs.dim() != 4 or dtype != torch.uint8:
        raise ValueError(
            "images must be uint8 [N, H, W, 3] and probs [N, K, H, W] of the same number and size, "
            f"got {dtype} {tuple(images.shape)} and {tuple(probs.shape)}"
        )
    if not len(images):
        return probs.float()
    pixels = images.permute(0, 3, 1, 2).float()
    log_probs = probs.float().clamp(MIN_PROB, 1.0).log().flatten(2).transpose(1, 2)  # [N, HW, K]
    marginals = torch.empty_like(log_probs)
    at_a_time = _images_at_a_time(pixels)
    # Positions are the same in every image, so their lattice is built once.
    smoothness = _normalized_kernel(pixel_features(pixels[:at_a_time], pos_xy_std))
    for start in range(0, len(images), at_a_time):
        chosen = slice(start, start + at_a_time)
        unary = log_probs[chosen]
        appearance = _normalized_kernel(pixel_features(pixels[chosen], bi_xy_std, bi_rgb_std))
        q = unary.softmax(dim=2)
        for _ in range(iters):
            energy = torch.add(unary, smoothness(q), alpha=pos_w)
            q = energy.add_(appearance(q), alpha=bi_w).softmax(dim=2)
        marginals[chosen] = q
    return marginals.transpose(1, 2).reshape(probs.shape)


def _images_at_a_time(pixels: Tensor) -> int:
    """Return how many images are inferred together, which changes the speed alone."""
    # A GPU launches fewer kernels for all at once; a CPU's cache hardly holds one image.
    return len(pixels) if pixels.is_cuda else 1


def _normalized_kernel(features: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the Gaussian filter on features [N, P, d], over the root of its row sums each side."""
    # Waiting once for a table as short as can be pays off, because it is used many times.
    lattice = PermutohedralLattice(features, compact=True)
    row_sums = lattice.filter(torch.ones_like(features[:, :, :1]))
    scale = (row_sums + 1e-20).rsqrt()
    return lambda values: lattice.filter(scale * values).mul_(scale)
