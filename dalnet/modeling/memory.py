# SPDX-License-Identifier: Apache-2.0
"""Recognize errors of full memory, and return the memory of a GPU."""

import torch

# What PyTorch says where a GPU is so full that not even CUDA or cuBLAS itself can start on it.
_FULL_GPU = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the CPU or a GPU is out of memory."""
    # PyTorch has no exception class for the CPU's memory: the message tells.
    is_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return is_cpu or isinstance(error, MemoryError) or is_gpu_full(error)


def is_gpu_full(error: BaseException) -> bool:
    """Return whether an error means that a GPU is out of memory."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _FULL_GPU)


def gpu_memory() -> float | None:
    """Return the memory of the first GPU in GiB; None without one."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory / 2**30
