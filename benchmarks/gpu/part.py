# SPDX-License-Identifier: Apache-2.0
"""One part in a process of its own, which a crash, a hang or an error on the GPU cannot leave.

The process takes the measurements of one module in turn. What raises becomes a row that says so,
and the next one follows; what has not begun when the time is up is named as not run.
"""

import gc
import importlib
import json
import math
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.compare import Row
from benchmarks.gpu.report import Report


@dataclass(frozen=True)
class Setting:
    """What a part is to measure, and until when.

    Attributes:
        device: "cuda" or "cpu".
        tiny: take sizes that only show that every line runs.
        pack: the folder of ``python -m benchmarks.gpu pack``, which may be missing.
        until: end of the part, in seconds of ``time.time()``.
    """

    device: str
    tiny: bool
    pack: Path
    until: float

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.until - time.time()


class Measurement(NamedTuple):
    """One row in the making: its name, what computes its figures, and at most how many seconds."""

    name: str
    run: Callable[[], Row]
    limit: float = math.inf


class NotRun(Exception):
    """What is missing here for a measurement."""


def run_part(part: str, module: str, setting: Setting, report: Report) -> None:
    """Add the rows of ``module.measurements(setting)`` to ``report`` one by one."""
    try:
        for measurement in importlib.import_module(module).measurements(setting):
            report.add(part, _row(measurement, setting.left()))
    except Exception as error:
        # Between two measurements: those that would have followed are not known.
        report.add(part, {"name": "the rest", "failed": _last_line(error)})


def _row(measurement: Measurement, left: float) -> Row:
    if left <= 0:
        return {"name": measurement.name, "not_run": "the time was up"}
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    try:
        with _alarm(min(left, measurement.limit)):
            figures = measurement.run()
        peak = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None
        figures = {"peak_mb": peak, **figures}
    except NotRun as reason:
        figures = {"not_run": str(reason)}
    except Exception as error:
        taken = time.perf_counter() - start
        # Whatever the alarm's exception has become on its way through the compiler.
        late = taken >= min(left, measurement.limit)
        line = _last_line(error)
        figures = {"not_run": f"stopped after {taken:.0f} s"} if late else {"failed": line}
    took = time.perf_counter() - start
    print(f"  {measurement.name}: {took:.1f} s", flush=True)
    return {"seconds": took, **figures, "name": measurement.name, "took_seconds": took}


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise :class:`TimeoutError` in the block once ``seconds`` have passed."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    # Again and again, since the compiler may take the first exception for one of its own.
    signal.setitimer(signal.ITIMER_REAL, seconds, 3.0)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _last_line(error: Exception) -> str:
    """Print the traceback, and return its last line with the place that raised."""
    traceback.print_exception(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    sentence, *_ = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {sentence} ({Path(frame.filename).name}:{frame.lineno})"


def main(argv: Sequence[str]) -> None:
    """Run the part that the one argument describes: :func:`run_part`'s arguments as JSON."""
    job = json.loads(argv[0])
    # Full single precision wherever float32 is asked for.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = "cpu"
    if torch.cuda.is_available():
        device = "cuda"
        torch.cuda.init()  # which the statistics of its memory need
    setting = Setting(device, job["tiny"], Path(job["pack"]), job["until"])
    run_part(job["part"], job["module"], setting, Report(Path(job["output"])))
