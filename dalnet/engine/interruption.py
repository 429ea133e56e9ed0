# SPDX-License-Identifier: Apache-2.0
"""End a training in good order when it is asked to stop."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
import torch.distributed as dist
from detectron2.utils import comm

# Exit status of a training that was asked to stop and has saved itself (EX_TEMPFAIL of sysexits.h:
# the same command may be tried again, here with resume).
STATUS = 75
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# A signal may come twice at once, from a terminal and from the process that started this one.
_ONE_SIGNAL = 1.0  # seconds

logger = logging.getLogger(__name__)


class Interruption:
    """Notes SIGTERM, SIGINT and SIGUSR1 until the step that is being taken is done.

    A second signal raises :class:`KeyboardInterrupt` at once.

    Attributes:
        number: of the signal that has come; 0 for none.
    """

    def __init__(self) -> None:
        """No signal has come."""
        self.number = 0
        self._time = 0.0  # when it came
        self._is_over = False
        self._is_immediate = False
        self._pid = os.getpid()

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note signals in the block."""
        try:
            before = {number: signal.signal(number, self._note) for number in SIGNALS}
        except ValueError:  # not in the main thread, which alone may handle signals
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """Exit at a signal in the block, or at one before it, as everything is saved by then.

        All processes enter it together.

        Raises:
            SystemExit: a signal has come.
        """
        if self.agreed():
            self.exit()
        self._is_immediate = True
        try:
            yield
        finally:
            self._is_immediate = False

    def agreed(self) -> int:
        """Return the signal that has come to any process; all processes call this together."""
        return largest(self.number)

    def exit(self) -> None:
        """Exit with :data:`STATUS` when all processes have come here; further signals do nothing.

        Raises:
            SystemExit: always.
        """
        self._is_over = True
        # The end of one process would end the others, of which the first may still be writing.
        comm.synchronize()
        raise SystemExit(STATUS)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A process that was forked off, as one that reads images, ends with this one: Ctrl-C in
            # a terminal reaches both, and this one still needs it to finish its step.
            if number == signal.SIGTERM:
                raise SystemExit(128 + number)
            return
        if self._is_over:
            return
        if self._is_immediate:
            self._is_over = True
            raise SystemExit(STATUS)
        if self.number:
            if time.monotonic() - self._time < _ONE_SIGNAL:
                return
            raise KeyboardInterrupt
        self.number, self._time = number, time.monotonic()
        name = signal.Signals(number).name
        logger.info("%s: the training finishes this step, saves and stops.", name)


def largest(number: int) -> int:
    """Return the largest of the processes' numbers; all processes call this together."""
    if comm.get_world_size() == 1:
        return number
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(number, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)
