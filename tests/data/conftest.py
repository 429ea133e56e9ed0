# SPDX-License-Identifier: Apache-2.0
"""What tests of data on disk share: small COCO and VOC releases, folders that may not be read."""

import errno
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers import write_voc_tree
from PIL import Image

from dalnet.config import add_dalnet_config
from dalnet.data.datasets import register_voc_layout

COCO_HEIGHT, COCO_WIDTH = 12, 20


@pytest.fixture
def lock(monkeypatch):
    """``lock(folder)`` takes the right to look into a folder, from a superuser too."""
    asked = {(os, "listdir"): False, (os, "scandir"): False, (os, "stat"): True, (io, "open"): True}

    def lock_folder(folder):
        def locked(call, inside_only):
            def refuse_or_call(path=".", *args, **kwargs):
                if isinstance(path, str | os.PathLike):
                    target = Path(path)
                    if folder in target.parents or (folder == target and not inside_only):
                        raise PermissionError(errno.EACCES, "Permission denied", str(path))
                return call(path, *args, **kwargs)

            return refuse_or_call

        for (module, name), inside_only in asked.items():
            monkeypatch.setattr(module, name, locked(getattr(module, name), inside_only))

    return lock_folder


@pytest.fixture
def write_tree():
    """``write_tree(root, tags, xml, suffixes)`` writes a VOC-layout folder of three images."""
    return _write_tree


def _write_tree(root, tags=None, xml=None, suffixes=None):
    """Three images; labels from ``tags``, or from ``xml`` = {id: [names]}."""
    (root / "JPEGImages").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    ids = ["a", "b", "c"]
    for i, name in enumerate(ids):
        suffix = (suffixes or {}).get(name, ".jpg")
        Image.new("RGB", (8, 6), (40 * i, 0, 0)).save(root / "JPEGImages" / (name + suffix))
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n b \n\nc\n")
    if tags is not None:
        (root / "image_tags.json").write_text(json.dumps(tags))
    for name, objects in (xml or {}).items():
        (root / "Annotations").mkdir(exist_ok=True)
        entries = "".join(
            f"<object><name>{o}</name><difficult>1</difficult><part><name>head</name></part>"
            "</object>"
            for o in objects
        )
        path = root / "Annotations" / f"{name}.xml"
        path.write_text(f"<annotation><folder>x</folder>{entries}</annotation>")
    return root


def box(x0, y0, x1, y1):
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def annotation(image_id, category, segmentation, area, crowd=0):
    return {
        "image_id": image_id,
        "category_id": category,
        "segmentation": segmentation,
        "area": area,
        "iscrowd": crowd,
        "bbox": [0, 0, 1, 1],
    }


def crowd_rle():
    pixels = np.zeros((COCO_HEIGHT, COCO_WIDTH), dtype=np.uint8)
    pixels[:, 15:] = 1
    flat = pixels.flatten(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    return {"size": [COCO_HEIGHT, COCO_WIDTH], "counts": counts}


@pytest.fixture
def coco_root(tmp_path):
    """Image 9: person behind toothbrush, a crowd at the right; 4: a car; 7: nothing."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2014").mkdir()
    images = [
        {"id": i, "file_name": f"v_{i}.jpg", "height": COCO_HEIGHT, "width": COCO_WIDTH}
        for i in (9, 4, 7)
    ]
    for image in images:
        Image.new("RGB", (COCO_WIDTH, COCO_HEIGHT)).save(tmp_path / "val2014" / image["file_name"])
    annotations = [
        annotation(9, 90, box(4, 4, 8, 8), 16),  # small, yet listed first
        annotation(9, 1, box(2, 2, 17, 10), 120),
        annotation(9, 1, crowd_rle(), 60, crowd=1),
        annotation(4, 3, box(0, 0, 5, 5), 25),
    ]
    write_annotations(
        tmp_path, images, annotations, [(1, "person"), (3, "car"), (90, "toothbrush")]
    )
    return tmp_path


def write_annotations(root, images, annotations, categories):
    annotations = [{"id": i + 1, **a} for i, a in enumerate(annotations)]
    categories = [{"id": i, "name": name} for i, name in categories]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_val2014.json").write_text(json.dumps(content))


@pytest.fixture
def edit_annotations(coco_root):
    """``edit_annotations(change)`` hands the content of the annotation file to ``change``."""

    def edit(change):
        path = coco_root / "annotations" / "instances_val2014.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


@pytest.fixture
def tree(tmp_path):
    """Six images, the last without a label, registered as ``built_tree``."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(6)]
    tags = [["cat" if i % 2 else "dog"] for i in range(5)]
    write_voc_tree(tmp_path, images, np.zeros((6, 40, 50), np.uint8), tags, ["all"], "p{}.png")
    register_voc_layout("built_tree", tmp_path, ("cat", "dog"), split="all")
    yield tmp_path
    DatasetCatalog.pop("built_tree")
    MetadataCatalog.pop("built_tree")


@pytest.fixture
def tree_cfg(tree):
    """``tree_cfg(*options)`` is a config for the data set of ``tree``."""

    def make(*options):
        cfg = get_cfg()
        add_dalnet_config(cfg)
        cfg.DATASETS.TRAIN = ("built_tree",)
        cfg.INPUT.CROP.SIZE = [32, 32]
        cfg.INPUT.MULTI_CROP.LOCAL_SIZE = 16
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
        cfg.SOLVER.IMS_PER_BATCH = 2
        cfg.DATALOADER.NUM_WORKERS = 0
        cfg.merge_from_list(list(options))
        return cfg

    return make
