# SPDX-License-Identifier: Apache-2.0
"""Run a sweep's trainings as processes, some at a time; what is finished is never run again."""

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import torch

from dalnet.errors import UsageError

from .sweep_plan import Job, check_reference
from .sweep_results import JOB_FILE, LOG_FILE, check, claim, collect, load_result, progress
from .sweep_table import format_table, make_table, write_table


@dataclass(frozen=True)
class Settings:
    """How the trainings are run.

    Attributes:
        command: starts a training; gets ``--resume --config-file FILE`` as arguments.
        output: folder of the sweep.
        parallel: trainings at a time, at least 1.
        reference: the run that the table compares the others with.
        poll: seconds between looks at the processes.
        report: seconds between reports on how far they are.
        grace: seconds that an interrupted training has to end by itself.
    """

    command: Sequence[str]
    output: Path
    parallel: int = 1
    reference: str | None = None
    poll: float = 0.5
    report: float = 60.0
    grace: float = 20.0


def run_sweep(jobs: Sequence[Job], settings: Settings) -> None:
    """Train what is not finished yet, then print and write the table of everything.

    Raises:
        UsageError: trainings have failed, the sweep was interrupted, or its folder cannot be used.
    """
    if settings.parallel < 1:
        raise UsageError(f"--jobs is {settings.parallel}; at least 1 training has to run.")
    check_reference(jobs, settings.reference)
    with _lock(settings.output) as lock, _stop_request() as stop:
        runner = _Runner(jobs, settings, lock)
        try:
            while not stop and runner.step():
                time.sleep(settings.poll)
        finally:
            runner.end_all()
        report_table(jobs, settings.output, settings.reference)
        runner.raise_for_unfinished()


def report_table(jobs: Sequence[Job], output: Path, reference: str | None = None) -> None:
    """Print and write the table of what is finished.

    Args:
        jobs: of a sweep.
        output: folder of the sweep.
        reference: the run that the table compares the others with.

    Raises:
        UsageError: a folder of another training, no such ``reference``, or a file that cannot be
            read or written.
    """
    check_reference(jobs, reference)
    for job in jobs:
        check(job)
    table = make_table(jobs, reference)
    paths = write_table(table, output)
    print(f"\n{format_table(table)}\nwritten: {', '.join(map(str, paths))}", flush=True)


@dataclass(eq=False)
class _Training:
    """A running process; ``slot`` counts those that run at the same time from 0."""

    job: Job
    process: subprocess.Popen
    slot: int
    started: float = field(default_factory=time.monotonic)


