# SPDX-License-Identifier: Apache-2.0
"""Where memory runs out, the user hears which keys to change."""

import os
import signal

import pytest
import torch
from helpers import refused

from dalnet.config import load_config
from dalnet.data.loaders import TrainImages
from dalnet.engine.memory import EVALUATION, TRAINING, memory_errors
from dalnet.engine.train import run_training
from dalnet.modeling.meta_arch import DALNet


@pytest.fixture
def train(voc_tree):
    def run(*keys):
        opts = [*map(str, keys), "OUTPUT_DIR", str(voc_tree.output)]
        return run_training(load_config(str(voc_tree.config), opts))

    return run


@pytest.mark.faults("memory that runs out")
@pytest.mark.parametrize("place", [TRAINING, EVALUATION])
def test_errors_about_memory_name_the_keys(place):
    for error in (MemoryError(), RuntimeError("[..] DefaultCPUAllocator: can't allocate memory")):
        with refused(place[0]), memory_errors(place):
            raise error
    message = "DataLoader worker (pid(s) 12) exited unexpectedly"
    with refused("DATALOADER.NUM_WORKERS", "pid(s) 12"), memory_errors(place):
        raise RuntimeError(message)


def test_other_errors_stay_as_they_are():
    # What a mapper raises in a worker comes with these words.
    for error in (
        RuntimeError("Caught RuntimeError in DataLoader worker process 0."),
        ValueError(),
    ):
        with pytest.raises(type(error)) as info, memory_errors(TRAINING):
            raise error
        assert info.value is error


@pytest.mark.faults("memory that runs out")
def test_a_gpu_without_memory_ends_the_training(train, monkeypatch):
    def fail(self, batch):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(DALNet, "forward", fail)
    with refused("SOLVER.IMS_PER_BATCH", "SOLVER.ACCUMULATION_STEPS", "Tried to allocate 2 GiB"):
        train()


@pytest.mark.faults("memory that runs out")
def test_a_gpu_without_memory_in_an_evaluation(train, monkeypatch):
    forward = DALNet.forward

    def fail(self, batch):
        if not self.training:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return forward(self, batch)

    monkeypatch.setattr(DALNet, "forward", fail)
    with refused("INPUT.MIN_SIZE_TEST"):
        train("DATASETS.TEST", ("voc_2012_sem_seg_val",), "SOLVER.MAX_ITER", 1)


@pytest.mark.faults("memory that runs out")
def test_a_killed_loader_ends_the_training(train, monkeypatch):
    read, parent = TrainImages.__getitem__, os.getpid()

    def read_or_die(self, sample):
        if sample[0] >= 6 and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, sample)

    monkeypatch.setattr(TrainImages, "__getitem__", read_or_die)
    with refused("DATALOADER.NUM_WORKERS", "SOLVER.IMS_PER_BATCH"):
        train("DATALOADER.NUM_WORKERS", 1, "SOLVER.MAX_ITER", 50)
