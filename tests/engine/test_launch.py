# SPDX-License-Identifier: Apache-2.0
"""Programs in several processes, which signals and errors reach and come from."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from helpers import in_two_processes, refused

from dalnet.engine import launch
from dalnet.engine.launch import Processes, _killed, _leave_gloo
from dalnet.engine.train import argument_parser

ROOT = Path(__file__).parents[2]


def processes(*flags):
    return Processes.from_arguments(argument_parser().parse_args(flags))


def test_arguments_say_how_many_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert (processes().local, processes("--num-processes", "3").local) == (1, 3)
    assert processes("--num-processes", "2").url.startswith("tcp://127.0.0.1:")
    with refused("num_gpus", "2"):
        processes("--num-gpus", "2")
    with refused("dist_url"):
        processes("--num-machines", "2")
    second = ("--num-machines", "2", "--machine-rank", "1", "--dist-url", "tcp://10.0.0.1:99")
    assert processes(*second) == Processes(1, 2, 1, "tcp://10.0.0.1:99")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert processes("--num-gpus", "2").use_gpus
    assert not processes("--num-processes", "2").use_gpus


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_processes", -1),
        ("num_gpus", -2),
        ("num_machines", 0),
        ("machine_rank", 1),
        ("machine_rank", -1),
    ],
)
def test_numbers_that_cannot_be_are_refused(name, value):
    args = argument_parser().parse_args([])
    setattr(args, name, value)
    with refused(name, value):
        Processes.from_arguments(args)


def test_the_environment_of_torchrun_says_it_too(monkeypatch):
    environment = {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}
    assert Processes.from_environment(environment) == Processes(2, 2, 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Processes.from_environment(environment).use_gpus


def test_processes_meet_at_an_address_that_can_be_used():
    with processes("--num-processes", "2").hosted() as hosted:
        assert not hosted.url.endswith(":0")
        with refused("dist_url", hosted.url), hosted.hosted():
            pass
    for url in ("tcp://localhost", "tcp://localhost:x", "localhost:29500", "file:///tmp/x"):
        with refused("dist_url", url), Processes(2, url=url).hosted():
            pass


def test_who_is_ended_by_nccl_has_waited():
    """It is another process that hangs."""
    waited = str(_killed(2, "SIGABRT", use_gpus=True))
    assert "rank 2" in waited and "SOLVER.STEP_TIMEOUT" in waited
    for name, use_gpus in (("SIGABRT", False), ("SIGSEGV", True), ("SIGKILL", True)):
        assert "STEP_TIMEOUT" not in str(_killed(2, name, use_gpus))


def start(voc_tree, folder, *arguments, program=("train_net.py",)):
    command = [sys.executable, *program, "--config-file", str(voc_tree.config), *arguments]
    command += ["SEED", "3", "OUTPUT_DIR", str(voc_tree.output / folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **quiet)


# Trains, and notes in a file which threads of Gloo each process has when its interpreter ends.
NOTES_THREADS = """
import atexit, os, sys
from pathlib import Path
from dalnet.engine.launch import run
from dalnet.engine.train import argument_parser, main

def note():
    threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    found = [name for name in threads if "gloo" in name]
    Path(os.environ["NOTES"], str(os.getpid())).write_text(repr(found))

def noted(args):
    atexit.register(note)
    main(args)

if __name__ == "__main__":
    run(noted, argument_parser().parse_args())
"""


def interrupt(process, log):
    """Send SIGTERM when both processes train."""
    logs = (log, log.with_name("log.txt.rank1"))
    while not all(one.exists() and "Training starts" in one.read_text() for one in logs):
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)


def weights(voc_tree, folder):
    return torch.load(voc_tree.output / folder / "model_final.pth", weights_only=True)["model"]


@pytest.mark.slow
def test_two_processes_train_here_and_under_torchrun(voc_tree):
    assert start(voc_tree, "here", "--num-processes", "2").wait() == 0
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert start(voc_tree, "there", program=(*torchrun, "train_net.py")).wait() == 0
    here, there = weights(voc_tree, "here"), weights(voc_tree, "there")
    assert all(torch.equal(value, there[key]) for key, value in here.items())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="names of threads are read from /proc")
@pytest.mark.parametrize("status", [0, 75])
def test_no_thread_of_gloo_is_left_at_the_end(voc_tree, tmp_path, monkeypatch, status):
    # One that frees a tensor then would abort the process.
    notes, program = tmp_path / "notes", tmp_path / "program.py"
    notes.mkdir()
    program.write_text(NOTES_THREADS)
    monkeypatch.setenv("NOTES", str(notes))
    keys = ("--num-processes", "2", "SOLVER.MAX_ITER", "1" if status == 0 else "1000")
    process = start(voc_tree, "run", *keys, program=(str(program),))
    if status:
        interrupt(process, voc_tree.output / "run" / "log.txt")
    assert process.wait() == status
    assert [path.read_text() for path in notes.iterdir()] == ["[]", "[]"]


def threads_of_gloo():
    return sum("gloo" in path.read_text() for path in Path("/proc/self/task").glob("*/comm"))


def leave_gloo(rank):
    """Count Gloo's threads before a second group of processes, with it, and after it has ended."""
    dist.all_reduce(torch.ones(1))  # which starts those of the other one
    counts = [threads_of_gloo()]
    dist.get_backend = lambda *_: "nccl"
    group = comm._get_global_gloo_group()
    dist.all_reduce(torch.ones(1), group=group)
    counts.append(threads_of_gloo())
    del group
    _leave_gloo()
    return [*counts, threads_of_gloo()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="names of threads are read from /proc")
