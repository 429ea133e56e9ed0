# SPDX-License-Identifier: Apache-2.0
"""A training that is killed and resumed ends as one that was left alone, to the last bit."""

import json
import os
import random
import time

import pytest

from dalnet.checkpoint.history import newest_good
from dalnet.data.datasets.catalog import datasets_root
from dalnet.data.datasets.toy.folder import ensure_toy_dataset

from .killing import Training, assert_same, steps

pytestmark = [pytest.mark.slow, pytest.mark.faults("kills of a training")]
# The model and the workers draw random numbers.
DRAWS = ["SEED", "3", "MODEL.VIT.DROP_PATH", "0.5", "DATALOADER.NUM_WORKERS", "2"]
SOAK = [
    *("DATASETS.TRAIN", "('toy_train',)", "DATASETS.TEST", "('toy_val',)"),
    *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "11", "SOLVER.CHECKPOINT_PERIOD", "5"),
    *("TEST.EVAL_PERIOD", "20"),
    # A rate that does not depend on how long the training is, as that of a warm-up does too.
    *("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.WARMUP_ITERS", "0"),
]
EVENTS = ["step"] * 6 + ["saving"] * 2 + ["evaluating"] * 2


@pytest.fixture
def make(voc_tree):
    """Returns a training in a folder of a name, of four images where the options name no others."""

    def training(name, *options):
        test = ["DATASETS.TEST", "('voc_2012_sem_seg_val',)"]
        keys = [*DRAWS, *test, *options]
        return Training(voc_tree.config, voc_tree.output / name, keys)

    return training


def test_killed_ten_times_it_ends_as_if_left_alone(make, record_property):
    periods = ("SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "4", "SOLVER.MAX_ITER", "60")
    whole, killed = make("whole", *periods), make("killed", *periods)
    whole.run()
    expected = steps(whole.notes())
    assert len(expected) == 60
    draw = random.Random(0)
    for event in draw.sample(EVENTS, len(EVENTS)):
        taken = killed.taken()
        count = draw.randint(2, 5) if event == "step" else 1
        delay = draw.random() * (0.005 if event == "saving" else 0.1)
        losses, was_running = killed.kill(event, count, delay)
        assert was_running and losses == expected[taken : taken + len(losses)]
        newest_good(killed.folder)  # raises where none is whole
    assert 0 < killed.taken() < 60
    killed.run()
    assert_same(whole, killed)
    results = [
        (run.folder / "evaluation/voc_2012_sem_seg_val/results.json").read_text()
        for run in (whole, killed)
    ]
    first, second = (json.loads(text)["measurements"] for text in results)
    assert first == second
    written = iterations(killed)
    # A kill between a checkpoint and the line that follows it may lose the line, not double it.
    assert len(written) == len({*written}) and 59 in written
    record_property("injected", len(EVENTS))


def iterations(training):
    """Return the iterations that a training has written metrics of."""
    lines = (training.folder / "metrics.json").read_text().splitlines()
    return [json.loads(line)["iteration"] for line in lines]


@pytest.mark.skipif("SOAK_MINUTES" not in os.environ, reason="make soak runs it")
def test_soak(make, record_property):
    minutes = float(os.environ["SOAK_MINUTES"])
    ensure_toy_dataset(datasets_root() / "toy")
    # Long enough that kills cannot let it end before the time is over.
    killed, draw, taken = make("killed", *SOAK, "SOLVER.MAX_ITER", "1000000"), random.Random(), []
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        event, begun = draw.choice(EVENTS), killed.taken()
        count = draw.randint(1, 20) if event == "step" else 1
        losses, was_running = killed.kill(event, count, draw.random() / 10)
        assert was_running
        taken.append((begun, losses))
    record_property("injected", len(taken))
    last = str(killed.taken() + 1)
    whole, killed = (make(name, *SOAK, "SOLVER.MAX_ITER", last) for name in ("whole", "killed"))
    killed.run()
    whole.run()
    expected = steps(whole.notes())
    for begun, losses in taken:
        # The last ones may have been taken behind the newest checkpoint of all.
        assert losses[: len(expected) - begun] == expected[begun : begun + len(losses)]
    assert_same(whole, killed)
