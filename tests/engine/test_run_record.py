# SPDX-License-Identifier: Apache-2.0
"""What a run's folder tells about how it came about."""

import json
import sys

import pytest
from detectron2.data import DatasetCatalog
from helpers import refused

from dalnet.engine.run_record import add_start, list_hash, read_record


@pytest.fixture
def dataset():
    records = [{"file_name": "/a/1.jpg", "image_labels": [0]}, {"file_name": "/a/2.jpg"}]
    DatasetCatalog.register("listed", lambda: records)
    yield records
    DatasetCatalog.remove("listed")


def test_a_list_that_has_changed_is_named(tiny_cfg, dataset, caplog):
    tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATASETS.TEST = ("listed",), ()
    add_start(tiny_cfg, 1, resume=False)
    add_start(tiny_cfg, 1, resume=True)
    assert "listed" not in caplog.text
    dataset.pop()
    add_start(tiny_cfg, 1, resume=True)
    assert "listed" in caplog.text


def test_each_start_is_recorded(tiny_cfg, dataset):
    tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATASETS.TEST, tiny_cfg.SEED = ("listed",), (), -1
    for seed in (9, 3):  # the first one failed before anything was saved
        tiny_cfg.SEED = seed
        add_start(tiny_cfg, 1, resume=False)
    tiny_cfg.SOLVER.MAX_ITER = 77
    add_start(tiny_cfg, 2, resume=True)
    with open(f"{tiny_cfg.OUTPUT_DIR}/run.json") as stream:
        first, second = json.load(stream)["starts"]
    assert (first["seed"], first["processes"], second["processes"]) == (3, 1, 2)
    assert first["command"] == sys.argv and first["lists"] == {"listed": list_hash("listed")}
    assert {"python", "torch", "detectron2", "dalnet", "timm"} <= first["versions"].keys()
    assert first["hardware"]["cpus"] > 0
    assert "MAX_ITER: 77" in second["config"] and "MAX_ITER: 77" not in first["config"]


@pytest.mark.parametrize(
    "changed",
    [
        [{"file_name": "/a/1.jpg", "image_labels": [1]}, {"file_name": "/a/2.jpg"}],
        [{"file_name": "/a/2.jpg"}, {"file_name": "/a/1.jpg", "image_labels": [0]}],
        [{"file_name": "/a/1.jpg", "image_labels": [0]}],
    ],
)
def test_the_hash_of_a_list_tells_images_labels_and_order(dataset, changed):
    before = list_hash("listed")
    dataset[0]["file_name"] = "/elsewhere/1.jpg"
    assert list_hash("listed") == before
    dataset[:] = changed
    assert list_hash("listed") != before


def test_a_damaged_record_is_named(tmp_path):
    assert read_record(tmp_path) == []
    for text in ("x", "[]", '{"starts": 3}'):
        (tmp_path / "run.json").write_text(text)
        with refused("run.json"):
            read_record(tmp_path)
