# SPDX-License-Identifier: Apache-2.0
"""What tests of whole programs share: an interruption."""

import contextlib

import pytest

from dalnet.engine.pretrainer import Pretrainer


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
