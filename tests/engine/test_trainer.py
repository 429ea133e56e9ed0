# SPDX-License-Identifier: Apache-2.0
"""Trainings that end early go on as if nothing had happened."""

import json
import os
import signal

import pytest
import torch
from detectron2.utils import comm
from helpers import refused
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dalnet.config import load_config
from dalnet.engine import trainer as trainer_module
from dalnet.engine.train import run_training
from dalnet.engine.trainer import Trainer, join_processes
from dalnet.errors import UsageError
from dalnet.modeling.meta_arch import DALNet

# Drop path makes the model draw random numbers.
KEYS = ("SOLVER.MAX_ITER", 4, "MODEL.VIT.DROP_PATH", 0.5, "SEED", 3)


@pytest.fixture
def train(voc_tree):
    """Runs the tiny training in a folder of its own and returns its final checkpoint."""

    def run(folder, *keys, **modes):
        output = voc_tree.output / folder
        opts = [*map(str, (*KEYS, *keys)), "OUTPUT_DIR", str(output)]
        run_training(load_config(str(voc_tree.config), opts), **modes)
        return torch.load(output / "model_final.pth", weights_only=True)

    run.output = voc_tree.output
    return run


def at_step(monkeypatch, number, action):
    """Do something in the forward pass of one step, counted from 0."""
    forward, calls = DALNet.forward, []

    def act(self, batch):
        if self.training:
            calls.append(None)
            if len(calls) == number + 1:
                action()
        return forward(self, batch)

    monkeypatch.setattr(DALNet, "forward", act)


def same(first, second):
    """Compare two checkpoints to the last bit, but for where and how they were trained."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def assert_same_training(first, second):
    for part in ("model", "trainer", "iteration"):
        assert same(first[part], second[part]), part


def test_a_process_with_a_gpu_gets_its_images_as_the_loader_gives_them(monkeypatch):
    """Told of the GPU, PyTorch's wrapper copies every tensor of the images there, and waits."""
    wrapped = []
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    note = lambda *args, **kwargs: wrapped.append((args, kwargs))  # noqa: E731
    monkeypatch.setattr(trainer_module, "DistributedDataParallel", note)
    with FakeTensorMode():
        model = nn.Linear(1, 1, device="cuda")
    join_processes(model)
    ((args, kwargs),) = wrapped
    assert args == (model,) and not kwargs.get("device_ids")


@pytest.mark.faults("failures within a step")
@pytest.mark.parametrize("step", [1, 3])
def test_a_training_that_fails_is_saved_and_goes_on_exactly(train, monkeypatch, step):
    whole = train("whole")

    def fail():
        raise UsageError("unreadable", "image.jpg")

    with monkeypatch.context() as patch:
        at_step(patch, step, fail)
        with refused("image.jpg"):
            train("failed")
    assert (train.output / "failed" / f"model_{step - 1:07d}.pth").is_file()
    assert_same_training(train("failed", resume=True), whole)


