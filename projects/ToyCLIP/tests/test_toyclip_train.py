# SPDX-License-Identifier: Apache-2.0
"""The training: interrupted and resumed it ends with the same weights."""

from dataclasses import replace

import pytest
import torch
from detectron2.engine import SimpleTrainer
from helpers import Interrupted, refused, stopped_at

from dalnet_toyclip import train as module
from dalnet_toyclip.train import TrainOptions, train

QUICK = TrainOptions(iterations=4, batch_size=8, bank_size=80, bank_life=2, warmup=2)


def test_interrupted_run_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "evaluate", lambda model, count: {})
    folder, done = tmp_path / "parts", []
    whole = train(QUICK, tmp_path / "whole").state_dict()
    monkeypatch.setattr(SimpleTrainer, "run_step", stopped_at(3, done))
    with pytest.raises(Interrupted):
        train(QUICK, folder, save_every=2)
    parts = train(QUICK, folder, resume=True).state_dict()
    assert done == [0, 1, 2, 2, 3]
    assert all(torch.equal(parts[key], value) for key, value in whole.items())
    with refused("resume", "'iterations': 4"):
        train(replace(QUICK, iterations=6), folder, resume=True)
