# SPDX-License-Identifier: Apache-2.0
"""Compute losses and similarities in full precision, also under autocast."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_DEAD_NORM = 1e-6  # below this length a vector has no direction


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
