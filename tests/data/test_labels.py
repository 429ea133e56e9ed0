# SPDX-License-Identifier: Apache-2.0
"""Labels from annotations or tags, their three states, and images of which nothing is known."""

import json
import logging
import unicodedata

import pytest
from helpers import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from dalnet.data.datasets.voc_layout import load_voc_layout
from dalnet.data.labels import (
    LabelIndex,
    filter_unlabeled,
    has_labels,
    read_image_labels,
    warn_of_unlabeled,
    warn_of_unlearnable,
)
from dalnet.data.tags import read_tags

CLASSES = ("cat", "dog", "owl")
NOTHING_KNOWN = ([], [0, 1, 2])


def states(records):
    return [(record["image_labels"], record.get("unknown_labels")) for record in records]


def test_annotations_go_before_tags_and_count_difficult_objects_but_no_parts(
    tmp_path, caplog, write_tree
):
    xml = {"a": ["dog", "dog", "cat"], "b": []}
    root = write_tree(tmp_path / "t", {"a": ["owl"]}, xml)
    with caplog.at_level(logging.WARNING, "dalnet.data.labels"):
        records = load_voc_layout(root, "train", CLASSES, None)
    assert "image_tags.json is not read" in caplog.text
    # Without objects: none is shown. Without a file: nothing is known.
    assert states(records) == [([0, 1], None), ([], None), NOTHING_KNOWN]
    assert all("sem_seg_file_name" not in record for record in records)


def test_annotations_of_other_kinds_do_not_hide_the_tags(tmp_path, write_tree):
    root = write_tree(tmp_path / "t", {"a": ["owl"], "b": []})
    (root / "Annotations").mkdir()
    (root / "Annotations" / "a.json").write_text("{}")
    records = load_voc_layout(root, "train", CLASSES, None)
    assert states(records) == [([2], None), ([], None), NOTHING_KNOWN]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";"])
def test_tables_have_three_states(tmp_path, write_tree, encoding, separator):
    root = write_tree(tmp_path / "t")
    table = "file,owl,cat,dog\na,0,1,\nb.jpg,0,0,0\nc,,,\n".replace(",", separator)
    (root / "image_tags.csv").write_bytes(table.replace("\n", "\r\n").encode(encoding))
    records = load_voc_layout(root, "train", CLASSES, None)
    assert states(records) == [([0], [1]), ([], None), NOTHING_KNOWN]
    assert [has_labels(record) for record in records] == [True, True, False]


def test_of_a_class_without_a_column_nothing_is_known(tmp_path, write_tree):
    root = write_tree(tmp_path / "t")
    (root / "image_tags.csv").write_text("file,owl,cat\na,0,1\nb,0,0\n")
    records = load_voc_layout(root, "train", CLASSES, None)
    assert states(records) == [([0], [1]), ([], [1]), NOTHING_KNOWN]
    assert [has_labels(record) for record in records] == [True, False, False]


