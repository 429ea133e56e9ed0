# SPDX-License-Identifier: Apache-2.0
"""Counts that are saved, found again and added up, none twice."""

import numpy as np
import pytest

from dalnet.evaluation.protocol import make_rows
from dalnet.evaluation.tally import Tally, load_tallies
from dalnet.evaluation.threshold_curve import BinnedCAM


@pytest.fixture
def rows(tiny_cfg):
    return make_rows(tiny_cfg, "seg,cam", "ss")


def counted(rows, names):
    tally = Tally(rows, 3, np.array([0.25, 0.5], np.float32))
    for name in names:
        rng = np.random.default_rng(int(name))
        truth = rng.choice([0, 1, 2, 255], (4, 5))
        labels = {row: rng.choice([0, 1, 2], (4, 5)) for row in rows}
        binned = BinnedCAM(rng.integers(0, 2, (4, 5)), rng.integers(0, 3, (4, 5)))
        tally.count(name, truth, labels, {rows[1]: binned})
    return tally


def assert_equal(a, b):
    assert sorted(a.done) == sorted(b.done)
    assert a.scored == b.scored
    for mine, theirs in ((a.matrices, b.matrices), (a.histograms, b.histograms)):
        assert mine.keys() == theirs.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], theirs[name])


def test_parts_add_up_to_the_whole(rows, tmp_path):
    counted(rows, "12").save(tmp_path / "a" / "rank0.npz")
    counted(rows, "3").save(tmp_path / "a" / "rank1.npz")
    merged = load_tallies(counted(rows, "99"), tmp_path.glob("a/*.npz"))
    assert_equal(merged, counted(rows, "123"))
    assert merged.matrices["seg/ss"].sum() > 0 and merged.histograms["cam/ss"].sum() > 0
    assert list(merged.histograms) == ["cam/ss"]


def test_a_part_that_was_merged_before_a_crash_is_not_counted_twice(rows, tmp_path):
    counted(rows, "123").save(tmp_path / "earlier.npz")
    counted(rows, "3").save(tmp_path / "rank1.npz")
    assert_equal(load_tallies(counted(rows, ""), tmp_path.glob("*")), counted(rows, "123"))


def test_broken_parts_are_named_and_left_out(rows, tmp_path, caplog):
    counted(rows, "1").save(tmp_path / "rank0.npz")
    (tmp_path / "rank1.npz").write_bytes(b"PK\x03\x04 half a file")
    (tmp_path / "rank2.npz").write_bytes(b"")
    np.savez(tmp_path / "rank3.npz", done=np.array(["8"]))
    merged = load_tallies(counted(rows, ""), tmp_path.glob("*"))
    assert_equal(merged, counted(rows, "1"))
    assert all(f"rank{i}.npz cannot be read" in caplog.text for i in (1, 2, 3))


def test_images_without_a_mask_are_noted_but_not_scored(rows):
    tally = counted(rows, "1")
    before = {name: matrix.copy() for name, matrix in tally.matrices.items()}
    tally.count("2", None, {}, {})
    assert (tally.done, tally.scored) == (["1", "2"], 1)
    for name, matrix in before.items():
        np.testing.assert_array_equal(tally.matrices[name], matrix)
