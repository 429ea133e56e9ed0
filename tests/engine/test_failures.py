# SPDX-License-Identifier: Apache-2.0
"""A process that is killed, or that hangs, ends the others, and the error names it."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.faults("processes that end or hang")

PROGRAM = str(Path(__file__).with_name("failing_program.py"))
TWO = ("--num-processes", "2")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture
def train(voc_tree):
    """Trains in two processes, of which one fails; returns status and errors of the program."""

    def run(failure, *arguments, launcher=(), folder="run", **variables):
        ids = voc_tree.output / "ids"
        ids.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *launcher, PROGRAM, *failure]
        flags = [*itertools.takewhile(lambda word: "." not in word, arguments)]
        keys = ["SEED", "3", "SOLVER.MAX_ITER", "8", *arguments[len(flags) :]]
        command += ["--config-file", str(voc_tree.config), *flags, *keys]
        command += ["OUTPUT_DIR", str(run.output / folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "IDS": str(ids), **variables}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        numbers = [int(path.name) for path in ids.iterdir()]
        assert numbers and not any(map(is_running, numbers))
        return ended.returncode, ended.stderr

    run.output = voc_tree.output
    return run


def is_running(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def sentence(errors):
    """Return the one error that the user is told."""
    (line,) = (line for line in errors.splitlines() if line.startswith("error:"))
    return line


def root_cause(errors):
    """Return what torchrun's summary says of the process that failed first, without spaces."""
    return "".join(errors[errors.index("Root Cause") :].split())


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_process_that_is_killed_ends_all_and_is_named(train, rank):
    status, errors = train((rank, "3", "SIGKILL"), *TWO)
    assert status == 128 + signal.SIGKILL
    assert f"rank {rank}" in sentence(errors) and "SIGKILL" in sentence(errors)


@pytest.mark.slow
def test_a_process_that_hangs_ends_all_and_is_named(train):
    # The first one is the one that others usually depend on.
    status, errors = train(("0", "3", "SIGSTOP"), *TWO, "SOLVER.STEP_TIMEOUT", "2")
    assert status == 1
    assert "error: rank 0:" in sentence(errors) and "SOLVER.STEP_TIMEOUT" in sentence(errors)


@pytest.mark.slow
def test_a_process_without_memory_ends_all(train):
    status, errors = train(("1", "3", "memory"), *TWO)
    assert status == 1 and "SOLVER.IMS_PER_BATCH" in sentence(errors)


@pytest.mark.slow
def test_torchrun_names_a_process_that_is_killed(train):
    status, errors = train(("1", "3", "SIGKILL"), launcher=TORCHRUN)
    assert status == 1
    assert "rank:1(" in root_cause(errors) and "SIGKILL" in root_cause(errors)


@pytest.mark.slow
def test_torchrun_names_a_process_that_hangs(train):
    status, errors = train(("1", "3", "SIGSTOP"), "SOLVER.STEP_TIMEOUT", "2", launcher=TORCHRUN)
    assert status == 1
    assert "UsageError:rank1:" in root_cause(errors)


@pytest.mark.slow
def test_one_that_compiles_evaluates_or_saves_is_waited_for(train):
    keys = ("SOLVER.STEP_TIMEOUT", "2", "SOLVER.MAX_ITER", "5", "TEST.EVAL_PERIOD", "3")
    keys += ("DATASETS.TEST", "('voc_2012_sem_seg_val',)")
    status, errors = train(("1", "0", "late"), *TWO, *keys)
    assert status == 0, errors


@pytest.mark.slow
def test_torchrun_restarts_from_the_last_checkpoint(train):
    restarting = (*TORCHRUN, "--max-restarts", "1")
    keys = ("SOLVER.CHECKPOINT_PERIOD", "2")
    once = {"ONCE": str(train.output / "once")}
    status, errors = train(("1", "5", "SIGKILL"), "--resume", *keys, launcher=restarting, **once)
    assert status == 0, errors
    assert Path(once["ONCE"]).exists()
    assert len(json.loads((train.output / "run" / "run.json").read_text())["starts"]) == 2
    # Nothing fails this time, as ONCE exists.
    assert train(("1", "5", "SIGKILL"), *TWO, *keys, folder="whole", **once)[0] == 0
    restarted, whole = (
        torch.load(train.output / folder / "model_final.pth", weights_only=True)["model"]
        for folder in ("run", "whole")
    )
    assert all(torch.equal(value, whole[name]) for name, value in restarted.items())