def test_annotations_with_a_byte_order_mark_or_in_utf16_are_read(tmp_path, write_tree):
    text = "<annotation><object><name> owl\n</name></object></annotation>"
    root = write_tree(tmp_path / "t", xml={"a": []})
    head = '<?xml version="1.0" encoding="UTF-16"?>'
    (root / "Annotations" / "a.xml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (root / "Annotations" / "b.XML").write_bytes((head + text).encode("utf-16"))
    assert states(load_voc_layout(root, "train", CLASSES, None))[:2] == [([2], None)] * 2


letters = st.characters(categories=["L", "N", "Zs"], include_characters="-_%[]() .")
words = st.text(letters, min_size=1, max_size=12).map(
    lambda name: unicodedata.normalize("NFC", name).strip(".")
)
SPELLINGS = {
    "plain": lambda file: file.rpartition(".")[0],
    "suffix": lambda file: file,
    "path": lambda file: f"JPEGImages/{file}",
    "Windows": lambda file: f"C:\\images\\{file}",
    "decomposed": lambda file: unicodedata.normalize("NFD", file),
}


@given(
    names=st.sets(words.filter(str.strip), min_size=1, max_size=6),
    spelling=st.sampled_from(sorted(SPELLINGS)),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_tags_reach_their_images_however_they_are_named(tmp_path_factory, names, spelling, data):
    """No image gets the tags of another one, whatever the names."""
    folder, files = tmp_path_factory.getbasetemp(), sorted(f"{name}.jpg" for name in names)
    tags, expected = {}, {}
    for file in files:
        shown = data.draw(st.none() | st.sets(st.sampled_from(CLASSES)))
        expected[file] = NOTHING_KNOWN
        if shown is not None:
            tags[SPELLINGS[spelling](file)] = sorted(shown)
            expected[file] = sorted(CLASSES.index(name) for name in shown), []
    if not tags:
        return
    (folder / "image_tags.json").write_text(json.dumps(tags), encoding="utf-8")
    assert read_image_labels(folder, files, files, CLASSES) == expected


@pytest.mark.parametrize("order", [1, -1])
def test_two_names_of_an_image_may_not_say_nothing_known_and_none_shown(tmp_path, order):
    tags = dict([("a.jpg", None), ("a", [])][::order])
    (tmp_path / "image_tags.json").write_text(json.dumps(tags))
    with refused("image_tags.json", "mean a.jpg and differ"):
        read_image_labels(tmp_path, ["a.jpg"], ["a.jpg"], CLASSES)


def test_classes_are_known_in_any_unicode_form(tmp_path, write_tree):
    composed = unicodedata.normalize("NFC", "K\u00e4fer")
    decomposed = unicodedata.normalize("NFD", composed)
    root = write_tree(tmp_path / "t", {"a": [decomposed]})
    assert states(load_voc_layout(root, "train", [composed], None))[0] == ([0], None)
    assert states(load_voc_layout(root, "train", [decomposed], None))[0] == ([0], None)


def test_a_synonym_without_a_value_does_not_hide_the_class_that_is_shown(tmp_path):
    path = tmp_path / "tags.csv"
    path.write_text("file,dog,puppy\na.jpg,1,\nb.jpg,,\nc.jpg,0,\n")
    index, table = LabelIndex(["dog"], {"puppy": "dog"}), read_tags(path)
    assert [index.labels_in_table(table, name) for name in ("a.jpg", "b.jpg", "c.jpg")] == [
        ([0], []),
        ([], [0]),
        ([], [0]),
    ]


def test_images_that_show_none_stay_and_those_of_which_nothing_is_known_are_left_out(caplog):
    shown = {"image_id": "a", "image_labels": [1]}
    none = {"image_id": "b", "image_labels": [], "unknown_labels": [2]}
    unknown = {"image_id": "c", "image_labels": [], "unknown_labels": [0, 1, 2]}
    with caplog.at_level(logging.WARNING, "dalnet.data.labels"):
        assert filter_unlabeled([shown, none, unknown], 3, "skip") == [shown, none]
    assert "1 of 3 training images without a label: c" in caplog.text
    with refused("DATASETS.UNLABELED_IMAGES", "label: c"):
        filter_unlabeled([shown, none, unknown], 3, "refuse")
    assert filter_unlabeled([shown, none], 3, "refuse") == [shown, none]
    for records in ([unknown], [none], []):
        with refused("DATASETS.TRAIN"):
            filter_unlabeled(records, 3, "skip")


@pytest.mark.parametrize(
    ("labels", "everywhere", "nowhere"),
    [
        ([([0], []), ([0, 1], [])], "cat", "owl"),
        ([([0], []), ([1], [0])], "cat", "owl"),
        ([([0], []), ([1], []), ([], []), ([2], [])], None, None),
    ],
)
def test_classes_of_every_image_and_of_none_are_named(caplog, labels, everywhere, nowhere):
    records = [{"image_labels": shown, "unknown_labels": unknown} for shown, unknown in labels]
    warn_of_unlearnable(records, CLASSES)
    assert ("known to be without" in caplog.text) == (everywhere is not None)
    assert all(word in caplog.text for word in (everywhere, nowhere) if word)
    assert ("no training image shows" in caplog.text) == (nowhere is not None)


def test_images_without_labels_are_counted_where_cams_are_scored(caplog):
    records = [{"image_labels": []}, {"image_labels": [], "unknown_labels": [0]}]
    warn_of_unlabeled("birds_val", records)
    assert "1 of 2 images of birds_val" in caplog.text
