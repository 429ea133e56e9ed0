# SPDX-License-Identifier: Apache-2.0
"""Lists of VOC-layout folders, and what is said when something is missing."""

import json
import os
import shutil

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers import refused
from PIL import Image

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
    dicts = load_voc_layout(write_tree(tmp_path / "t"), "train", CLASSES, None, labeled=False)
    assert [(d["image_labels"], d["unknown_labels"]) for d in dicts] == [([], [0, 1, 2])] * 3


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
    return ["train.txt", "'b'", "JPEGImages"]


def break_labels(root):
    (root / "image_tags.json").unlink()
    return [root, "Annotations", "image_tags.json"]


def break_class(root):
    (root / "image_tags.json").write_text('{"b": ["dragon"]}')
    return ["image_tags.json, image b", "dragon"]


def break_json(root):
    (root / "image_tags.json").write_text("{")
    return ["image_tags.json", "JSON"]


def break_json_content(root):
    (root / "image_tags.json").write_text('{"a": 3}')
    return ["image_tags.json"]


def break_json_names(root):
    (root / "image_tags.json").write_text('{"b": [["cat"]]}')
    return ["image_tags.json"]


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
    return ["c.xml", "dragon"]


def break_xml(root):
    (root / "Annotations").mkdir()
    (root / "Annotations" / "a.xml").write_text("<annotation>")
    return ["a.xml"]


def xml_of_another_kind(text):
    def break_xml_kind(root):
        (root / "Annotations").mkdir()
        (root / "Annotations" / "a.xml").write_text(text)
        return ["a.xml", "VOC"]

    return break_xml_kind


OTHER_XML = [
    "<annotations><object><name>cat</name></object></annotations>",
    '<annotation xmlns="http://example.org/voc"><object><name>cat</name></object></annotation>',
    "<annotation><objects><object><name>cat</name></object></objects></annotation>",
    "<annotation><Object><name>cat</name></Object></annotation>",
    "<annotation><object><label>cat</label></object></annotation>",
    '<!DOCTYPE a [<!ENTITY b "cat">]><annotation><object><name>&b;</name></object></annotation>',
]
for number, text in enumerate(OTHER_XML):
    globals()[f"break_xml_kind_{number}"] = xml_of_another_kind(text)


def break_tags_that_name_no_image(root):
    (root / "image_tags.json").write_text('{"a": ["cat"], "z": ["cat"]}')
    return ["image_tags.json", "image z", "no image"]


def break_doubled_key(root):
    (root / "image_tags.json").write_text('{"a": ["cat"], "b": [], "a": ["dog"]}')
    return ["image_tags.json", "'a'", "twice"]


def break_keys_of_one_image(root):
    (root / "image_tags.json").write_text('{"a": ["cat"], "a.jpg": ["dog"]}')
    return ["image_tags.json", "'a'", "'a.jpg'"]


def break_two_files_of_tags(root):
    (root / "image_tags.csv").write_text("file,cat\na,1\n")
    return [root, "two files"]


def break_cell(root):
    (root / "image_tags.json").unlink()
    (root / "image_tags.csv").write_text("file,cat\na,2\n")
    return ["image_tags.csv", "line 2", "'2'"]


def break_list_of_one_class(root):
    (root / "ImageSets/Segmentation/train.txt").write_text("a  1\nb -1\n")
    return ["train.txt", "'a  1'", "ImageSets/Main", "one image id a line"]


def break_list_of_other_names(root):
    (root / "ImageSets/Segmentation/train.txt").write_text("a;b;c\n")
    return ["train.txt", "one image id a line"]


def break_pair_of_two_images(root):
    (root / "ImageSets/Segmentation/train.txt").write_text("JPEGImages/a.jpg Masks/b.png\n")
    return ["train.txt", "JPEGImages/a.jpg Masks/b.png"]


def break_two_lines_of_one_image(root):
    (root / "ImageSets/Segmentation/train.txt").write_text("day1/a\nb\nday2/a\n")
    return ["train.txt", "'day1/a'", "'day2/a'"]


def break_two_images_of_one_stem(root):
    (root / "JPEGImages/b.png").write_bytes((root / "JPEGImages/b.jpg").read_bytes())
    return ["train.txt", "b.jpg", "b.png"]


