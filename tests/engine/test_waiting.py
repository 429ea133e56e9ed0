# SPDX-License-Identifier: Apache-2.0
"""Lost connections are told from other errors, and the ranks that do not answer are named."""

import pytest
import torch.distributed as dist
from helpers import refused

from dalnet.engine import waiting
from dalnet.engine.waiting import StepTimeout, connection_errors

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/"
CLOSED = f"{GLOO}pair.cc:547] Connection closed by peer [127.0.0.1]:42166"
TIMED_OUT = f"{GLOO}unbound_buffer.cc:78] Timed out waiting %dms for recv operation to complete"


@pytest.fixture
def store(monkeypatch):
    """The place where four processes meet, of which this is the first; two others report."""
    monkeypatch.setattr(waiting, "_REPORTING", 0.1)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    store = dist.HashStore()
    store.set("lost/1", "")
    return store


@pytest.mark.parametrize("error", [RuntimeError(CLOSED), dist.DistBackendError("NCCL error")])
def test_ranks_that_do_not_answer_have_ended(store, error):
    with refused("rank 2, 3", "ended"), connection_errors(store):
        raise error


def test_ranks_that_others_have_waited_for_hang(store):
    with refused("rank 2, 3", "waited", "SOLVER.STEP_TIMEOUT"), connection_errors(store):
        raise RuntimeError(TIMED_OUT % 20_000)
    # Not in a step, where the key would not help.
    with refused("rank 2, 3", "waited") as error, connection_errors(store):
        raise RuntimeError(TIMED_OUT % 1_800_000)
    assert not error.value.hint


def test_other_errors_stay_as_they_are(store):
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError) as found, connection_errors(store):
        raise error
    assert found.value is error


def test_one_process_waits_for_nobody():
    timeout = StepTimeout(1)
    timeout.start()
    with timeout.lifted():
        pass
