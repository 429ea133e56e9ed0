# SPDX-License-Identifier: Apache-2.0
"""Train in a process that is killed again and again, and compare it with one that is left alone."""

import os
import subprocess
import sys
import time

import torch

from dalnet.checkpoint.history import newest_good, read_saved

# Trains, and appends to a file what begins: each step with its losses as exact numbers, each save
# and each evaluation.
PROGRAM = """
import json, sys
import torch
from dalnet.checkpoint import Checkpointer
from dalnet.engine.train import argument_parser, main
from dalnet.engine.trainer import Trainer
from dalnet.modeling.meta_arch import DALNet

torch.set_num_threads(1)
stream, forward = open(sys.argv.pop(1), "a"), DALNet.forward
save, evaluate = Checkpointer.save, Trainer._evaluate

def note(*words):
    print(*words, file=stream, flush=True)

def noted(self, batch):
    losses = forward(self, batch)
    if self.training:
        exact = {name: loss.item().hex() for name, loss in losses.items()}
        note("step", json.dumps(exact))
    return losses

def noted_save(*args, **kwargs):
    note("saving")
    save(*args, **kwargs)

def noted_evaluation(self):
    note("evaluating")
    return evaluate(self)

DALNet.forward, Checkpointer.save = noted, noted_save
Trainer._evaluate = noted_evaluation
main(argument_parser().parse_args())
"""


class Training:
    """A training of a config in a folder, which may be started many times."""

    def __init__(self, config, folder, options):
        self.folder = folder
        self._notes = folder.with_suffix(".notes")
        self._notes.parent.mkdir(parents=True, exist_ok=True)
        self._command = [sys.executable, "-c", PROGRAM, str(self._notes)]
        self._command += ["--config-file", str(config), "--resume", *options]
        self._command += ["OUTPUT_DIR", str(folder)]

    def start(self):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(self._command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet)

    def run(self):
        assert self.start().wait() == 0

    def notes(self):
        return self._notes.read_text().splitlines() if self._notes.exists() else []

    def taken(self):
        """Return how many iterations the checkpoint has that the training would go on from.

        It may be older than the last of the list, which is written first.
        """
        newest = newest_good(self.folder)
        found = [one for one in read_saved(self.folder) if newest and one.file == newest.name]
        return found[-1].iteration + 1 if found else 0

    def weights(self):
        path = self.folder / "model_final.pth"
        return torch.load(path, weights_only=True)["model"]

    def kill(self, event, count, delay):
        """Start it, and kill it some seconds after an event of a kind has begun for the n-th time.

        Returns:
            The losses of the steps that it took, and whether it was still running.
        """
        before = len(self.notes())
        process = self.start()
        while sum(note.startswith(event) for note in self.notes()[before:]) < count:
            if process.poll() is not None:
                assert process.returncode == 0
                break
            time.sleep(0.0005)
        time.sleep(delay)
        was_running = process.poll() is None
        process.kill()
        process.wait()
        return steps(self.notes()[before:]), was_running


def steps(notes):
    return [note for note in notes if note.startswith("step {") and note.endswith("}")]


def assert_same(first, second):
    """Compare the weights of two trainings bit by bit."""
    first, second = first.weights(), second.weights()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(second[name], value), name
