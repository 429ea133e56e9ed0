# SPDX-License-Identifier: Apache-2.0
"""Errors that say that memory ran out are told from others."""

import pytest
import torch

from dalnet.modeling.memory import is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_ran_out(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes do not fit the memory format"), ValueError("DefaultCPUAllocator")],
)
def test_other_errors(error):
    assert not is_out_of_memory(error)
