# SPDX-License-Identifier: Apache-2.0
"""How long processes wait for each other, and which of them has ended or hangs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from detectron2.utils import comm
from torch.distributed.distributed_c10d import _set_pg_timeout

from dalnet.errors import UsageError

# How long they wait outside of training steps, as for one that reads more images than the others.
LONGEST = timedelta(minutes=30)
# Processes that have lost a connection report within this time, as all lose it at once.
_REPORTING = 3.0  # seconds


class StepTimeout:
    """Limits how long processes wait for one another in a training step.

    A process that makes the others wait longer is taken to hang, and the training ends. Other parts
    of a training may take longer in one process than in another: before the first step is done
    (compilation), in evaluations, and where one of them saves. There :data:`LONGEST` holds.
    """

    def __init__(self, seconds: float) -> None:
        """``seconds``: the limit; 0 for :data:`LONGEST`."""
        self._limit = timedelta(seconds=seconds) if seconds else LONGEST

    def start(self) -> None:
        """Let the limit hold from here on; all processes call this together."""
        if comm.get_world_size() > 1:
            # One may have come here long before the others: they are waited for without the limit.
            comm.synchronize()
            # PyTorch has no public name for it; torchtitan shortens its limit so after a step.
            _set_pg_timeout(self._limit)

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Lift the limit in the block, which all processes enter and leave together."""
        if comm.get_world_size() > 1:
            _set_pg_timeout(LONGEST)
        yield
        # Not after a failure: the others may not come.
        self.start()


@contextmanager
def connection_errors(store: dist.Store) -> Iterator[None]:
    """Name the processes that have ended or hang where a connection to them is lost.

    Args:
        store: where all processes meet.

    Raises:
        UsageError: ``where`` names their ranks.
    """
    try:
        yield
    except RuntimeError as error:
        # Gloo has no exception class of its own: its messages begin with a file of its source.
        if not isinstance(error, dist.DistError) and "/gloo/" not in str(error):
            raise
        message = str(error).splitlines()[0].split("] ", 1)[-1]  # without that file
        raise _lost(_find_missing(store), message) from error


def _find_missing(store: dist.Store) -> list[int]:
    """Return the ranks that do not come here; all others do so at about the same time."""
    end, missing = time.monotonic() + _REPORTING, []
    store.set(f"lost/{dist.get_rank()}", "")
    for rank in range(dist.get_world_size()):
        left = max(end - time.monotonic(), 0.01)
        try:
            store.wait([f"lost/{rank}"], timedelta(seconds=left))
        except dist.DistError:
            missing.append(rank)
    return missing


def _lost(ranks: list[int], message: str) -> UsageError:
    """Return the error for ranks that are missing where PyTorch says ``message``."""
    where = f"rank {', '.join(map(str, ranks))}" if ranks else "another rank"
    if "imed out" not in message:
        what = f"this process has ended, and rank {dist.get_rank()} cannot go on without it"
        return UsageError(f"{what} ({message})", where, "its own last words tell why")
    what = f"rank {dist.get_rank()} has waited too long for this process ({message})"
    is_step = f"{LONGEST // timedelta(milliseconds=1)}ms" not in message
    hint = "if it does not hang but is slow, raise SOLVER.STEP_TIMEOUT" if is_step else ""
    return UsageError(what, where, hint)
