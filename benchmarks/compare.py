# SPDX-License-Identifier: Apache-2.0
"""One case: ours against the plain transcription, in time, peak memory and result."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

Row = dict[str, Any]
# A call that takes longer than this hardly gets quicker by warming up: its first run counts.
_SLOW_S = 5.0


def relative_l2(ours: Any, plain: Any) -> float:
    """Norm of the difference over the norm of the plain result, tuples taken as one vector."""
    got, expected = _vector(ours), _vector(plain)
    return ((got - expected).norm() / expected.norm()).item()


def differing_fraction(ours: Tensor, plain: Tensor) -> float:
    """Fraction of the entries of two label maps that differ."""
    return (ours != plain.to(ours.device)).double().mean().item()


def _vector(result: Any) -> Tensor:
    parts = (result,) if isinstance(result, Tensor) else result
    return torch.cat([part.detach().double().cpu().flatten() for part in parts])


@dataclass(frozen=True)
class Pair:
    """The two forms on the same inputs.

    Attributes:
        ours: returns what dalnet computes.
        plain: returns what the transcription computes.
        error: ``error(ours(), plain())``.
        plain_fraction: how much of the work ``plain`` does; its time is divided by that.
    """

    ours: Callable[[], Any]
    plain: Callable[[], Any]
    error: Callable[[Any, Any], float] = relative_l2
    plain_fraction: float = 1.0


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: of its row.
        make: ``(device, tiny) -> Pair``; what it computes itself is neither timed nor counted.
        devices: where the case makes sense.
        threads: of PyTorch on the CPU, where the plain form has only so many; None for all.
        by_pydensecrf: the plain form runs there, outside PyTorch, so that its memory is not seen.
    """

    name: str
    make: Callable[[str, bool], Pair]
    devices: Sequence[str] = ("cpu", "cuda")
    threads: int | None = None
    by_pydensecrf: bool = False


def compare(case: Case, device: str, tiny: bool) -> Row:
    """Run both forms of ``case`` on ``device`` and return the row of figures.

    Raises:
        ImportError: the plain form needs pydensecrf, which is not installed.
    """
    if case.by_pydensecrf and find_spec("pydensecrf") is None:
        raise ImportError("not run: pip install pydensecrf2")
    before = torch.get_num_threads()
    torch.set_num_threads(case.threads or before)
    try:
        pair = case.make(device, tiny)
        if device == "cuda":
            # Or the first run would be that of Triton's compiler and CUDA's libraries.
            for form in (pair.ours, *(() if case.by_pydensecrf else (pair.plain,))):
                form()
        ours_s, ours = _first_run(pair.ours)
        plain_s, plain = _first_run(pair.plain)
        error = pair.error(ours, plain)
        del ours, plain
        ours_s = ours_s if ours_s > _SLOW_S else seconds(pair.ours)
        plain_s = plain_s if plain_s > _SLOW_S else seconds(pair.plain)
        plain_s /= pair.plain_fraction
        return {
            "name": case.name,
            "device": device,
            "seconds": ours_s,
            "peak_mb": peak_mb(pair.ours, device),
            "error": error,
            "plain_seconds": plain_s,
            "plain_peak_mb": None if case.by_pydensecrf else peak_mb(pair.plain, device),
            "ratio": plain_s / ours_s,
        }
    finally:
        torch.set_num_threads(before)


def seconds(call: Callable[[], Any], least: float = 0.5) -> float:
    """Return the median time of one call, over at least ``least`` seconds; a GPU is waited for."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=least).median


def peak_mb(call: Callable[[], Any], device: str) -> float:
    """Return the peak of the memory that PyTorch allocates in ``call``, above what was in use."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    cpu = [ProfilerActivity.CPU]
    with profile(activities=cpu, profile_memory=True, acc_events=True) as profiler:
        call()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    in_use = torch.tensor([0, *(nbytes for _, nbytes in changes)]).cumsum(0)
    return in_use.max().item() / 1e6


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _first_run(call: Callable[[], Any]) -> tuple[float, Any]:
    synchronize()
    start = time.perf_counter()
    result = call()
    synchronize()
    return time.perf_counter() - start, result
