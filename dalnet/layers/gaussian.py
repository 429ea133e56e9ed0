# SPDX-License-Identifier: Apache-2.0
"""The exact sum over all pairs of points under a Gaussian kernel, in linear memory."""

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx, once_differentiable

# Kernel entries held at a time by the tiled sum: what a CPU's cache holds, or what keeps a GPU
# busy (192 MiB).
_TILE_ELEMENTS = {False: 1 << 18, True: 1 << 24}
# Denormal numbers slow a CPU down tenfold; exp(-60) is nothing beside the pixel's own 1.
_MIN_EXPONENT = -60.0


def gaussian_filter(features: Tensor, values: Tensor) -> Tensor:
    """Return ``out[n, k, i] = sum_j exp(-|f_ni - f_nj|^2 / 2) values[n, k, j]``, ``j = i`` too.

    Args:
        features: [N, P, 5], in standard deviations, of the values' dtype; treated as constants.
        values: [N, K, P], float32 or float64; differentiable.

    Returns:
        [N, K, P], of the values' dtype.
    """
    return _GaussianFilter.apply(values, features.detach())


class _GaussianFilter(torch.autograd.Function):
    """The kernel is symmetric, so the backward is the forward."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        return torch.ops.dalnet.gaussian_sum(features, values)

    @staticmethod
    @once_differentiable
    def backward(ctx: BackwardCFunction, grad: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        return torch.ops.dalnet.gaussian_sum(features, grad), None


def _tiled_sum(features: Tensor, values: Tensor) -> Tensor:
    """Compute the sums [N, K, P] on any device, a tile of the kernel's rows at a time."""
    num_points = features.shape[1]
    rows = max(1, _TILE_ELEMENTS[values.is_cuda] // num_points)
    sums = torch.empty_like(values, memory_format=torch.contiguous_format)
    # The exponent as one product, f_i.f_j - |f_i|^2/2 - |f_j|^2/2, in double precision: single
    # loses three digits to cancellation at small sigmas.
    features = features.double()
    half_square = -0.5 * features.square().sum(dim=2, keepdim=True)
    one = torch.ones_like(half_square)
    left = torch.cat([features, half_square, one], dim=2)  # [N, P, 7]
    right = torch.cat([features, one, half_square], dim=2).transpose(1, 2)  # [N, 7, P]
    for image_left, image_right, source, target in zip(
        left, right, values.transpose(1, 2), sums.transpose(1, 2), strict=True
    ):
        for start in range(0, num_points, rows):
            kernel = (image_left[start : start + rows] @ image_right).to(values.dtype)
            kernel.clamp_(min=_MIN_EXPONENT).exp_()
            # Autocast lowers neither float64 nor a product with `out`: no half precision here.
            torch.mm(kernel, source, out=target[start : start + rows])
    return sums


def _cuda_sum(features: Tensor, values: Tensor) -> Tensor:
    fused_sum = _fused_sum() if values.dtype == torch.float32 else None
    return (fused_sum or _tiled_sum)(features, values)


@functools.cache
def _fused_sum() -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return the Triton kernel, or None where it cannot be had."""
    try:
        from dalnet.layers.gaussian_triton import gaussian_sum

        # Triton also needs a C compiler and a GPU that it knows: see whether it builds.
        gaussian_sum(torch.zeros(1, 1, 5, device="cuda"), torch.zeros(1, 1, 1, device="cuda"))
    except Exception as error:
        warnings.warn(
            f"the exact Gaussian filter runs several times slower than it could, as its Triton "
            f"kernel is not available: {error!r}",
            stacklevel=2,
        )
        return None
    return gaussian_sum


# One operator for all devices, so that torch.compile and fake tensors need not look inside.
_LIBRARY = torch.library.Library("dalnet", "FRAGMENT")
_LIBRARY.define("gaussian_sum(Tensor features, Tensor values) -> Tensor")
_LIBRARY.impl("gaussian_sum", _tiled_sum, "CompositeExplicitAutograd")
_LIBRARY.impl("gaussian_sum", _cuda_sum, "CUDA")
_LIBRARY.impl("gaussian_sum", lambda features, values: values.new_empty(values.shape), "Meta")
