# SPDX-License-Identifier: Apache-2.0
"""The zero-shot data sets on small generated files, laid out and valued as published."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers import refused
from PIL import Image

import dalnet.data  # noqa: F401  registers the data sets
from dalnet.data.datasets.zero_shot import class_lists, read_zero_shot_truth

UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
# Where an image and its mask lie, and a list of them where there is one.
PLACES = {
    "voc21": ("VOC2012/JPEGImages/a.jpg", "VOC2012/SegmentationClass/a.png",
              "VOC2012/ImageSets/Segmentation/val.txt"),
    "context60": ("VOC2010/JPEGImages/a.jpg", "VOC2010/SegmentationClassContext/a.png",
                  "VOC2010/ImageSets/SegmentationContext/val.txt"),
    "coco_object": ("coco/val2017/a.jpg", "coco/stuffthingmaps/val2017/a.png", ""),
    "cityscapes": ("cityscapes/leftImg8bit/val/ulm/ulm_1_leftImg8bit.png",
                   "cityscapes/gtFine/val/ulm/ulm_1_gtFine_labelIds.png", ""),
    "ade20k": ("ADEChallengeData2016/images/validation/a.jpg",
               "ADEChallengeData2016/annotations/validation/a.png", ""),
}  # fmt: skip
PLACES |= {"voc20": PLACES["voc21"], "context59": PLACES["context60"],
           "coco_stuff": PLACES["coco_object"]}  # fmt: skip


@pytest.fixture
def write_set(tmp_path, monkeypatch):
    """Write one image with a mask of some values where a data set has them; return the mask."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))

    def write(task, values):
        image, mask, names = (tmp_path / place if place else None for place in PLACES[task])
        for path in filter(None, (image, mask, names)):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (len(values), 1)).save(image)
        Image.fromarray(np.array([values], np.uint8)).save(mask)
        if names:
            names.write_text("a\n")
        return mask

    return write


@pytest.mark.parametrize(
    ("task", "classes", "values", "labels"),
    [
        ("voc21", 21, (0, 1, 20, 255), (0, 1, 20, 255)),
        ("voc20", 20, (0, 1, 20, 255), (255, 0, 19, 255)),
        ("context60", 60, (0, 1, 59), (0, 1, 59)),
        ("context59", 59, (0, 1, 59), (255, 0, 58)),
        ("coco_object", 81, (0, 10, 12, 89, 91, 181, 255), (1, 11, 12, 80, 0, 0, 0)),
        ("coco_stuff", 171, (0, 10, 12, 89, 91, 181, 255), (0, 10, 11, 79, 80, 170, 255)),
        ("cityscapes", 19, (0, 7, 33, 6, 8, 255), (255, 0, 18, 255, 1, 255)),
        ("ade20k", 150, (0, 1, 150), (255, 0, 149)),
    ],
)
def test_masks_as_published(write_set, task, classes, values, labels):
    write_set(task, values)
    name = f"zero_shot_{task}"
    (record,) = DatasetCatalog.get(name)
    metadata = MetadataCatalog.get(name)
    assert len(metadata.stuff_classes) == classes
    truth = read_zero_shot_truth(
        record["sem_seg_file_name"], (1, len(values)), metadata.mask_labels, classes
    )
    assert truth.tolist() == [list(labels)]
    assert Image.open(record["file_name"]).size == (len(values), 1)


def test_the_background_is_a_class_of_some():
    def first(task):
        return MetadataCatalog.get(f"zero_shot_{task}").stuff_classes[0]

    with_background = {task for task in PLACES if first(task) == "background"}
    assert with_background == {"voc21", "context60", "coco_object"}


def test_coco_values_in_a_loop():
    # F13: thing ids from 0 become 1..80 in their order, stuff and unlabeled pixels background.
    labels = MetadataCatalog.get("zero_shot_coco_object").mask_labels
    expected, number = {}, 0
    for value in range(91):
        if value not in UNUSED:
            number += 1
            expected[value] = number
    expected |= dict.fromkeys((*range(91, 182), 255), 0)
    assert labels == expected
    assert not set(UNUSED) & set(labels)


@pytest.mark.parametrize("task", PLACES)
def test_every_label_has_a_class(task):
    metadata = MetadataCatalog.get(f"zero_shot_{task}")
    labels = set(metadata.mask_labels.values()) - {255}
    assert labels == set(range(len(metadata.stuff_classes)))
    assert len(set(metadata.stuff_classes)) == len(metadata.stuff_classes) or task == "coco_stuff"


def test_names_of_known_labels():
    def named(task, label):
        return MetadataCatalog.get(f"zero_shot_{task}").stuff_classes[label]

    assert [named("cityscapes", i) for i in (0, 6, 18)] == ["road", "traffic light", "bicycle"]
    assert [named("context60", i) for i in (1, 59)] == ["aeroplane", "wood"]
    assert [named("coco_stuff", i) for i in (0, 79, 80, 170)] == [
        "person", "toothbrush", "banner", "wood"]  # fmt: skip
    assert [named("ade20k", i) for i in (0, 44, 149)] == ["wall", "chest of drawers", "flag"]
    assert len(class_lists()["sclip"]["voc"]["background"]) == 26


def test_values_that_mean_nothing_are_counted(write_set):
    mask = write_set("voc20", (0, 1, 30, 30))
    with refused(mask, "value 30", "0: 1, 1: 1, 30: 2"):
        read_zero_shot_truth(
            str(mask), (1, 4), MetadataCatalog.get("zero_shot_voc20").mask_labels, 20
        )
    with refused(mask, "value 30"):
        read_zero_shot_truth(str(mask), (1, 4), None, 11)


def test_a_data_set_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for task in PLACES:
        with refused(tmp_path):
            DatasetCatalog.get(f"zero_shot_{task}")


def test_a_mask_that_is_not_there(write_set):
    mask = write_set("ade20k", (0, 1))
    mask.unlink()
    with refused(mask):
        DatasetCatalog.get("zero_shot_ade20k")
