# SPDX-License-Identifier: Apache-2.0
"""Processes go on alike where one of them sees an older state of the folder of the run."""

from pathlib import Path

import pytest
from detectron2.config import CfgNode
from helpers import in_two_processes
from torch import nn

from dalnet.checkpoint import Checkpointer
from dalnet.documents import write_json
from dalnet.engine.run_record import RECORD
from dalnet.engine.setup import _choose_seed
from dalnet.engine.trainer import Trainer
from dalnet.errors import UsageError


def save(folder, *names):
    for name in names:
        Checkpointer(nn.Linear(1, 1), str(folder)).save(name)


def find_newest(folder):
    trainer = Trainer.__new__(Trainer)
    trainer.checkpointer = Checkpointer(nn.Linear(1, 1), str(folder))
    return trainer._find_newest()


def go_on(rank, first, second):
    """Return seed and checkpoint of a process; then what it says where it sees no checkpoint."""
    folder = (first, second)[rank]
    cfg = CfgNode({"SEED": -1, "OUTPUT_DIR": str(folder)})
    _choose_seed(cfg, resume=True)
    found = find_newest(folder)
    if rank == 1:
        Path.is_file = lambda _: False
    try:
        find_newest(folder)
    except UsageError as error:
        return cfg.SEED, found, str(error)
    return cfg.SEED, found, ""


@pytest.mark.slow
@pytest.mark.parametrize("before", [["model_0000001"], []])
def test_all_take_seed_and_checkpoint_that_the_first_process_sees(tmp_path, before):
    now, older = tmp_path / "now", tmp_path / "older"
    now.mkdir()
    older.mkdir()
    save(now, "model_0000003")
    save(older, *before)
    write_json(now / RECORD, {"starts": [{"seed": 7}]})
    newest = str(now / "model_0000003.pth")
    first, (*second, refusal) = in_two_processes(go_on, tmp_path, now, older)
    assert first == (7, newest, "") and second == [7, newest]
    assert refusal.startswith("OUTPUT_DIR: rank 1") and newest in refusal
