# SPDX-License-Identifier: Apache-2.0
"""Lists of VOC-layout folders, and what is said when something is missing."""

import shutil

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers import refused

from dalnet.data.datasets.voc_layout import load_voc_layout, register_voc_layout

CLASSES = ("cat", "dog", "owl")


def test_tags_give_sorted_unique_labels_and_paths(tmp_path, write_tree):
    root = write_tree(
        tmp_path / "t", {"a": ["owl", "cat", "owl"], "b": ["dog"]}, suffixes={"b": ".png"}
    )
    dicts = load_voc_layout(root, "train", CLASSES, "Masks")
    assert [d["image_id"] for d in dicts] == ["a", "b", "c"]
    assert [d["image_labels"] for d in dicts] == [[0, 2], [1], []]
    assert dicts[1]["file_name"] == str(root / "JPEGImages" / "b.png")
    assert dicts[2]["sem_seg_file_name"] == str(root / "Masks" / "c.png")


def test_unlabeled_split_asks_for_no_labels(tmp_path, write_tree):
    dicts = load_voc_layout(write_tree(tmp_path / "t"), "train", None, None)
    assert [d["image_labels"] for d in dicts] == [[], [], []]


def break_nothing_there(root):
    shutil.rmtree(root)
    return [str(root), "JPEGImages", "fetch it"]


def break_list(root):
    (root / "ImageSets/Segmentation/train.txt").unlink()
    return ["train.txt", "fetch it"]


def break_empty_list(root):
    (root / "ImageSets/Segmentation/train.txt").write_text("\n")
    return ["train.txt", "empty"]


def break_image(root):
    (root / "JPEGImages/b.jpg").unlink()
    return ["b", "JPEGImages"]


def break_labels(root):
    (root / "image_tags.json").unlink()
    return ["Annotations", "image_tags.json"]


def break_class(root):
    (root / "image_tags.json").write_text('{"b": ["dragon"]}')
    return ["dragon", "image_tags.json", "image b"]


def break_json(root):
    (root / "image_tags.json").write_text("{")
    return ["image_tags.json", "JSON"]


def break_json_content(root):
    (root / "image_tags.json").write_text('{"a": "cat"}')
    return ["image_tags.json"]


def break_json_names(root):
    (root / "image_tags.json").write_text('{"b": [["cat"]]}')
    return ["image_tags.json", "expected"]


def break_list_encoding(root):
    (root / "ImageSets/Segmentation/train.txt").write_bytes("Kätzchen".encode("latin-1"))
    return ["train.txt", "text"]


def break_xml_encoding(root):
    (root / "Annotations").mkdir()
    text = '<?xml version="1.0" encoding="gb2312"?><annotation/>'
    (root / "Annotations" / "a.xml").write_text(text)
    return ["a.xml"]


def break_xml_unknown_encoding(root):
    (root / "Annotations").mkdir()
    text = '<?xml version="1.0" encoding="no-such-code"?><annotation/>'
    (root / "Annotations" / "a.xml").write_text(text)
    return ["a.xml"]


def break_xml_class(root):
    (root / "Annotations").mkdir()
    entry = "<object><name>dragon</name></object>"
    (root / "Annotations" / "c.xml").write_text(f"<annotation>{entry}</annotation>")
    return ["dragon", "c.xml"]


def break_xml(root):
    (root / "Annotations").mkdir()
    (root / "Annotations" / "a.xml").write_text("<annotation>")
    return ["a.xml"]


@pytest.mark.parametrize("damage", [f for n, f in globals().items() if n.startswith("break_")])
def test_damaged_tree_is_named_in_one_sentence(tmp_path, damage, write_tree):
    root = write_tree(tmp_path / "t", {"a": ["cat"]})
    expected = damage(root)
    with refused("", *expected) as info:
        load_voc_layout(root, "train", CLASSES, how_to_get="fetch it")
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("part", [".", "JPEGImages"])
def test_unreadable_folder_is_named(tmp_path, lock, part, write_tree):
    root = write_tree(tmp_path / "t", {"a": ["cat"]})
    lock(root / part)
    with refused("", root / "JPEGImages"):
        load_voc_layout(root, "train", CLASSES)


def test_own_images_register_and_register_again(tmp_path, write_tree):
    root = write_tree(tmp_path / "t", {"a": ["cat"]})
    for classes in (CLASSES[:1], CLASSES):
        register_voc_layout("own_birds", root, classes, split="train", prompt_names=classes)
    assert len(DatasetCatalog.get("own_birds")) == 3
    meta = MetadataCatalog.get("own_birds")
    assert meta.stuff_classes == ["background", "cat", "dog", "owl"]
    assert meta.prompt_names == list(CLASSES)
    assert (meta.ignore_label, meta.evaluator_type) == (255, "sem_seg")
    assert len(meta.stuff_colors) == 4
