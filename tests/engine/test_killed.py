# SPDX-License-Identifier: Apache-2.0
"""A training that is killed and resumed ends as one that was left alone, to the last bit."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch

# Trains, and appends the losses of each step to a file, as exact numbers.
PROGRAM = """
import json, sys
import torch
from dalnet.engine.train import argument_parser, main
from dalnet.modeling.meta_arch import DALNet

torch.set_num_threads(1)
stream, forward = open(sys.argv.pop(1), "a"), DALNet.forward

def noted(self, batch):
    losses = forward(self, batch)
    if self.training:
        print(json.dumps({name: loss.item().hex() for name, loss in losses.items()}), file=stream)
        stream.flush()
    return losses

DALNet.forward = noted
main(argument_parser().parse_args())
"""
KEYS = ["SEED", "3", "SOLVER.MAX_ITER", "12", "SOLVER.CHECKPOINT_PERIOD", "3"]
# The model and the workers draw random numbers.
KEYS += ["MODEL.VIT.DROP_PATH", "0.5", "DATALOADER.NUM_WORKERS", "2"]


def start(voc_tree, folder, *flags):
    losses = voc_tree.output / f"{folder}.losses"
    losses.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", PROGRAM, str(losses), "--config-file", str(voc_tree.config)]
    command += [*flags, *KEYS, "OUTPUT_DIR", str(voc_tree.output / folder)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet)


def read_losses(voc_tree, folder):
    path = voc_tree.output / f"{folder}.losses"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.slow
def test_killed_anywhere_it_ends_as_if_left_alone(voc_tree):
    assert start(voc_tree, "whole").wait() == 0
    whole = read_losses(voc_tree, "whole")
    assert len(whole) == 12
    taken = []  # iterations that the newest checkpoint has, after each kill
    for steps in (1, 4, 5):  # that a process takes before it is killed
        before = len(read_losses(voc_tree, "killed"))
        process = start(voc_tree, "killed", "--resume")
        while len(read_losses(voc_tree, "killed")) < before + steps:
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
        process.wait()
        saved = voc_tree.output / "killed" / "checkpoints.json"
        taken.append(json.loads(saved.read_text())[-1]["iteration"] + 1 if saved.exists() else 0)
    assert 0 < taken[-1] < 12
    before = len(read_losses(voc_tree, "killed"))
    assert start(voc_tree, "killed", "--resume").wait() == 0
    assert read_losses(voc_tree, "killed")[before:] == whole[taken[-1] :]

    first, second = (
        torch.load(voc_tree.output / folder / "model_final.pth", weights_only=True)
        for folder in ("whole", "killed")
    )
    for name, value in first["model"].items():
        assert torch.equal(second["model"][name], value), name
    lines = (voc_tree.output / "killed" / "metrics.json").read_text().splitlines()
    iterations = [json.loads(line)["iteration"] for line in lines]
    assert iterations == sorted(set(iterations))
