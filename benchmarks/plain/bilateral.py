# SPDX-License-Identifier: Apache-2.0
"""The bilateral filter by its definition, and on the lattice published with the dense CRF."""

import numpy as np
import torch
from torch import Tensor

# Pairs of pixels held at a time: 32 MiB in double precision, where all pairs would be gigabytes.
_TILE_PAIRS = 1 << 22


def features_of(image: Tensor, sigma_rgb: float, sigma_xy: float) -> Tensor:
    """[HW, 5], x and y first, of one image [3, H, W], in standard deviations."""
    _, height, width = image.shape
    like = {"dtype": image.dtype, "device": image.device}
    y = torch.arange(height, **like).view(-1, 1).expand(height, width)
    x = torch.arange(width, **like).view(1, -1).expand(height, width)
    planes = torch.stack([x / sigma_xy, y / sigma_xy, *(image / sigma_rgb)])
    return planes.flatten(1).T.contiguous()


def gaussian_sum(images: Tensor, values: Tensor, sigma_rgb: float, sigma_xy: float) -> Tensor:
    """Exact sum over all pairs of pixels, in double precision.

    Args:
        images: [N, 3, H, W] in 0..255.
        values: [N, K, H, W].
        sigma_rgb, sigma_xy: standard deviations, in gray levels and pixels.

    Returns:
        [N, K, H, W], float64.
    """
    results = []
    for image, maps in zip(images.double(), values.double(), strict=True):
        features = features_of(image, sigma_rgb, sigma_xy)
        points = maps.flatten(1).T
        tiles = []
        for tile in features.split(max(1, _TILE_PAIRS // len(features))):
            # By differences: the product form would cancel digits. And not by torch.cdist, which
            # on a GPU starts a block of threads for each pair.
            squares = sum(
                (tile[:, i, None] - features[:, i]).square_() for i in range(features.shape[1])
            )
            tiles.append(squares.mul_(-0.5).exp_() @ points)
        results.append(torch.cat(tiles).T.view_as(maps))
    return torch.stack(results)


def published_lattice(
    images: Tensor, values: Tensor, sigma_rgb: float, sigma_xy: float, bounds: list[float]
) -> Tensor:
    """The lattice of pydensecrf, on one core, building it included.

    One mean-field step multiplies each class by exp(weight x filtered). The odds against one more
    class, which has no mass and is filtered to 0, therefore are the filtered values. That costs
    the lattice a channel more, and pydensecrf filters a constant too when it builds.

    Args:
        images: [N, 3, H, W] in 0..255.
        values: [N, K, H, W], positive, with the sum 1 over K.
        sigma_rgb, sigma_xy: standard deviations, in gray levels and pixels.
        bounds: for each image about the largest filtered value of a constant 1: the weight that
            keeps the odds inside single precision.

    Returns:
        [N, K, H, W], float32, on the CPU.
    """
    batch = zip(images.float().cpu(), values.float().cpu(), bounds, strict=True)
    results = [
        filter_points(features_of(image, sigma_rgb, sigma_xy), maps.flatten(1), 20.0 / bound)
        for image, maps, bound in batch
    ]
    return torch.stack(results).view(values.shape)


def filter_points(features: Tensor, values: Tensor, weight: float) -> Tensor:
    """[K, P] from features [P, d] and values [K, P]."""
    from pydensecrf import densecrf  # optional

    num_classes, num_points = values.shape
    unary = np.full((num_classes + 1, num_points), 50.0, np.float32)
    unary[:-1] = -values.log().numpy()
    crf = densecrf.DenseCRF(num_points, num_classes + 1)
    crf.setUnaryEnergy(unary)
    crf.addPairwiseEnergy(
        np.ascontiguousarray(features.T.numpy()),
        compat=weight,
        kernel=densecrf.CONST_KERNEL,
        normalization=densecrf.NO_NORMALIZATION,
    )
    scores = np.log(np.array(crf.inference(1))) + unary
    return torch.from_numpy((scores[:-1] - scores[-1]) / np.float32(weight))
