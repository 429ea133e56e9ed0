# SPDX-License-Identifier: Apache-2.0
"""Tensors of all processes beside this one's own, with gradients."""

import torch
from detectron2.utils import comm
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows ``[M, ...]`` of every process, in their order: ``[M D, ...]``.

    The gradient of a row is the sum of those from all processes. With the mean over processes that
    DistributedDataParallel takes, it is the gradient of the mean of their losses.
    """
    if comm.get_world_size() == 1:
        return rows
    gathered = torch.cat(all_gather(rows.contiguous()))
    if gathered.requires_grad:
        # Gloo exchanges gradients as they lie in memory: transposed ones would be mixed up.
        gathered.register_hook(torch.Tensor.contiguous)
    return gathered


def own_rows(count: int, device: torch.device) -> Tensor:
    """Return where this process's ``count`` rows stand among the gathered ones, int64."""
    return torch.arange(count, device=device) + count * comm.get_rank()