@pytest.mark.faults("signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_the_step_and_saves(train, monkeypatch, number):
    with monkeypatch.context() as patch:
        at_step(patch, 1, lambda: os.kill(os.getpid(), number))
        with pytest.raises(SystemExit) as error:
            train("stopped")
    assert error.value.code == 75
    names = sorted(path.name for path in (train.output / "stopped").glob("*.pth"))
    assert names == ["model_0000001.pth"]
    if number == signal.SIGTERM:
        assert_same_training(train("stopped", resume=True), train("whole"))


@pytest.mark.faults("signals")
@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("moment", ["step", "save"])
def test_after_a_signal_no_evaluation_begins(train, monkeypatch, step, moment):
    keys = ("DATASETS.TEST", ("voc_2012_sem_seg_val",), "TEST.EVAL_PERIOD", step + 1)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "test", lambda *_: pytest.fail("an evaluation has begun"))
        if moment == "step":
            at_step(patch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        else:
            save = Trainer._save

            def interrupted(self, iteration, generators):
                save(self, iteration, generators)
                os.kill(os.getpid(), signal.SIGTERM)

            patch.setattr(Trainer, "_save", interrupted)
        with pytest.raises(SystemExit) as error:
            train("stopped", *keys)
    assert error.value.code == 75
    assert same(train("stopped", *keys, resume=True)["model"], train("whole", *keys)["model"])


def test_after_a_failure_in_the_last_step_no_evaluation_begins(train, monkeypatch):
    def fail():
        raise UsageError("unreadable", "image.jpg")

    at_step(monkeypatch, 3, fail)
    monkeypatch.setattr(Trainer, "test", lambda *_: pytest.fail("an evaluation has begun"))
    with refused("image.jpg"):
        train("failed", "DATASETS.TEST", ("voc_2012_sem_seg_val",))


@pytest.mark.parametrize("schedule", ["WarmupPolyLR", "WarmupCosineLR"])
@pytest.mark.parametrize("kind", ["AdamW", "SGD"])
def test_a_resumed_run_has_the_rates_of_its_config(train, kind, schedule):
    keys = ("SOLVER.OPTIMIZER", kind, "SOLVER.LR_SCHEDULER_NAME", schedule)
    train("run", *keys, "SOLVER.MAX_ITER", 2)
    lower = ("SOLVER.BASE_LR", 1e-6, "SOLVER.WEIGHT_DECAY", 0.3, "SOLVER.WARMUP_ITERS", 3)
    lower += ("SOLVER.POLY_LR_POWER", 3.0) if schedule == "WarmupPolyLR" else ()
    group, *_ = train("run", *keys, *lower, resume=True)["trainer"]["step"]["optimizer"][
        "param_groups"
    ]
    expected, *_ = train("new", *keys, *lower)["trainer"]["step"]["optimizer"]["param_groups"]
    assert group == expected


@pytest.mark.faults("damaged checkpoints")
def test_a_damaged_last_checkpoint_is_left_out(train, monkeypatch, caplog):
    whole = train("whole", "SOLVER.CHECKPOINT_PERIOD", 1)
    last = train.output / "whole" / "model_final.pth"
    last.write_bytes(last.read_bytes()[:-100])
    again = train("whole", "SOLVER.CHECKPOINT_PERIOD", 1, resume=True)
    assert "model_final.pth" in caplog.text and "model_0000002.pth" in caplog.text
    assert_same_training(again, whole)


def test_evaluations_change_nothing(train):
    never = train("never")
    keys = ("DATASETS.TEST", ("voc_2012_sem_seg_val",), "TEST.EVAL_PERIOD", 1)
    often = train("often", *keys)
    assert same(often["model"], never["model"])
    assert same(often["trainer"]["generators"], never["trainer"]["generators"])
    assert often["trainer"]["best"].keys() == {"name", "value", "iteration"}
    split = train.output / "often" / "evaluation" / "voc_2012_sem_seg_val"
    assert json.loads((split / "results.json").read_text())["iteration"] == 4


def test_a_training_that_ends_before_the_head_begins_says_so(train):
    for folder, start in (("never", 4), ("once", 3)):
        train(folder, "MODEL.DALNET.SEG_START_ITER", start)
        log = (train.output / folder / "log.txt").read_text()
        assert ("the segmentation head learns nothing" in log) is (start == 4)


@pytest.mark.faults("damaged checkpoints")
def test_a_malformed_state_is_refused(train):
    path = train.output / "odd" / "model_final.pth"
    data = train("odd", "SOLVER.MAX_ITER", 1)
    (path.parent / "checkpoints.json").unlink()  # it would tell that the file is another
    state = data["trainer"]
    faults = [{"step": {}}, {"step": state["step"] | {"optimizer": None}}, {"iteration": "x"}]
    faults += [{"iteration": -5}, {"iteration": 0.5}, {"samples": -2}, {"seed": "1"}]
    faults += [{"generators": 3}, {"generators": [{}]}, {"schedule": None}, {"best": 3}]
    for odd in (None, [], *(state | fault for fault in faults)):
        torch.save(data | {"trainer": odd}, path)
        with refused(path):
            train("odd", resume=True)
    torch.save({key: value for key, value in data.items() if key != "trainer"}, path)
    with refused(path):
        train("odd", resume=True)


@pytest.mark.faults("a full disk")
def test_a_full_disk_leaves_the_checkpoint_before(train, monkeypatch):
    save = torch.save

    def fail(data, path):
        if data["iteration"] == 2:
            raise OSError(28, "No space left on device")
        save(data, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with refused("model_0000002.pth", "No space left"):
            train("full", "SOLVER.CHECKPOINT_PERIOD", 1)
    assert (train.output / "full" / "last_checkpoint").read_text() == "model_0000001.pth"
    train("full", resume=True)


def test_a_batch_of_another_size_goes_on_with_the_next_image(train):
    first = train("grown", "SOLVER.MAX_ITER", 3)
    assert first["trainer"]["samples"] == 6
    keys = ("SOLVER.MAX_ITER", 4, "SOLVER.IMS_PER_BATCH", 4)
    # The second batch of four has the images 4 to 7.
    assert train("grown", *keys, resume=True)["trainer"]["samples"] == 8


def test_a_run_keeps_its_seed(train):
    first = train("drawn", "SEED", -1, "SOLVER.MAX_ITER", 1)
    seed = first["trainer"]["seed"]
    assert seed >= 0
    second = train("drawn", "SEED", -1, "SOLVER.MAX_ITER", 2, resume=True)
    assert second["trainer"]["seed"] == seed
    with refused("SEED", seed):
        train("drawn", "SEED", seed + 1, resume=True)
    (train.output / "drawn/run.json").unlink()
    with refused("SEED", seed):
        train("drawn", "SEED", -1, "SOLVER.MAX_ITER", 3, resume=True)


@pytest.mark.faults("unreadable images")
@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_cannot_be_read_are_listed_at_the_end(train, voc_tree, workers):
    first, second = sorted((voc_tree.voc / "JPEGImages").iterdir())[:2]
    first.write_bytes(b"no image")
    second.write_bytes(second.read_bytes()[:-400])  # only its pixels
    train("run", "DATALOADER.NUM_WORKERS", workers)
    log = (train.output / "run" / "log.txt").read_text()
    before, end = log.split("2 images could not be read")
    assert first.name in end and second.name in end
    assert before.count("skipped image") == 1 and before.count("left out 1 of 4") == 1
    with refused(first.name):
        train("strict", "DATALOADER.STRICT", True)
