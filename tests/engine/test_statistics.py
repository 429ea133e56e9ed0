# SPDX-License-Identifier: Apache-2.0
"""Several processes evaluate one model: the one that is saved."""

from types import SimpleNamespace

import pytest
import torch
from detectron2.config import CfgNode
from helpers import in_two_processes
from torch import nn

from dalnet.engine.interruption import Interruption
from dalnet.engine.trainer import Trainer
from dalnet.engine.waiting import StepTimeout


def evaluate(rank):
    """Return the statistics of the model that a process evaluates; each begins with its own."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).train()
    model(torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(rank)))
    trainer = Trainer.__new__(Trainer)
    trainer._trainer = SimpleNamespace(model=model)
    trainer._step_timeout, trainer._interruption = StepTimeout(0), Interruption()
    trainer.cfg, trainer._best, trainer.iter = CfgNode(), {}, 0
    before, found = [buffer.clone() for buffer in model.buffers()], []
    trainer.test = lambda _, tested: found.extend(tested.buffers())
    trainer._evaluate()
    return before, found


@pytest.mark.slow
def test_all_evaluate_with_the_statistics_of_the_first_process(tmp_path):
    (first, found), (second, others) = in_two_processes(evaluate, tmp_path)
    assert not torch.equal(first[0], second[0]) and len(found) == 3
    for saved, one, other in zip(first, found, others, strict=True):
        assert torch.equal(saved, one) and torch.equal(saved, other)
