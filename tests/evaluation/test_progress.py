# SPDX-License-Identifier: Apache-2.0
"""Counts on disk are taken only if they were made from the files and settings of today."""

import os

import numpy as np
import pytest

from dalnet.evaluation.counts import Counts
from dalnet.evaluation.progress import Progress, image_key
from dalnet.evaluation.sources import make_measurements
from dalnet.modeling.meta_arch import DALNet


@pytest.fixture
def counts(tiny_cfg):
    return Counts(make_measurements(tiny_cfg, DALNet.sources, ["sem_seg"], ["ss"]), 4, 0.5)


def save(progress, counts, *names):
    part, label_map = counts.empty_copy(), np.ones((2, 2), int)
    for name in names:
        part.update(progress.keys[name], label_map, {counts.measurements[0]: label_map})
    progress.save(part)


def names_of(progress, counts, **options):
    return [key.partition(":")[0] for key in progress.load(counts, **options).names]


def test_parts_of_all_processes_are_added_up(counts, split, tmp_path):
    for names in ("01", "2", ""):
        save(Progress(tmp_path, split.records, "a"), counts, *names)
    progress = Progress(tmp_path, split.records, "a")
    assert sorted(names_of(progress, counts)) == ["0", "1", "2"]
    assert progress.load(counts).num_scored == 3 and not counts.names
    assert not names_of(Progress(tmp_path, split.records, "b"), counts), "other settings"
    progress.discard()
    assert not names_of(progress, counts) and not list(tmp_path.glob(".progress*"))


def test_an_image_that_two_parts_hold_is_counted_once(counts, split, tmp_path, caplog):
    for names in ("01", "12"):
        save(Progress(tmp_path, split.records), counts, *names)
    progress = Progress(tmp_path, split.records)
    first = sorted(names_of(progress, counts))
    assert first in (["0", "1"], ["1", "2"]) and "counted twice" in caplog.text
    assert len([*progress.folder.glob("*.safetensors")]) == 1, "the other one is removed"
    assert sorted(names_of(progress, counts)) == first


def test_a_part_that_was_left_out_is_not_taken_later(counts, split, tmp_path):
    save(Progress(tmp_path, split.records), counts, "0", "1")
    progress = Progress(tmp_path, split.records)
    assert not names_of(progress, counts, lost={"1"})
    save(progress, counts, "0", "1", "2")
    assert sorted(names_of(Progress(tmp_path, split.records), counts)) == ["0", "1", "2"]


def test_a_part_with_an_image_that_has_changed_is_left_out(counts, split, tmp_path, caplog):
    for names in ("01", "2"):
        save(Progress(tmp_path, split.records), counts, *names)
    os.utime(split.records[1]["sem_seg_file_name"], (0, 1))
    progress = Progress(tmp_path, split.records)
    assert names_of(progress, counts) == ["2"]
    assert "changed since" in caplog.text
    assert not names_of(progress, counts, lost={"2"})


def test_a_broken_part_is_left_out(counts, split, tmp_path, caplog):
    progress = Progress(tmp_path, split.records)
    save(progress, counts, "0")
    for path in progress.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert not names_of(progress, counts)
    assert "cannot be read" in caplog.text


def test_keys_are_of_path_time_size_and_labels(split, tmp_path):
    record = dict(split.records[0])
    keys = {image_key(record), image_key({**record, "image_labels": [2]})}
    keys.add(image_key({**record, "unknown_labels": [1]}))
    os.utime(record["file_name"], (0, 1))
    keys.add(image_key(record))
    with open(record["sem_seg_file_name"], "ab") as stream:
        stream.write(b"\0")
    keys.add(image_key(record))
    del record["sem_seg_file_name"]
    keys.add(image_key(record))
    os.rename(record["file_name"], tmp_path / os.fsdecode(b"\xff.jpg"))
    keys.add(image_key({**record, "file_name": str(tmp_path / os.fsdecode(b"\xff.jpg"))}))
    assert len(keys) == 7
    assert image_key(record) == image_key(dict(record))
