# SPDX-License-Identifier: Apache-2.0
"""What happens inside a training step: where the host waits, and where the time goes."""

import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.compare import Row, synchronize
from benchmarks.network import LABEL

_ROOT = Path(__file__).resolve().parents[2]
# What PyTorch says in its synchronization debug mode, and CUDA's calls that wait.
_WAITED = "called a synchronizing CUDA operation"
_WAITING_CALLS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy")
_OPERATORS = 20


class HostWaits:
    """Counts the operations in a ``with`` block for which the host waits for the GPU.

    Attributes:
        lines: how often, by the innermost line of this repository that led there.
    """

    def __init__(self) -> None:
        self.lines: Counter[str] = Counter()
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> "HostWaits":
        synchronize()
        self._caught.__enter__()
        warnings.simplefilter("always")
        warnings.showwarning = self._note
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("warn")
        return self

    def __exit__(self, *_: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")
        self._caught.__exit__(None, None, None)

    def _note(self, message: Warning | str, *_: object, **__: object) -> None:
        if _WAITED not in str(message):
            return
        for frame in reversed(traceback.extract_stack()):
            path = Path(frame.filename)
            if path.is_relative_to(_ROOT) and path != Path(__file__):
                self.lines[f"{path.relative_to(_ROOT)}:{frame.lineno}"] += 1
                return
        self.lines["elsewhere"] += 1


def profile_step(step: Callable[[], object], model: nn.Module, device: str) -> Row:
    """Profile one step, which should be warm.

    Returns:
        Its seconds under the profiler, which slows it down; number and milliseconds of the GPU's
        kernels; calls that wait; the milliseconds of each stage and of each of the model's parts,
        and the operators that take longest, with calls and milliseconds: on a GPU in kernels, else
        in wall time.
    """
    on_gpu = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with _labeled_parts(model), profile(activities=activities, acc_events=True) as profiler:
        start = time.perf_counter()
        step()
        synchronize()
        taken_ms = 1e3 * (time.perf_counter() - start)
    events = profiler.events()
    kernels = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    kernels_ms = sum(kernel.time_range.elapsed_us() for kernel in kernels) / 1e3
    parts: Counter[str] = Counter()
    for event in events:
        if event.name.startswith(LABEL) and event.device_type == DeviceType.CPU:
            took_us = event.device_time_total if on_gpu else event.cpu_time_total
            parts[event.name.removeprefix(LABEL)] += took_us / 1e3
    # Autograd launches the backward kernels from a thread of its own: they are what is left.
    forward_ms, optimizer_ms = parts["forward pass"], parts["AdamW"]
    parts["backward pass"] = (kernels_ms if on_gpu else taken_ms) - forward_ms - optimizer_ms
    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    averages = [e for e in profiler.key_averages() if e.device_type == DeviceType.CPU]
    averages.sort(key=lambda average: getattr(average, own), reverse=True)
    return {
        "seconds": taken_ms / 1e3,
        "kernels": len(kernels),
        "kernels_ms": kernels_ms if on_gpu else None,
        "calls_that_wait": sum(event.name in _WAITING_CALLS for event in events),
        "parts_ms": dict(parts.most_common()),
        "operators": [[e.key, e.count, getattr(e, own) / 1e3] for e in averages[:_OPERATORS]],
    }


@contextmanager
def _labeled_parts(model: nn.Module) -> Iterator[None]:
    """Let the profiler see the calls of the model's parts by name, apart without gradient."""
    open_labels: list[record_function] = []

    def begin(name: str, *_: object) -> None:
        kind = "" if torch.is_grad_enabled() else ", no gradient"
        open_labels.append(record_function(f"{LABEL}{name}{kind}"))
        open_labels[-1].__enter__()

    def end(*_: object) -> None:
        open_labels.pop().__exit__(None, None, None)

    hooks = []
    for name, part in model.named_children():
        hooks.append(part.register_forward_pre_hook(partial(begin, name)))
        hooks.append(part.register_forward_hook(end))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
