# SPDX-License-Identifier: Apache-2.0
"""Peak memory of one call: on the CPU in a fresh process of its own, on CUDA in this one."""

import contextlib
import gc
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

Call = Callable[[], object]


def cpu_peak_mb(build: Callable[[], Call], warm: Callable[[], Call] | None = None) -> float | None:
    """Peak resident memory of a call above what its inputs take, in MB.

    Args:
        build: makes the inputs and returns the call; both run in a new process, so it must pickle.
        warm: the same at a tiny size. Run first, so that libraries loaded by the first call are
            not counted.

    Returns:
        None where the system has no resettable peak (Linux has) or killed the process.
    """
    spawn = multiprocessing.get_context("spawn")
    with _freed_blocks_return(), ProcessPoolExecutor(1, mp_context=spawn) as pool:
        try:
            return pool.submit(_measure, build, warm).result()
        except BrokenProcessPool:
            return None


def cuda_peak_mb(call: Call) -> float:
    """Peak CUDA memory of a call above what was allocated before it, in MB."""
    import torch  # not above: the fresh processes need it only if their call does

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


@contextlib.contextmanager
def _freed_blocks_return() -> Iterator[None]:
    """Children's freed blocks go back to the system at once, and are not counted twice."""
    name = "MALLOC_MMAP_THRESHOLD_"
    before = os.environ.get(name)
    os.environ[name] = "65536"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _measure(build: Callable[[], Call], warm: Callable[[], Call] | None) -> float | None:
    if warm is not None:
        warm()()
    call = build()
    gc.collect()
    try:
        # Resets the peak of the resident set: proc(5).
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_kb("VmRSS")
    except OSError:
        return None
    call()
    # Pages given back in the meantime may leave the peak a little below the start.
    return max(_status_kb("VmHWM") - before, 0) * 1.024e-3


def _status_kb(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{field}:\s*(\d+) kB", status, re.MULTILINE)[1])