def test_processes_with_gpus_end_the_threads_of_gloo_too(tmp_path):
    for before, within, after in in_two_processes(leave_gloo, tmp_path):
        assert before == after < within


@pytest.mark.parametrize(("use_gpus", "left"), [(True, ["gloo"]), (False, ["all"])])
def test_what_a_process_that_exits_leaves(monkeypatch, use_gpus, left):
    found = []
    monkeypatch.setattr(launch, "_leave_gloo", lambda: found.append("gloo"))
    monkeypatch.setattr(launch, "_leave_group", lambda: found.append("all"))
    processes = SimpleNamespace(use_gpus=use_gpus, joined=lambda _: nullcontext())
    with pytest.raises(SystemExit) as exit_:
        launch._start(0, lambda _: sys.exit(75), None, processes)
    assert (exit_.value.code, found) == (75, left)


@pytest.mark.slow
def test_two_machines_train_as_two_processes_of_one(voc_tree):
    with processes("--num-processes", "2").hosted() as hosted:
        url = hosted.url  # its port is free again behind the block
    flags = ("--num-machines", "2", "--num-processes", "1", "--dist-url", url)
    second = start(voc_tree, "both", *flags, "--machine-rank", "1")
    first = start(voc_tree, "both", *flags, "--machine-rank", "0")
    assert (first.wait(), second.wait()) == (0, 0)
    assert start(voc_tree, "one", "--num-processes", "2").wait() == 0
    one, both = weights(voc_tree, "one"), weights(voc_tree, "both")
    assert all(torch.equal(value, both[key]) for key, value in one.items())


@pytest.mark.slow
@pytest.mark.faults("signals")
def test_a_signal_reaches_all_processes_which_save_and_exit(voc_tree):
    flags = ("--num-processes", "2", "SOLVER.MAX_ITER", "1000")
    process = start(voc_tree, "stopped", *flags)
    interrupt(process, voc_tree.output / "stopped" / "log.txt")
    assert process.wait() == 75
    assert len(list((voc_tree.output / "stopped").glob("model_*.pth"))) == 1


@pytest.mark.slow
@pytest.mark.faults("unreadable images")
def test_an_error_in_one_process_is_one_sentence_and_ends_all(voc_tree):
    path = sorted((voc_tree.voc / "JPEGImages").iterdir())[1]
    path.write_bytes(path.read_bytes()[:400])
    process = start(voc_tree, "odd", "--num-processes", "2", "DATALOADER.STRICT", "True")
    errors = [line for line in process.stderr.read().splitlines() if line.startswith("error:")]
    assert process.wait() == 1
    assert len(errors) == 1 and path.name in errors[0]


@pytest.mark.slow
@pytest.mark.faults("unreadable images")
def test_what_no_process_can_read_is_listed_by_the_first(voc_tree):
    broken = sorted((voc_tree.voc / "JPEGImages").iterdir())[:2]
    for path in broken:
        path.write_bytes(path.read_bytes()[:-400])
    assert start(voc_tree, "odd", "--num-processes", "2", "SOLVER.MAX_ITER", "4").wait() == 0
    log = (voc_tree.output / "odd" / "log.txt").read_text()
    assert all(path.name in log.split("2 images could not be read")[1] for path in broken)


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_that_has_their_images(voc_tree):
    losses = []
    for folder, number in (("one", "1"), ("two", "2")):
        keys = ("SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "1")
        assert start(voc_tree, folder, "--num-processes", number, *keys).wait() == 0
        line = json.loads((voc_tree.output / folder / "metrics.json").read_text())
        losses.append({name: value for name, value in line.items() if "loss" in name})
    assert len(losses[0]) == 8 and losses[1] == pytest.approx(losses[0], rel=1e-6, abs=1e-9)
