# SPDX-License-Identifier: Apache-2.0
"""The unnormalized bilateral filter of the dense energy loss, approximate or exact.

M. Tang et al., "On Regularized Losses for Weakly-supervised CNN Segmentation", ECCV 2018.
"""

import torch
from torch import Tensor

from dalnet.layers.gaussian import gaussian_filter
from dalnet.layers.permutohedral import PermutohedralLattice


def bilateral_filter(
    images: Tensor,
    values: Tensor,
    sigma_rgb: float,
    sigma_xy: float,
    method: str = "lattice",
) -> Tensor:
    """Return for each pixel the sum over all pixels (itself too) of kernel x value.

    The kernel is ``exp(-d^2 / 2)`` with ``d^2 = |dxy|^2 / sigma_xy^2 + |drgb|^2 / sigma_rgb^2``.

    Args:
        images: [N, 3, H, W], RGB in 0..255, any dtype; treated as a constant.
        values: [N, K, H, W]; differentiable. float16 and bfloat16 are filtered in float32, since
            the sums outgrow their range.
        sigma_rgb: standard deviation in color, in units of the images.
        sigma_xy: standard deviation in position, in pixels.
        method: ``"lattice"``, the permutohedral approximation as published (Adams et al. 2010):
            linear time, but on natural images about half of the exact sum; or ``"exact"``:
            quadratic time, linear memory. On a GPU the host waits for neither.

    Returns:
        [N, K, H, W], float32, or float64 for float64 values.

    Raises:
        ValueError: unknown ``method``, sizes that differ, or a standard deviation that is not
            positive.
    """
    if method not in ("lattice", "exact"):
        raise ValueError(f'bilateral filter {method!r}: choose "lattice" (as published) or "exact"')
    if values.dim() != 4 or values.shape[0] != len(images) or values.shape[2:] != images.shape[2:]:
        raise ValueError(
            "values [N, K, H, W] must have the number and size of the images [N, 3, H, W], "
            f"got {tuple(values.shape)} for images {tuple(images.shape)}"
        )
    points = values.flatten(2)  # [N, K, HW]
    if points.dtype != torch.float64:
        points = points.float()
    features = pixel_features(images.to(points.dtype), sigma_xy, sigma_rgb)
    if not values.numel():
        return values
    if method == "lattice":
        lattice = PermutohedralLattice(features)
        filtered = lattice.filter(points.transpose(1, 2)).transpose(1, 2)
    else:
        filtered = gaussian_filter(features, points)
    return filtered.reshape(values.shape)


def pixel_features(images: Tensor, xy_std: float, rgb_std: float | None = None) -> Tensor:
    """Return the features of all pixels, row by row, in standard deviations.

    Args:
        images: [N, 3, H, W] of floats; their dtype is that of the features.
        xy_std: standard deviation in position, in pixels.
        rgb_std: standard deviation in color, in units of the images; None leaves color out.

    Returns:
        [N, HW, 5] with (x, y, r, g, b), or [N, HW, 2] with (x, y).

    Raises:
        ValueError: not three channels, or a standard deviation that is not positive.
    """
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be RGB [N, 3, H, W], got {tuple(images.shape)}")
    for name, std in (("position", xy_std), ("color", rgb_std)):
        if std is not None and not std > 0:
            raise ValueError(f"the {name} standard deviation must be positive, got {std}")
    rows, columns = (
        torch.arange(size, dtype=images.dtype, device=images.device) for size in images.shape[2:]
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    positions = torch.stack([x.flatten(), y.flatten()], dim=1)[None] / xy_std
    positions = positions.expand(len(images), -1, -1)
    if rgb_std is None:
        return positions
    colors = images.detach().flatten(2).transpose(1, 2) / rgb_std
    return torch.cat([positions, colors], dim=2)
