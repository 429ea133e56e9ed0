# SPDX-License-Identifier: Apache-2.0
"""What the tests share: one thread, an interruption."""

import contextlib

import pytest
import torch

from dalnet.engine.pretrainer import Pretrainer

# The tensors are small: threads would only wait for each other, and sums keep one order.
torch.set_num_threads(1)


class Interrupted(Exception):
    """Stands for Ctrl-C, which pytest would take for itself."""


@pytest.fixture
def interrupted_at(monkeypatch):
    """``with interrupted_at(i)`` stops a pre-training before iteration i; ``done``: those after."""
    step = Pretrainer.run_step

    @contextlib.contextmanager
    def interruption(iteration):
        def stop(self):
            if self.iter == iteration:
                raise Interrupted
            step(self)

        monkeypatch.setattr(Pretrainer, "run_step", stop)
        with pytest.raises(Interrupted):
            yield
        monkeypatch.setattr(Pretrainer, "run_step", record)

    def record(self):
        interruption.done.append(self.iter)
        step(self)

    interruption.done = []
    return interruption
