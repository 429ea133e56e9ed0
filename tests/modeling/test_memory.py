# SPDX-License-Identifier: Apache-2.0
"""Errors that say that memory ran out are told from others."""

import pytest
import torch

from dalnet.modeling.memory import is_gpu_full, is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_ran_out(error):
    assert is_out_of_memory(error)
    assert is_gpu_full(error) is ("CUDA" in str(error))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes do not fit the memory format"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        ValueError("DefaultCPUAllocator"),
    ],
)
def test_other_errors(error):
    assert not is_out_of_memory(error)
