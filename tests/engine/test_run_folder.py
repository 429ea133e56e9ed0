# SPDX-License-Identifier: Apache-2.0
"""A folder holds one training: another is refused, resumed or put in its place."""

import pytest
from helpers import refused

from dalnet.engine.run_folder import (
    has_training,
    make_writable,
    remove_training,
    require_unused,
)


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


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with refused("OUTPUT_DIR", tmp_path / "file"):
        make_writable(str(tmp_path / "file" / "run"))
