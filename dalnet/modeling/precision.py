# SPDX-License-Identifier: Apache-2.0
"""Keep losses and similarities in full precision, and products in float32 quick on a CPU."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_DEAD_NORM = 1e-6  # below this length a vector has no direction
_LARGEST_ERROR = 1e-5  # of a product in float32, relative to the product's largest value


@functools.cache
def use_onednn_products() -> bool:
    """Let oneDNN multiply float32 matrices on a CPU where it keeps the digits of float32.

    MKL, PyTorch's default, leaves the 512-bit units of AMD's CPUs idle. PyTorch asks oneDNN only
    where lower precision is allowed, which oneDNN makes use of on CPUs with bfloat16 matrix units
    alone. So it is allowed, one product is compared with float64, and where digits are lost all is
    as before. A precision that the caller has chosen stays, and so does that of a GPU.

    Returns:
        Whether oneDNN multiplies.
    """
    if torch.cuda.is_available() or torch.get_float32_matmul_precision() != "highest":
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(512, 512, generator=generator) for _ in range(2))
    exact = first.double() @ second.double()
    torch.set_float32_matmul_precision("medium")
    is_exact = bool((first @ second - exact).abs().max() < _LARGEST_ERROR * exact.abs().max())
    if not is_exact:
        torch.set_float32_matmul_precision("highest")
    return is_exact


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return ``loss`` made to run outside autocast, half-precision arguments turned into float32.

    The device of its first tensor argument says which autocast is meant.
    """

    @functools.wraps(loss)
    def wrapper(*args: Any, **kwargs: Any) -> Tensor:
        first = next(a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        with torch.autocast(first.device.type, enabled=False):
            kwargs = {name: _at_least_float32(value) for name, value in kwargs.items()}
            return loss(*map(_at_least_float32, args), **kwargs)

    return wrapper


def _at_least_float32(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, torch.float32))
    return value


def unit_vectors(vectors: Tensor) -> Tensor:
    """Scale ``vectors [..., d]`` to length 1 along the last dimension.

    A vector shorter than 1e-6 has no direction: it becomes zero and gets a zero gradient, where a
    plain normalization would pass on one of size 1/eps.
    """
    dead = vectors.detach().norm(dim=-1, keepdim=True) < _DEAD_NORM
    return F.normalize(vectors.masked_fill(dead, 0.0), dim=-1)
