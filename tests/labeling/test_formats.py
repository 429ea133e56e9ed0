# SPDX-License-Identifier: Apache-2.0
"""Label maps written for other tools, read back."""

import json
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import yaml
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.data.datasets import load_coco_json
from helpers import refused
from pycocotools.coco import COCO

from dalnet.data.tags import read_tags
from dalnet.labeling.formats import WRITERS, LabeledImage, mask_names

NAMES = ("background", "cat", "guinea pig")
COCO_FILES = ("annotations/instances_default.json", "annotations/instances_polygons.json")


@pytest.fixture
def images():
    """Two images; in the first a rectangle of class 1 and a disk of class 2, in the second none."""
    first = np.zeros((60, 80), np.uint8)
    first[10:30, 5:45] = 1
    cv2.circle(first, (60, 40), 12, 2, -1)
    return [LabeledImage("sub/a b.jpg", first), LabeledImage("c.png", np.zeros((20, 30), np.uint8))]


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize(
    ("name", "file", "least"),
    [
        ("coco", "annotations/instances_default.json", 1.0),
        ("coco-polygons", "annotations/instances_polygons.json", 0.9),
    ],
)
def test_coco_reads_the_same_label_maps(images, tmp_path, capsys, name, file, least):
    WRITERS[name](images, NAMES, tmp_path)
    coco = COCO(str(tmp_path / file))
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == list(NAMES[1:])
    (number,) = [one["id"] for one in coco.imgs.values() if one["file_name"] == "sub/a b.jpg"]
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=number)):
        truth = images[0].label_map == annotation["category_id"]
        assert iou(coco.annToMask(annotation) > 0, truth) >= least
    assert len(coco.anns) == 2  # none in the second image


def test_a_class_that_lies_in_another_is_drawn_above_it(tmp_path):
    label_map = np.zeros((60, 80), np.uint8)
    cv2.circle(label_map, (40, 30), 25, 2, -1)
    cv2.circle(label_map, (40, 30), 10, 1, -1)
    WRITERS["coco-polygons"]([LabeledImage("a.jpg", label_map)], NAMES, tmp_path)
    coco = COCO(str(tmp_path / "annotations/instances_polygons.json"))
    drawn = np.zeros_like(label_map)
    for annotation in coco.anns.values():
        drawn[coco.annToMask(annotation) > 0] = annotation["category_id"]
    assert min(iou(drawn == value, label_map == value) for value in (0, 1, 2)) > 0.9


@pytest.mark.parametrize(
    "name", ["annotations/instances_default.json", "annotations/instances_polygons.json"]
)
def test_detectron2_trains_on_all_annotations(images, tmp_path, name):
    for write in (WRITERS["coco"], WRITERS["coco-polygons"]):
        write(images, NAMES, tmp_path)
    records = load_coco_json(str(tmp_path / name), "")
    (record,) = filter_images_with_only_crowd_annotations(records)
    assert [one["iscrowd"] for one in record["annotations"]] == [0, 0]


def test_yolo_has_no_labels_of_two_images_in_one_file(images, tmp_path):
    clash = [*images, LabeledImage("c.jpg", images[1].label_map)]
    with refused("labels/c.txt", "c.png", "c.jpg"):
        WRITERS["yolo"](clash, NAMES, tmp_path)


def test_yolo_labels_lie_where_ultralytics_looks(images, tmp_path):
    def place(path):  # as Ultralytics finds it
        return "/labels/".join(str(path).rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt"

    files = ["a.jpg", "sub/b.c.png", "images/d.jpg", "train/images/x/images/e.JPG", "images.jpg"]
    named = [LabeledImage(file, images[0].label_map) for file in files]
    WRITERS["yolo"](named, NAMES, tmp_path)
    written = {str(path) for path in tmp_path.rglob("*.txt")}
    assert written == {place(tmp_path / "images" / file) for file in files}


def test_yolo_takes_class_names_of_any_letters(images, tmp_path):
    names = ["😀 cat", "a: b", "no", "7", 'x"y', "猫"]
    WRITERS["yolo"](images, ["background", *names], tmp_path)
    data = yaml.safe_load((tmp_path / "data.yaml").read_text(encoding="utf-8"))
    assert data["names"] == dict(enumerate(names))


def test_yolo_polygons_cover_the_regions(images, tmp_path):
    WRITERS["yolo"](images, NAMES, tmp_path)
    data = yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert data["names"] == {0: "cat", 1: "guinea pig"}
    assert (tmp_path / "labels/c.txt").read_text() == ""
    for line in (tmp_path / "labels/sub/a b.txt").read_text().splitlines():
        label, *numbers = line.split()
        points = np.array(numbers, float).reshape(-1, 2)
        assert (points >= 0).all() and (points <= 1).all()
        drawn = np.zeros((60, 80), np.uint8)
        cv2.fillPoly(drawn, [(points * (80, 60) - 0.5).round().astype(np.int32)], 1)
        assert iou(drawn > 0, images[0].label_map == int(label) + 1) > 0.9


def test_label_studio_tasks_have_polygons_in_percent(images, tmp_path):
    WRITERS["label-studio"](images, NAMES, tmp_path)
    first, second = json.loads((tmp_path / "label_studio.json").read_text())
    assert second["predictions"][0]["result"] == []
    result = first["predictions"][0]["result"]
    assert {r["value"]["polygonlabels"][0] for r in result} == {"cat", "guinea pig"}
    (cat,) = [r["value"]["points"] for r in result if r["value"]["polygonlabels"] == ["cat"]]
    assert np.allclose(np.min(cat, axis=0), (100 * 5.25 / 80, 100 * 10.25 / 60), atol=1e-3)
    view = ElementTree.parse(tmp_path / "label_studio.xml").getroot()
    assert [node.get("value") for node in view.iter("Label")] == list(NAMES[1:])


@pytest.mark.parametrize(
    "file", ["sub/a b.jpg", "a+b.jpg", "a&b.jpg", "a#1.jpg", "50%.jpg", "ä.jpg"]
)
def test_label_studio_finds_images_of_any_name(images, tmp_path, file):
    one = LabeledImage(file, images[0].label_map)
    WRITERS["label-studio"]([one], NAMES, tmp_path)
    (task,) = json.loads((tmp_path / "label_studio.json").read_text())
    query = parse_qs(urlsplit(task["data"]["image"]).query)
    assert query == {"d": [f"images/{file}"]}


def test_cvat_is_read_as_tags(images, tmp_path):
    WRITERS["cvat"](images, NAMES, tmp_path)
    table = read_tags(tmp_path / "cvat.xml")
    assert table.shown == {"sub/a b.jpg": ["cat", "guinea pig"], "c.png": []}


def test_images_of_one_stem_get_masks_of_their_own():
    assert mask_names(["a.jpg", "sub/a.jpg", "b.jpg", "b.png", "C.jpg", "c.png"]) == {
        "a.jpg": "a.png",
        "sub/a.jpg": "sub/a.png",
        "b.jpg": "b.jpg.png",
        "b.png": "b.png.png",
        "C.jpg": "C.jpg.png",
        "c.png": "c.png.png",
    }
    assert mask_names(["a.jpg", "a.png", "a.jpg.png"]) == {
        "a.jpg": "a.jpg.png",
        "a.png": "a.png.png",
        "a.jpg.png": "a.jpg.png.png",
    }
