# SPDX-License-Identifier: Apache-2.0
"""Labels from annotations or tags, and images without image-level labels."""

import logging

from helpers import refused

from dalnet.data.datasets.voc_layout import load_voc_layout
from dalnet.data.labels import filter_unlabeled

CLASSES = ("cat", "dog", "owl")


def test_annotations_go_before_tags_and_count_difficult_objects_but_no_parts(
    tmp_path, caplog, write_tree
):
    xml = {"a": ["dog", "dog", "cat"], "b": ["owl"]}
    root = write_tree(tmp_path / "t", {"a": ["owl"]}, xml)
    with caplog.at_level(logging.WARNING, "dalnet.data.labels"):
        dicts = load_voc_layout(root, "train", CLASSES, None)
    assert "image_tags.json is not read" in caplog.text
    assert [d["image_labels"] for d in dicts] == [[0, 1], [2], []]
    assert all("sem_seg_file_name" not in d for d in dicts)


def test_images_without_labels_are_skipped_by_name_or_refused(caplog):
    dicts = [{"image_id": "a", "image_labels": [1]}, {"image_id": "b", "image_labels": []}]
    with caplog.at_level(logging.WARNING, "dalnet.data.labels"):
        assert filter_unlabeled(dicts, "skip") == dicts[:1]
    assert "label: b" in caplog.text
    with refused("DATASETS.UNLABELED_IMAGES", "label: b"):
        filter_unlabeled(dicts, "refuse")
    assert filter_unlabeled(dicts[:1], "refuse") == dicts[:1]
    with refused("DATASETS.TRAIN", "1 of 1"):
        filter_unlabeled(dicts[1:], "skip")
