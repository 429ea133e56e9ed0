# SPDX-License-Identifier: Apache-2.0
"""What values in someone's masks mean."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from dalnet.labeling.label import meta_content
from dalnet.labeling.mask_values import convert_masks, read_mask_values


def test_values_by_the_files_beside_the_masks(tmp_path):
    assert read_mask_values(tmp_path, ["cat", "dog"]) is None
    (tmp_path / "classes.txt").write_text("dog\ncow\ncat\n")
    assert read_mask_values(tmp_path, ["cat", "dog"]) == {0: 0, 1: 2, 2: 255, 3: 1, 255: 255}
    (tmp_path / "classes.txt").write_text("Background\ndog\ncat\n")
    assert read_mask_values(tmp_path, ["cat", "dog"]) == {0: 0, 1: 2, 2: 1, 255: 255}
    meta = {"label_map": {"0": "background", "9": "dog", "4": "cat"}}
    (tmp_path / "dataset_meta.json").write_text(json.dumps(meta))
    assert read_mask_values(tmp_path, ["cat", "dog"]) == {0: 0, 4: 1, 9: 2, 255: 255}
    with refused("dataset_meta.json", "owl"):
        read_mask_values(tmp_path, ["cat", "owl"])


def test_values_by_the_file_that_the_labeling_left_above_the_masks(tmp_path, monkeypatch):
    (tmp_path / "masks").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset_meta.json").write_text(meta_content(["background", "cat", "dog"]))
    for folder in (tmp_path / "masks", Path("masks")):
        assert read_mask_values(folder, ["dog", "cat"]) == {0: 0, 1: 2, 2: 1, 255: 255}
    (tmp_path / "masks/classes.txt").write_text("dog\ncat\n")  # nearer
    assert read_mask_values(tmp_path / "masks", ["dog", "cat"]) == {0: 0, 1: 1, 2: 2, 255: 255}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("_background_\ndog\ncat\n", {0: 0, 1: 2, 2: 1, 255: 255}),
        ("__ignore__\n_background_\ndog\ncat\n", {0: 0, 1: 2, 2: 1, 255: 255}),
    ],
)
def test_class_lists_of_labelme(tmp_path, text, values):
    (tmp_path / "classes.txt").write_text(text)
    assert read_mask_values(tmp_path, ["cat", "dog"]) == values
    names = enumerate(text.split()[-3:])
    meta = {"label_map": {str(value): name for value, name in names}}
    (tmp_path / "dataset_meta.json").write_text(json.dumps(meta))
    assert read_mask_values(tmp_path, ["cat", "dog"]) == values


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"label_map": {"a": "cat"}}'])
def test_file_of_another_form_is_refused(tmp_path, text):
    (tmp_path / "dataset_meta.json").write_text(text)
    with refused("dataset_meta.json"):
        read_mask_values(tmp_path, ["cat"])


def test_more_classes_than_a_mask_can_tell_apart_are_refused(tmp_path):
    names = [f"class {number}" for number in range(255)]
    (tmp_path / "classes.txt").write_text("\n".join(names[:254]))
    assert read_mask_values(tmp_path, ["class 253"])[254] == 1
    (tmp_path / "classes.txt").write_text("\n".join(names))
    with refused("classes.txt", "255"):
        read_mask_values(tmp_path, ["class 253"])


def test_masks_are_written_with_the_values_of_the_classes(tmp_path):
    mask = np.array([[0, 4], [9, 255]], np.uint8)
    Image.fromarray(mask).save(tmp_path / "a.png")
    values = {0: 0, 4: 1, 9: 2, 255: 255}
    convert_masks({"sub/a.png": tmp_path / "a.png"}, values, tmp_path / "new")
    new = np.array(Image.open(tmp_path / "new/sub/a.png"))
    assert new.tolist() == [[0, 1], [2, 255]]
    with refused("a.png", "9"):
        convert_masks({"a.png": tmp_path / "a.png"}, {0: 0, 4: 1, 255: 255}, tmp_path)
