# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints a run has, and which of them are whole."""

import json

import pytest
import torch
from helpers import refused

from dalnet.checkpoint import Checkpointer, find_checkpoint, history


@pytest.fixture
def run(tmp_path):
    """Saves checkpoints of a model in a folder, of which two stay."""
    checkpointer = Checkpointer(torch.nn.Linear(1, 1), str(tmp_path), keep=2)

    def save(*iterations):
        for iteration in iterations:
            checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        return tmp_path

    return save


def names(folder):
    return sorted(path.name for path in folder.glob("*.pth"))


def test_the_newest_two_stay_and_are_listed(run):
    folder = run(1, 3, 5)
    assert names(folder) == ["model_0000003.pth", "model_0000005.pth"]
    assert [one.iteration for one in history.read_saved(folder)] == [3, 5]
    assert (folder / "last_checkpoint").read_text() == "model_0000005.pth"
    assert history.newest_good(folder) == folder / "model_0000005.pth"


def test_a_file_that_is_saved_again_counts_once(run):
    folder = run(1, 3, 3)
    assert [one.iteration for one in history.read_saved(folder)] == [1, 3]
    assert names(folder) == ["model_0000001.pth", "model_0000003.pth"]


def test_all_stay_if_that_is_wanted(tmp_path):
    checkpointer = Checkpointer(torch.nn.Linear(1, 1), str(tmp_path), keep=0)
    for number in range(4):
        checkpointer.save(f"model_{number}", iteration=number)
    assert len(names(tmp_path)) == len(history.read_saved(tmp_path)) == 4


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def change(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.faults("damaged checkpoints")
@pytest.mark.parametrize("damage", [cut, change, lambda path: path.unlink()])
def test_a_damaged_checkpoint_is_left_out_with_a_word(run, damage, caplog):
    folder = run(1, 3)
    damage(folder / "model_0000003.pth")
    with caplog.at_level("WARNING"):
        assert history.newest_good(folder) == folder / "model_0000001.pth"
    assert "model_0000003.pth" in caplog.text
    damage(folder / "model_0000001.pth")
    with refused("model_0000003.pth"):
        history.newest_good(folder)


def test_a_damaged_newest_checkpoint_is_not_used_by_other_commands(run):
    folder = run(1, 3)
    assert find_checkpoint(folder) == folder / "model_0000003.pth"
    content = bytearray((folder / "model_0000003.pth").read_bytes())
    content[-500] ^= 1
    (folder / "model_0000003.pth").write_bytes(content)
    with refused(folder, "model_0000003.pth", "has other bytes"):
        find_checkpoint(folder)
    assert find_checkpoint(folder / "model_0000003.pth").is_file()


def test_an_earlier_checkpoint_may_be_named(run):
    folder = run(1, 3)
    (folder / "last_checkpoint").write_text("model_0000001.pth\n")
    assert history.newest_good(folder) == folder / "model_0000001.pth"


def test_runs_without_a_list_go_on_from_what_the_last_checkpoint_names(tmp_path):
    assert history.newest_good(tmp_path) is None and not history.has_saved(tmp_path)
    Checkpointer(torch.nn.Linear(1, 1), str(tmp_path)).save("model")
    assert history.read_saved(tmp_path) == [] and history.has_saved(tmp_path)
    assert history.newest_good(tmp_path) == tmp_path / "model.pth"
    (tmp_path / "model.pth").unlink()
    with refused(tmp_path / "last_checkpoint", "model.pth"):
        history.newest_good(tmp_path)


def _list(file):
    return json.dumps([{"file": file, "iteration": 1, "size": 1, "sha256": "0"}])


@pytest.mark.faults("damaged checkpoints")
@pytest.mark.parametrize(
    "text", ["", "{}", "[3]", '[{"file": "x"}]', _list("../x"), _list(".."), _list(""), _list(5)]
)
def test_a_damaged_list_is_named(run, text):
    folder = run(1)
    (folder / "checkpoints.json").write_text(text or "x")
    if text == "{}":
        assert history.read_saved(folder) == []
    else:
        with refused("checkpoints.json"):
            history.read_saved(folder)