class _Runner:
    """The jobs of a sweep: waiting, running, finished or failed."""

    def __init__(self, jobs: Sequence[Job], settings: Settings, lock: IO) -> None:
        self.settings, self.lock = settings, lock
        for job in jobs:
            check(job)
        self.finished = [job for job in jobs if load_result(job) is not None]
        self.waiting = [job for job in jobs if job not in self.finished]
        self.running: list[_Training] = []
        self.failed: list[tuple[Job, str]] = []
        self.gpus = _visible_gpus()
        self.next_report = time.monotonic() + settings.report
        _say(f"{len(self.finished)} of {len(jobs)} trainings were finished before.")

    def step(self) -> bool:
        """Take note of ended processes and start new ones; returns whether any is left."""
        for training in [t for t in self.running if t.process.poll() is not None]:
            self.running.remove(training)
            self._note_end(training)
        while self.waiting and len(self.running) < self.settings.parallel:
            self._start(self.waiting.pop(0))
        if self.running and time.monotonic() >= self.next_report:
            self.next_report = time.monotonic() + self.settings.report
            _say(self._describe())
        return bool(self.running)

    def end_all(self) -> None:
        """Interrupt what runs, wait, and kill what does not end; nothing in normal operation."""
        if self.running:
            _say(f"ending {', '.join(str(training.job) for training in self.running)}")
        for training in self.running:
            # Python unwinds on SIGINT and so removes half-written files; SIGTERM would leave them.
            training.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + self.settings.grace
        for training in self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                training.process.wait(max(deadline - time.monotonic(), 0))
            # The group also holds what it has started, as data-loading workers.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(training.process.pid, signal.SIGKILL)
            training.process.wait()

    def raise_for_unfinished(self) -> None:
        """Say what failed, and how to go on."""
        for job, reason in self.failed:
            _say(f"failed: {job}: {reason}; log: {job.folder / LOG_FILE}")
        left = len(self.waiting) + len(self.running)
        total = len(self.finished) + len(self.failed) + left
        if left:
            raise UsageError(
                f"interrupted; {len(self.finished)} of {total} trainings are finished and kept, "
                "the same command goes on."
            )
        if self.failed:
            raise UsageError(
                f"{len(self.failed)} of {total} trainings failed, see above; the same command "
                "tries them again."
            )

    def _start(self, job: Job) -> None:
        claim(job)
        taken = {training.slot for training in self.running}
        slot = next(i for i in range(self.settings.parallel) if i not in taken)
        command = [*self.settings.command, "--resume", "--config-file", str(job.folder / JOB_FILE)]
        with (job.folder / LOG_FILE).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(slot),
                # Out of the reach of the terminal's Ctrl-C: the sweep itself ends its trainings.
                start_new_session=True,
                # Held open, the lock outlives a sweep that is killed before it can end them.
                pass_fds=[self.lock.fileno()],
            )
        self.running.append(_Training(job, process, slot))
        _say(f"started: {job} (log: {job.folder / LOG_FILE})")

    def _environment(self, slot: int) -> dict[str, str]:
        threads = max(len(os.sched_getaffinity(0)) // self.settings.parallel, 1)
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1"}
        if len(self.gpus) > 1:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        return environment

    def _note_end(self, training: _Training) -> None:
        job, status = training.job, training.process.returncode
        result, reason = None, "it left no complete evaluation"
        try:
            if status:
                reason = f"it ended with status {status}: {_last_line(job.folder / LOG_FILE)}"
            else:
                result = collect(job)
        except UsageError as error:
            reason = str(error)
        if result is None:
            self.failed.append((job, reason))
            _say(f"failed: {job}: {reason}")
        else:
            self.finished.append(job)
            _say(f"finished: {job}, in {_duration(time.monotonic() - training.started)}")

    def _describe(self) -> str:
        """One line on all jobs, one on each that runs, and the time left for training."""
        lines, left, seconds = [], 0, []
        for training in self.running:
            job, last = training.job, progress(training.job)
            done = min(last.iteration, job.cfg.SOLVER.MAX_ITER) if last else 0
            lines.append(f"  {job}: iteration {done} of {job.cfg.SOLVER.MAX_ITER}")
            left += job.cfg.SOLVER.MAX_ITER - done
            seconds += [last.seconds] if last else []
        left += sum(job.cfg.SOLVER.MAX_ITER for job in self.waiting)
        line = (
            f"{len(self.finished)} finished, {len(self.running)} running, "
            f"{len(self.waiting)} waiting, {len(self.failed)} failed"
        )
        if seconds:
            rate = sum(seconds) / len(seconds) / len(self.running)
            line += f"; about {_duration(left * rate)} of training left"
        return "\n".join([line, *lines])


@contextlib.contextmanager
def _lock(output: Path) -> Iterator[IO]:
    """Keep a second sweep out of ``output`` for as long as this one or a training of it lives."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = (output / ".lock").open("w")
    except OSError as error:
        raise UsageError(f"--output {output} cannot be written to ({error.strerror}).") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"a sweep, or a training that a killed sweep has left, still works in {output}: "
                f"wait for it, or find it with pgrep -af {output} and end it."
            ) from None
        yield lock


@contextlib.contextmanager
def _stop_request() -> Iterator[list[int]]:
    """Yield a list that is empty until a signal asks to stop."""
    received: list[int] = []
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        before[number] = signal.getsignal(number)
        # What nohup or a background shell has switched off stays without effect here, but by a
        # handler: children would inherit SIG_IGN, and then not hear the SIGINT that ends them.
        ignored = before[number] is signal.SIG_IGN

        def handle(number: int, frame: Any, ignored: bool = ignored) -> None:
            if not ignored:
                received.append(number)

        signal.signal(number, handle)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_line(log: Path) -> str:
    """Where a program says why it failed."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.rstrip(".") for line in reversed(lines) if line), "it printed nothing")


def _visible_gpus() -> list[str]:
    """Values of CUDA_VISIBLE_DEVICES for one GPU each."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    return [str(i) for i in range(torch.cuda.device_count())]


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _say(text: str) -> None:
    # A log that is followed while the sweep runs in the background must not lag.
    print(time.strftime("[%H:%M:%S]"), text, flush=True)
