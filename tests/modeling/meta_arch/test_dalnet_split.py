# SPDX-License-Identifier: Apache-2.0
"""DALNet trains alike however processes and parts share a batch."""

import pytest
from helpers import assert_parts_change_nothing, assert_split_changes_nothing, make_item


@pytest.mark.slow
def test_two_processes_train_as_one_that_has_their_images(tiny_cfg, tmp_path):
    records = [make_item(seed, labels=(seed, seed + 5)) for seed in range(4)]
    assert_split_changes_nothing(tiny_cfg, records, tmp_path, steps=20)


@pytest.mark.slow
def test_two_processes_with_two_parts_each_train_as_one(tiny_cfg, tmp_path):
    records = [make_item(seed, labels=(seed, seed + 5)) for seed in range(4)]
    assert_split_changes_nothing(tiny_cfg, records, tmp_path, parts=2)


def test_parts_train_as_the_whole_batch(tiny_cfg, tmp_path):
    records = [make_item(seed, labels=(seed, seed + 5)) for seed in range(4)]
    assert_parts_change_nothing(tiny_cfg, records, tmp_path)
    tiny_cfg.SOLVER.GLOBAL_LOSS_STATISTICS = False
    with pytest.raises(AssertionError):
        assert_parts_change_nothing(tiny_cfg, records, tmp_path)
