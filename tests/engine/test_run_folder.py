# SPDX-License-Identifier: Apache-2.0
"""A folder holds one training: another is refused, resumed or put in its place."""

import os
import signal
import subprocess
import sys

import pytest
from helpers import refused

from dalnet.engine.run_folder import (
    drop_later_metrics,
    has_results,
    has_training,
    locked,
    make_writable,
    old_training_kept,
    remove_training,
    require_unused,
)
from dalnet.io import atomic_write


@pytest.mark.parametrize("name", ["last_checkpoint", "model_0000009.pth", "metrics.json"])
def test_what_a_training_leaves_is_refused_unless_it_is_resumed_or_overwritten(tmp_path, name):
    (tmp_path / name).write_text("x")
    with refused("OUTPUT_DIR", tmp_path):
        require_unused(tmp_path, resume=False, overwrite=False)
    require_unused(tmp_path, resume=True, overwrite=False)
    require_unused(tmp_path, resume=False, overwrite=True)


def test_a_training_that_has_not_begun_leaves_nothing_to_refuse(tmp_path):
    for name in ("config.yaml", "log.txt", "dataset.yaml"):
        (tmp_path / name).write_text("x")
    (tmp_path / "metrics.json").touch()
    require_unused(tmp_path, resume=False, overwrite=False)
    require_unused(tmp_path / "missing", resume=False, overwrite=False)


def test_a_training_is_either_resumed_or_overwritten(tmp_path):
    with refused("overwrite"):
        require_unused(tmp_path, resume=True, overwrite=True)


def test_only_what_a_training_leaves_is_removed(tmp_path):
    (tmp_path / "evaluation" / "toy_val").mkdir(parents=True)
    left = ["model_final.pth", "model_0000009.pth", "last_checkpoint", "metrics.json"]
    left += ["log.txt", "log.txt.rank1", "events.out.tfevents.1.host", "evaluation/toy_val/x.json"]
    own = ["weights.pth", "notes.txt", "dataset.yaml"]
    for name in (*left, *own):
        (tmp_path / name).write_text("x")
    remove_training(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(own)
    assert not has_training(tmp_path)


OLD = ("model_final.pth", "checkpoints.json", "metrics.json", "log.txt", "config.yaml", "run.json")


@pytest.fixture
def trained(tmp_path):
    """A folder with a training and a file that is not the training's."""
    (tmp_path / "evaluation").mkdir()
    for name in (*OLD, "evaluation/results.json", "notes.txt"):
        (tmp_path / name).write_text("old")
    return tmp_path


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def start_anew(folder):
    for name in ("log.txt", "config.yaml", "run.json", "metrics.json"):
        (folder / name).write_text("new")


@pytest.mark.parametrize("overwrite", [True, False])
def test_what_a_start_replaces_comes_back_where_it_fails(trained, overwrite):
    before = contents(trained)
    modes = {"resume": not overwrite, "overwrite": overwrite}
    with pytest.raises(KeyError), old_training_kept(trained, **modes):
        assert (trained / "model_final.pth").exists() is not overwrite
        for name in ("config.yaml", "run.json"):
            (trained / name).write_text("new")
        if overwrite:
            start_anew(trained)
        raise KeyError
    assert contents(trained) == before


def test_an_old_training_is_gone_once_the_new_one_has_started(trained):
    with old_training_kept(trained, resume=False, overwrite=True):
        start_anew(trained)
    new = ("log.txt", "config.yaml", "run.json", "metrics.json")
    assert contents(trained) == {**dict.fromkeys(new, "new"), "notes.txt": "old"}


def test_what_a_killed_start_has_put_aside_comes_back(trained):
    before = contents(trained)
    keeping = old_training_kept(trained, resume=False, overwrite=True)
    keeping.__enter__()
    start_anew(trained)
    with locked(str(trained)):
        assert contents(trained) == before


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with refused("OUTPUT_DIR", tmp_path / "file"):
        make_writable(str(tmp_path / "file" / "run"))


HOLD = """
import sys, time
from dalnet.engine.run_folder import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.mark.faults("two trainings in one folder")
def test_one_training_at_a_time(tmp_path):
    with locked(str(tmp_path)), refused("OUTPUT_DIR", tmp_path), locked(str(tmp_path)):
        pass
    with locked(str(tmp_path)):
        pass


@pytest.mark.faults("two trainings in one folder")
def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    with pytest.raises(SystemExit), atomic_write(tmp_path / "model.pth") as unfinished:
        unfinished.write_bytes(b"half")
        os.link(unfinished, tmp_path / ".old.unfinished")  # as if the process were killed here
        os.link(unfinished, tmp_path / "kept")
        raise SystemExit
    os.utime(tmp_path / ".old.unfinished", (1, 1))
    with locked(str(tmp_path)):
        assert {path.name for path in tmp_path.iterdir()} == {"kept", ".lock"}
    (tmp_path / ".new.unfinished").touch()
    with locked(str(tmp_path)):
        assert (tmp_path / ".new.unfinished").exists()
    remove_training(tmp_path)
    assert not (tmp_path / ".new.unfinished").exists()


def test_a_killed_training_locks_nothing(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        with refused("OUTPUT_DIR"), locked(str(tmp_path)):
            pass
        os.kill(process.pid, signal.SIGKILL)
    with locked(str(tmp_path)):
        pass


def test_results_of_the_last_iteration_stay_when_a_run_is_made_longer(tmp_path):
    lines = ['{"iteration": 19, "total_loss": 1}\n', '{"iteration": 20, "cam/mIoU": 2}\n']
    (tmp_path / "metrics.json").write_text("".join([*lines, '{"iteration": 20, "lr": 1}\n']))
    drop_later_metrics(tmp_path, 20)
    assert (tmp_path / "metrics.json").read_text() == "".join(lines)
    assert [count for count in range(30) if has_results(tmp_path, count)] == [20, 21]
    assert not has_results(tmp_path / "missing", 20)


def test_losses_of_iterations_that_come_again_are_dropped(tmp_path):
    lines = [f'{{"iteration": {number}, "lr": 0.1}}\n' for number in (19, 39, 59)]
    path = tmp_path / "metrics.json"
    path.write_text("".join(lines) + '{"iteration": 7')
    with path.open("a") as stream:  # as the writer holds it
        drop_later_metrics(tmp_path, 40)
        assert path.read_text() == "".join(lines[:2])
        stream.write("next\n")
    assert path.read_text() == "".join([*lines[:2], "next\n"])
    path.write_text("".join([lines[0], lines[2], lines[1]]))
    drop_later_metrics(tmp_path, 59)
    assert path.read_text() == "".join(lines[:2])
    drop_later_metrics(tmp_path, 0)
    assert path.read_text() == ""
    drop_later_metrics(tmp_path / "missing", 0)
