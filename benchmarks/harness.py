# SPDX-License-Identifier: Apache-2.0
"""One case: ours against the plain transcription, their time, peak memory and difference."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory import cpu_peak_mb, cuda_peak_mb

FIELDS = (
    *("name", "device", "ours_s", "plain_s", "ratio"),
    *("ours_peak_mb", "plain_peak_mb", "error"),
)
_FORMS = ("ours", "plain")
# What takes longer than this is run twice in all.
_SLOW_S = 5.0
# What pip calls the modules that a plain form may need.
_PACKAGES = {"pydensecrf": "pydensecrf2"}


def relative_l2(ours: Any, plain: Any) -> float:
    """Norm of the difference over the norm of the plain result, tuples taken as one vector."""
    got, expected = _vector(ours), _vector(plain)
    return ((got - expected).norm() / expected.norm()).item()


def differing_share(ours: Tensor, plain: Tensor) -> float:
    """Share of entries that differ, of label maps."""
    return (ours != plain.to(ours.device)).double().mean().item()


def _vector(result: Any) -> Tensor:
    parts = (result,) if isinstance(result, Tensor) else result
    return torch.cat([part.detach().double().cpu().flatten() for part in parts])


@dataclass(frozen=True)
class Pair:
    """The two forms on the same inputs, and ``error(ours(), plain())``."""

    ours: Callable[[], Any]
    plain: Callable[[], Any]
    error: Callable[[Any, Any], float] = relative_l2


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: key of the row, with the device.
        make: ``(device, small) -> Pair``; a function of a module, since it travels to the
            processes that measure memory. What it computes itself is neither timed nor counted.
        devices: where the case makes sense.
        threads: of PyTorch on the CPU, where the plain form has only so many; None for all.
        needs: optional module without which the plain form cannot run.
    """

    name: str
    make: Callable[[str, bool], Pair]
    devices: Sequence[str] = ("cpu", "cuda")
    threads: int | None = None
    needs: str = ""


def obstacle(case: Case, device: str) -> str:
    """Why the case cannot run here; empty if it can."""
    if device == "cuda" and not torch.cuda.is_available():
        return "not run (no CUDA device)"
    if case.needs and find_spec(case.needs) is None:
        return f"not run (pip install {_PACKAGES[case.needs]})"
    return ""


def empty_row(case: Case, device: str) -> dict[str, Any]:
    """The row of a case that was not run."""
    return {**dict.fromkeys(FIELDS), "name": case.name, "device": device}


def run_case(case: Case, device: str, small: bool, repeats: int) -> dict[str, Any]:
    """Measure ``case`` on ``device``; returns its row."""
    with _threads(case.threads):
        pair = case.make(device, small)
        seconds, error = _times(pair, device, repeats)
        if device == "cuda":
            peaks = [cuda_peak_mb(getattr(pair, form)) for form in _FORMS]
    if device != "cuda":
        del pair
        peaks = [
            cpu_peak_mb(partial(_build, case, form, small), partial(_build, case, form, True))
            for form in _FORMS
        ]
    ours, plain = seconds
    values = (case.name, device, ours, plain, plain / ours, *peaks, error)
    return dict(zip(FIELDS, values, strict=True))


def timed(call: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds of one call, and its result."""
    _wait(device)
    start = time.perf_counter()
    result = call()
    _wait(device)
    return time.perf_counter() - start, result


def best_seconds(
    calls: Sequence[Callable[[], Any]], first: Sequence[float], device: str, repeats: int
) -> list[float]:
    """Shortest time of each warm call: in turn, so that a busy machine hits all alike.

    ``first`` are the seconds of the warming runs. A call that took over 5 s hardly warms up: that
    run counts, and one more is made.
    """
    seconds = list(first)
    slow = {i for i, taken in enumerate(first) if taken > _SLOW_S}
    for number in range(repeats):
        for i, call in enumerate(calls):
            if i in slow and number > 0:
                continue
            taken, _ = timed(call, device)
            is_warm = i in slow or number > 0
            seconds[i] = min(seconds[i], taken) if is_warm else taken
    return seconds


def _times(pair: Pair, device: str, repeats: int) -> tuple[list[float], float]:
    """Seconds of ours and plain, and their difference, which the warming runs give."""
    calls = [getattr(pair, form) for form in _FORMS]
    first, results = zip(*(timed(call, device) for call in calls), strict=True)
    error = pair.error(*results)
    del results
    return best_seconds(calls, first, device, repeats), error


def _build(case: Case, form: str, small: bool) -> Callable[[], Any]:
    if case.threads is not None:
        torch.set_num_threads(case.threads)
    return getattr(case.make("cpu", small), form)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
