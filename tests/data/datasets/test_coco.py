# SPDX-License-Identifier: Apache-2.0
"""COCO: lists and labels from the instance annotations."""

import os

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers import refused

from dalnet.data.datasets.coco import COCO_CLASSES, load_coco


def test_classes_are_the_eighty_in_order_of_their_ids():
    assert len(COCO_CLASSES) == 80
    assert (COCO_CLASSES[0], COCO_CLASSES[2], COCO_CLASSES[-1]) == ("person", "car", "toothbrush")
    meta = MetadataCatalog.get("coco_2014_sem_seg_train")
    assert len(meta.stuff_classes) == len(meta.stuff_colors) == 81
    assert meta.prompt_names == list(COCO_CLASSES)


def test_list_has_labels_and_leaves_out_images_without(coco_root, monkeypatch):
    dicts = load_coco(coco_root, "val")
    assert [(d["image_id"], d["image_labels"]) for d in dicts] == [(4, [2]), (9, [0, 79])]
    assert dicts[1]["file_name"] == str(coco_root / "val2014" / "v_9.jpg")
    assert dicts[1]["sem_seg_file_name"] == str(coco_root / "SegmentationClass/val2014/v_9.png")
    coco_root.rename(coco_root.parent / "coco")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(coco_root.parent))
    assert len(DatasetCatalog.get("coco_2014_sem_seg_val")) == 2


def test_callers_cannot_spoil_the_list_and_new_annotations_are_seen(coco_root):
    load_coco(coco_root, "val")[0]["image_labels"].append(5)
    assert load_coco(coco_root, "val")[0]["image_labels"] == [2]
    path = coco_root / "annotations" / "instances_val2014.json"
    path.write_text(path.read_text().replace('"category_id": 3', '"category_id": 90'))
    os.utime(path, ns=(1, 1))
    assert load_coco(coco_root, "val")[0]["image_labels"] == [79]


def test_broken_releases_are_named(coco_root, edit_annotations):
    with refused(coco_root, "train2014"):
        load_coco(coco_root, "train")
    (coco_root / "val2014" / "v_9.jpg").unlink()
    with refused(coco_root / "val2014", "v_9.jpg"):
        load_coco(coco_root, "val")
    edit_annotations(lambda c: c["categories"][0].update(name="dragon"))
    with refused("instances_val2014.json", "dragon"):
        load_coco(coco_root, "val")
    (coco_root / "annotations" / "instances_val2014.json").write_text("{")
    with refused("instances_val2014.json"):
        load_coco(coco_root, "val")


@pytest.mark.parametrize("part", [".", "val2014"])
def test_unreadable_folder_is_named(coco_root, lock, part):
    lock(coco_root / part)
    with refused(coco_root / "val2014"):
        load_coco(coco_root, "val")


FAULTS = [
    (lambda c: c["annotations"][3].update(category_id=2), "annotation 4"),
    (
        lambda c: c["annotations"][3].update(category_id=None),
        "annotation 4",
    ),
    (lambda c: c["annotations"][3].pop("image_id"), "image_id"),
    (lambda c: c.update(annotations=None), ""),
    (lambda c: c["images"][1].pop("file_name"), "image 4"),
    (lambda c: c["images"][1].update(file_name=None), "image 4"),
    (lambda c: c["categories"][0].pop("name"), "category 1"),
    (lambda c: c["annotations"][3].update(image_id=5), "annotation 4"),
    (lambda c: c["annotations"][3].update(id=1), "annotation 1"),
    (lambda c: c["images"][2].update(id=4), "image 4"),
    (lambda c: c["images"][2].update(id="4"), "image 4"),
    (lambda c: c["images"][2].update(file_name="v_9.png"), "v_9.png"),
    (lambda c: c.pop("images"), "images"),
]


@pytest.mark.parametrize(("change", "entry"), FAULTS)
def test_incomplete_entries_are_named(coco_root, edit_annotations, change, entry):
    edit_annotations(change)
    with refused("instances_val2014.json", entry):
        load_coco(coco_root, "val")