def break_two_listed_images_of_one_stem(root):
    break_two_images_of_one_stem(root)
    (root / "ImageSets/Segmentation/train.txt").write_text("b.jpg\nb.png\n")
    return ["train.txt", "b.jpg", "b.png"]


def break_two_masks_of_one_image(root):
    (root / "SegmentationClass").mkdir()
    for suffix in ("PNG", "tif"):
        (root / "SegmentationClass" / f"a.{suffix}").touch()
    return ["SegmentationClass", "a.PNG", "a.tif"]


@pytest.mark.parametrize("damage", [f for n, f in globals().items() if n.startswith("break_")])
def test_damaged_tree_is_named_in_one_sentence(tmp_path, damage, write_tree):
    root = write_tree(tmp_path / "t", {"a": ["cat"]})
    expected = damage(root)
    with refused(*expected) as info:
        load_voc_layout(root, "train", CLASSES, how_to_get="fetch it")
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfa\r\n b \r\n\r\nc\r\n",
        "a\nb\nc\n".encode("utf-16"),
        b"# my images\na.jpg\nb.jpg\nc.jpg",
        b"/JPEGImages/a.jpg /SegmentationClass/a.png\n/JPEGImages/b.jpg /Masks/b.png\nc",
        b"JPEGImages\\a\nJPEGImages\\b.jpg\nC:\\images\\c.png",
        b"a\nb\na\nc\nb\n",
    ],
)
def test_lists_are_read_in_the_layouts_of_other_programs(tmp_path, write_tree, content):
    root = write_tree(tmp_path / "t", {"a": ["cat"]})
    (root / "ImageSets/Segmentation/train.txt").write_bytes(content)
    assert [d["image_id"] for d in load_voc_layout(root, "train", CLASSES)] == ["a", "b", "c"]


def test_lines_that_occur_again_are_counted(tmp_path, write_tree, caplog):
    root = write_tree(tmp_path / "t", {"a": ["cat"]})
    (root / "ImageSets/Segmentation/train.txt").write_text("a\nb\na\na\n")
    load_voc_layout(root, "train", CLASSES)
    assert "again: 2" in caplog.text and "train.txt" in caplog.text


def test_suffixes_choose_among_images_of_one_stem_and_any_case_is_found(tmp_path, write_tree):
    root = write_tree(tmp_path / "t", {"a": ["cat"], "c": ["dog"]}, suffixes={"c": ".JPG"})
    (root / "JPEGImages/b.png").write_bytes((root / "JPEGImages/b.jpg").read_bytes())
    (root / "ImageSets/Segmentation/train.txt").write_text("b.png\nc\n")
    (root / "SegmentationClass").mkdir()
    (root / "SegmentationClass" / "c.PNG").touch()
    first, second = load_voc_layout(root, "train", CLASSES)
    assert first["file_name"].endswith("b.png") and second["file_name"].endswith("c.JPG")
    assert first["sem_seg_file_name"] == str(root / "SegmentationClass" / "b.png")
    assert second["sem_seg_file_name"] == str(root / "SegmentationClass" / "c.PNG")


NAMES = [
    "100%s {0} [1] (2)",
    "\u732b \u0438 \u0430",
    "m" * 251,
    "a.b.c",
    "a",
    "#1",
    "x.jpg",
    "-1",
    "~",
    "\U0001f431",
]


def test_files_of_any_name_are_listed(tmp_path, write_tree):
    root = write_tree(tmp_path / "t")
    tags = {name: ["owl"] for name in NAMES}
    for name in NAMES:
        Image.new("RGB", (2, 2)).save(root / "JPEGImages" / f"{name}.png")
    for name in "abc":
        (root / "JPEGImages" / f"{name}.jpg").unlink()
    (root / "image_tags.json").write_text(json.dumps(tags), encoding="utf-8")
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(NAMES), encoding="utf-8")
    # A name that is no text can stand in no list; it is in nobody's way.
    (root / "JPEGImages" / os.fsdecode(b"caf\xe9.png")).touch()
    records = load_voc_layout(root, "train", CLASSES)
    assert [record["image_id"] for record in records] == NAMES
    assert all(record["image_labels"] == [2] for record in records)


@pytest.mark.parametrize("part", [".", "JPEGImages"])
def test_unreadable_folder_is_named(tmp_path, lock, part, write_tree):
    root = write_tree(tmp_path / "t", {"a": ["cat"]})
    lock(root / part)
    with refused(root / "JPEGImages"):
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
