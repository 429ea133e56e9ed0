# SPDX-License-Identifier: Apache-2.0
"""Counts over all processes, of what a batch happens to hold: pairs, pixels, views with a class."""

import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor


def total_count(count: Tensor, across_processes: bool) -> tuple[Tensor, int]:
    """Return a count over all processes and their number; or ``count`` and 1, of this one alone.

    A loss S / n of one process becomes S / (total / processes): the mean of these over the
    processes, which DistributedDataParallel takes of their gradients, is the sum over all
    processes divided by the total. Counts have no gradient, so that they alone are exchanged.

    Args:
        count: a scalar, which is exchanged if there are several processes.
        across_processes: whether it is.
    """
    processes = comm.get_world_size()
    if not across_processes or processes == 1:
        return count, 1
    total = count.detach().clone()
    dist.all_reduce(total)
    return total, processes
