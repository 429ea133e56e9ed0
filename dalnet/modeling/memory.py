# SPDX-License-Identifier: Apache-2.0
"""Recognize errors of full memory, and return the memory of a GPU."""

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the CPU or a GPU is out of memory."""
    # PyTorch has no exception class for the CPU's memory: the message tells.
    known = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
    return known or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))


def gpu_memory() -> float | None:
    """Return the memory of the first GPU in GiB; None without one."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory / 2**30
