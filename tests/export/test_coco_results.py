# SPDX-License-Identifier: Apache-2.0
"""COCO's result file, read back with pycocotools."""

import json

import numpy as np
from helpers import refused
from pycocotools import mask as rle

from dalnet.export.coco_results import write_coco_results

CATEGORIES = {"cat": 1, "dog": 5, "owl": 90}


def test_results(dumped, tmp_path):
    output = tmp_path / "results.json"
    write_coco_results(dumped.folder, dumped.records, CATEGORIES, output)
    rebuilt = {name: np.zeros_like(one) for name, one in dumped.label_maps.items()}
    for entry in json.loads(output.read_text()):
        inside = rle.decode(entry["segmentation"])
        assert inside.any()
        value = [*CATEGORIES.values()].index(entry["category_id"]) + 1
        rebuilt[str(entry["image_id"])][inside > 0] = value
    for name, label_map in dumped.label_maps.items():
        np.testing.assert_array_equal(rebuilt[name], label_map)


def test_nothing_but_background_has_no_entry(dumped, tmp_path):
    for name, label_map in dumped.label_maps.items():
        dumped.write(name, np.zeros_like(label_map))
    write_coco_results(dumped.folder, dumped.records, CATEGORIES, tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_no_half_file_is_left(dumped, tmp_path):
    dumped.write("8", np.full((5, 4), 4, np.uint8))
    with refused("8.png"):
        write_coco_results(dumped.folder, dumped.records, CATEGORIES, tmp_path / "out" / "r.json")
    assert not list((tmp_path / "out").iterdir())
