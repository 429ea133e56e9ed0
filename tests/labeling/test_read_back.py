# SPDX-License-Identifier: Apache-2.0
"""Each format of ``dalnet label``, read back by the programs that it is made for."""

import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dalnet.labeling.label import TaggedImage, label_images, write_formats
from dalnet.prediction.prediction import Prediction

pytestmark = pytest.mark.extra

NAMES = ("background", "cat", "guinea pig")
ROOT = Path(__file__).parents[2]
# Where Datumaro and label-studio-sdk are; "make test-extra" makes it.
PYTHON = Path(os.environ.get("READERS_PYTHON", ROOT / ".venv-readers/bin/python"))


class KnownPredictor:
    """Gives every image the label map that belongs to it."""

    class_names = NAMES

    def __init__(self, maps):
        self.maps = maps

    def label(self, image, image_classes, source):
        label_map = self.maps[image.name]
        scores = np.eye(3, dtype=np.float32)[label_map].transpose(2, 0, 1)
        return Prediction(np.array(Image.open(image)), label_map, scores, {}, NAMES)


@pytest.fixture
def maps():
    """A ring of class 2 beside a rectangle of class 1, a disk alone, and background alone."""
    first = np.zeros((60, 80), np.uint8)
    first[10:30, 5:45] = 1
    cv2.circle(first, (60, 40), 14, 2, -1)
    cv2.circle(first, (60, 40), 4, 0, -1)
    # Above the disk lie more pixels than one run of Label Studio's brush holds.
    second = np.zeros((150, 200), np.uint8)
    cv2.circle(second, (70, 125), 20, 1, -1)
    return {"a b.jpg": first, "b.png": second, "c.png": np.zeros((20, 30), np.uint8)}


@pytest.fixture
def label(maps, tmp_path):
    """Writes a folder of label maps, of images in a folder below that of all images."""

    def write(formats, below=""):
        images = []
        for name, label_map in maps.items():
            path = tmp_path / "images" / below / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((*label_map.shape, 3), 90, np.uint8)).save(path)
            tags = [NAMES[value] for value in np.unique(label_map) if value]
            images.append(TaggedImage(path, os.path.join(below, name), tags))
        label_images(KnownPredictor(maps), images, tmp_path / "out", {})
        write_formats(tmp_path / "out", images, NAMES, formats)
        return tmp_path / "out"

    return write


def read_back(reader, folder):
    if not PYTHON.exists():
        pytest.skip(f"there is no {PYTHON}; make test-extra makes it")
    target = folder.parent / "read.npz"
    script = Path(__file__).with_name("read_back.py")
    subprocess.run([PYTHON, script, reader, folder, target], check=True)
    with np.load(target) as content:
        assert tuple(content["names"]) == NAMES
        return {name: content[name] for name in content.files if name != "names"}


def overlap(found, expected):
    return [(found == v)[expected == v].mean() for v in np.unique(expected)]


@pytest.mark.parametrize("reader", ["datumaro coco", "label studio brush"])
def test_run_lengths_have_every_pixel(label, maps, reader):
    form = "coco" if "coco" in reader else "label-studio-brush"
    found = read_back(reader, label([form], "sub"))
    assert found.keys() == {f"sub/{Path(name).stem}" for name in maps}
    for name, label_map in maps.items():
        np.testing.assert_array_equal(found[f"sub/{Path(name).stem}"], label_map)


def test_palette_masks_have_every_pixel(label, maps):
    found = read_back("datumaro masks", label([]))
    assert found.keys() == {Path(name).stem for name in maps}
    for name, label_map in maps.items():
        np.testing.assert_array_equal(found[Path(name).stem], label_map)


READERS_OF_POLYGONS = {
    "datumaro coco": "coco-polygons",
    "datumaro cvat": "cvat",
    "label studio": "label-studio",
}


@pytest.mark.parametrize("reader", READERS_OF_POLYGONS)
def test_polygons_cover_the_regions(label, maps, reader):
    found = read_back(reader, label([READERS_OF_POLYGONS[reader]], "sub"))
    assert found.keys() == {f"sub/{Path(name).stem}" for name in maps}
    for name, label_map in maps.items():
        filled = without_holes(label_map)
        assert min(overlap(found[f"sub/{Path(name).stem}"], filled)) > 0.9


def without_holes(label_map):
    """Polygons have no holes."""
    filled = label_map.copy()
    if (label_map == 2).any():
        cv2.circle(filled, (60, 40), 14, 2, -1)
    return filled


@pytest.mark.parametrize("below", ["sub", "images/sub"])
def test_ultralytics_reads_the_polygons(label, maps, tmp_path, monkeypatch, below):
    monkeypatch.setenv("YOLO_OFFLINE", "1")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    pytest.importorskip("ultralytics")
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    folder = label(["yolo"], below)
    data = check_det_dataset(str(folder / "data.yaml"))
    assert data["names"] == dict(enumerate(NAMES[1:]))
    dataset = YOLODataset(data["train"], data=data, task="segment", augment=False, imgsz=80)
    assert len(dataset) == 3
    for one in dataset.labels:
        path = Path(one["im_file"])
        label_map = maps[path.name]
        assert path.parent == folder / "images" / below and one["shape"] == label_map.shape
        found = np.zeros_like(label_map)
        for (value,), points in zip(one["cls"].astype(int), one["segments"], strict=True):
            pixels = np.round(points * label_map.shape[::-1] - 0.5).astype(np.int32)
            cv2.fillPoly(found, [pixels], int(value) + 1)
        assert min(overlap(found, without_holes(label_map))) > 0.9
