# SPDX-License-Identifier: Apache-2.0
"""Classes of a split matched with those of a model by name, in labels and masks."""

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from dalnet.data.classes import match_classes, number_as_model, read_truth
from dalnet.data.datasets.catalog import register

KNOWN = ("background", "cat", "dog", "owl")


def test_names_count_and_not_their_number():
    assert match_classes(KNOWN, KNOWN, "s") == [0, 1, 2, 3]
    assert match_classes(["nothing", "owl", "cat"], KNOWN, "s") == [0, 3, 1]
    with refused("s", "'bat'", "cat, dog, owl"):
        match_classes(["background", "cat", "bat", "owl"], KNOWN, "s")


def test_labels_and_masks_are_numbered_as_the_model(tiny_cfg, tmp_path):
    name = f"split_{tmp_path.name}"
    register(name, lambda: [], ("owl", "cat"))
    tiny_cfg.MODEL.CLASS_NAMES = KNOWN
    path = tmp_path / "mask.png"
    Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8)).save(path)
    record = {"sem_seg_file_name": str(path), "height": 2, "width": 2}
    (found,) = number_as_model(
        tiny_cfg, name, [record | {"image_labels": [0, 1], "unknown_labels": [0]}]
    )
    assert found["image_labels"] == [0, 2] and found["unknown_labels"] == [2]
    assert read_truth(found, len(KNOWN)).tolist() == [[0, 3], [1, 255]]
    Image.fromarray(np.full((2, 2), 3, np.uint8)).save(path)
    with refused(path, 3):  # the split has two classes, though the model knows three
        read_truth(found, len(KNOWN))
    assert read_truth(record, len(KNOWN)).tolist() == [[3, 3], [3, 3]]


def test_a_split_has_values_of_its_own_classes_alone(tiny_cfg, tmp_path, caplog):
    name = f"split_{tmp_path.name}"
    register(name, lambda: [], KNOWN[1:-1])  # in the model's order, without its last one
    tiny_cfg.MODEL.CLASS_NAMES = KNOWN
    path = tmp_path / "mask.png"
    record = {"sem_seg_file_name": str(path), "height": 2, "width": 2, "image_labels": [0]}
    (found,) = number_as_model(tiny_cfg, name, [record])
    assert found["image_labels"] == [0] and not caplog.text
    last = len(KNOWN) - 1
    Image.fromarray(np.full((2, 2), last - 1, np.uint8)).save(path)
    assert (read_truth(found, len(KNOWN)) == last - 1).all()
    Image.fromarray(np.full((2, 2), last, np.uint8)).save(path)
    with refused(path, last):
        read_truth(found, len(KNOWN))


@pytest.mark.parametrize("names", [(), ("background", "owl", "cat")])
def test_records_of_the_same_classes_stay_as_they_are(tiny_cfg, tmp_path, names):
    name = f"split_{tmp_path.name}"
    register(name, lambda: [], ("owl", "cat"))
    tiny_cfg.MODEL.CLASS_NAMES, tiny_cfg.DATASETS.TRAIN = names, (name,)
    records = [{"image_labels": [0]}]
    assert number_as_model(tiny_cfg, name, records) is records
