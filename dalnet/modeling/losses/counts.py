# SPDX-License-Identifier: Apache-2.0
"""Count what a batch happens to hold (pairs, pixels, views), over all its processes and parts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor

T = TypeVar("T")


def total_count(count: Tensor, across_processes: bool) -> tuple[Tensor, int]:
    """Sum a count over all processes and parts of a batch; return it and how many these are.

    Each process has a share, or several, one for each of the :class:`Parts` of its batch. The
    gradients of all shares are averaged: by DistributedDataParallel over the processes, by the
    trainer over the parts. So a share computes its loss S / n as S / (total / shares), and the mean
    of these is the sum of all S divided by the total. Counts alone are exchanged, as they have no
    gradient.

    Args:
        count: of this share.
        across_processes: whether to count the whole batch.

    Returns:
        The total and :func:`shares`; where the share counts for itself ``count`` and 1.
    """
    parts = _current.get()
    if not across_processes:
        return count, 1
    if parts is not None and parts.is_counted():
        return parts.count(count)
    if comm.get_world_size() == 1:
        return count, 1
    total = count.detach().clone()
    dist.all_reduce(total)
    return total, comm.get_world_size()


def shares() -> int:
    """Return how many shares the batch is cut into, of which this process now has one."""
    parts = _current.get()
    return comm.get_world_size() * (1 if parts is None else parts.number)


def made_once(make: Callable[[], T]) -> T:
    """Return what ``make`` returns, or where a part of a batch runs again, what it did before.

    Args:
        make: of what needs no gradient. Called in the same order each time.
    """
    parts = _current.get()
    return make() if parts is None else parts.made_once(make)


def is_first_pass() -> bool:
    """Return whether the model runs for the first time in this optimizer step."""
    parts = _current.get()
    return parts is None or parts.is_first_pass


class Parts:
    """Counts over a batch that is taken in parts, so that each part can divide by those of all.

    A part's loss S / n needs the n of the whole batch. So every part first runs without gradient,
    inside :meth:`counting`, then :meth:`add_up` sums the counts over parts and processes, and
    inside :meth:`training` the part's losses divide by these. Without the first pass each part
    counts for itself.

    Attributes:
        number: of parts.
        is_first_pass: see :func:`is_first_pass`.
    """

    def __init__(self, number: int) -> None:
        """Take the number of parts."""
        self.number = number
        self.is_first_pass = True
        self._counts: list[list[Tensor]] = [[] for _ in range(number)]
        self._made: list[list[Any]] = [[] for _ in range(number)]
        self._totals: list[Tensor] = []
        self._part = 0
        self._is_counting = False
        self._next_total = self._next_made = 0

    @contextmanager
    def counting(self, part: int) -> Iterator[None]:
        """Note the counts of a part, 0 to ``number`` - 1, which runs without gradient."""
        self._is_counting = True
        with torch.no_grad(), self._at_work(part):
            yield

    @contextmanager
    def training(self, part: int) -> Iterator[None]:
        """Let the losses of a part divide by the counts of all."""
        self._is_counting = False
        with self._at_work(part):
            yield

    @contextmanager
    def _at_work(self, part: int) -> Iterator[None]:
        self._part, self._next_total, self._next_made = part, 0, 0
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)
            self.is_first_pass = False

    def add_up(self) -> None:
        """Sum the counts over all parts and processes.

        Raises:
            ValueError: the parts have not counted the same things.
        """
        self._totals = [torch.stack(same).sum(dim=0) for same in zip(*self._counts, strict=True)]
        if self._totals and comm.get_world_size() > 1:
            flat = torch.cat([total.double().flatten() for total in self._totals])
            dist.all_reduce(flat)
            summed = flat.split([total.numel() for total in self._totals])
            self._totals = [
                values.view_as(total).to(total.dtype)
                for values, total in zip(summed, self._totals, strict=True)
            ]

    def is_counted(self) -> bool:
        """Return whether counts are of all parts, or being noted for that."""
        return self._is_counting or bool(self._totals)

    def count(self, count: Tensor) -> tuple[Tensor, int]:
        """Note a count and return it, or return the sum that it is part of; see total_count()."""
        if self._is_counting:
            self._counts[self._part].append(count.detach().clone())
            return count, 1
        total = self._totals[self._next_total]
        self._next_total += 1
        return total, shares()

    def made_once(self, make: Callable[[], T]) -> T:
        """Return what ``make`` returns, or what it returned when this part ran before."""
        made = self._made[self._part]
        if self._next_made == len(made):
            made.append(make())
        self._next_made += 1
        return made[self._next_made - 1]


_current: ContextVar[Parts | None] = ContextVar("parts", default=None)
