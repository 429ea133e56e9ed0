# SPDX-License-Identifier: Apache-2.0
"""Data sets that do not fit the config, each other, or what is on disk."""

import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers import refused
from PIL import Image

from dalnet.data import build_test_loader, build_train_loader
from dalnet.data.checks import check_corrected_masks
from dalnet.data.datasets import register_voc_layout


def test_missing_masks_stop_the_evaluation_at_once(tree, tree_cfg):
    (tree / "SegmentationClass" / "p3.png").unlink()
    with refused("p3.png", "1 of 6"):
        build_test_loader(tree_cfg(), "built_tree")
    shutil.rmtree(tree / "SegmentationClass")
    with refused("SegmentationClass", "6 of 6"):
        build_test_loader(tree_cfg(), "built_tree")


def test_unreadable_masks_are_named(tree, tree_cfg, lock):
    lock(tree / "SegmentationClass")
    with refused("SegmentationClass"):
        build_test_loader(tree_cfg(), "built_tree")


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_corrected_masks_of_turned_images_are_upright(tmp_path, suffix):
    exif, mask = Image.Exif(), str(tmp_path / "a.png")
    exif[0x0112] = 6
    Image.new("RGB", (9, 6)).save(tmp_path / f"a.{suffix}", exif=exif)
    record = {"file_name": str(tmp_path / f"a.{suffix}"), "corrected_mask": mask}
    record["image_labels"] = []
    Image.new("L", (6, 9)).save(mask)
    check_corrected_masks([record], 2)
    Image.new("L", (9, 6)).save(mask)
    with refused(mask, "EXIF"):
        check_corrected_masks([record], 2)


def test_corrected_masks_of_classes_without_a_tag_are_named(tmp_path, caplog):
    mask = np.array([[0, 1, 2, 255]], np.uint8)
    record = {"file_name": str(tmp_path / "a.jpg"), "corrected_mask": str(tmp_path / "a.png")}
    Image.new("RGB", mask.shape[::-1]).save(record["file_name"])
    Image.fromarray(mask).save(record["corrected_mask"])
    uncorrected = {"file_name": "none.jpg", "image_labels": []}
    for labels in ({"image_labels": [0, 1]}, {"image_labels": [0], "unknown_labels": [1, 2]}):
        check_corrected_masks([record | labels, uncorrected], 4)
    assert not caplog.text
    check_corrected_masks([record | {"image_labels": [0, 2]}, uncorrected], 4)
    assert "1 of 1 corrected masks" in caplog.text and record["corrected_mask"] in caplog.text


def test_corrected_masks_with_255_for_the_object_are_refused(tmp_path):
    records = []
    for name, values in (("a", [0, 255]), ("b", [0, 0])):
        mask, path = str(tmp_path / f"{name}.png"), str(tmp_path / f"{name}.jpg")
        Image.fromarray(np.array([values], np.uint8)).save(mask)
        Image.new("RGB", (2, 1)).save(path)
        records.append({"file_name": path, "corrected_mask": mask, "image_labels": [0]})
    records[1]["image_labels"] = []
    with refused("a.png", "255"):
        check_corrected_masks(records, 2)
    Image.fromarray(np.array([[1, 255]], np.uint8)).save(tmp_path / "a.png")
    check_corrected_masks(records, 2)


@pytest.fixture
def reordered(tree):
    """The data set of ``tree`` with its two classes in the other order."""
    register_voc_layout("reordered", tree, ("dog", "cat"), split="all")
    yield "reordered"
    DatasetCatalog.pop("reordered")
    MetadataCatalog.pop("reordered")


def test_classes_of_another_order_are_refused(reordered, tree_cfg):
    build_test_loader(tree_cfg("DATASETS.TRAIN", (reordered,)), reordered)
    with refused("DATASETS.TEST", "reordered", "dog"):
        build_test_loader(tree_cfg(), reordered, any_order=False)
    build_test_loader(tree_cfg(), reordered)  # matched by name, see test_classes.py
    names = ("MODEL.CLASS_NAMES", ("background", "dog", "cat"))
    build_test_loader(tree_cfg(*names), reordered)
    with refused("DATASETS.TRAIN", "built_tree", "cat"):
        build_train_loader(tree_cfg(*names))


def test_masks_with_numbers_of_their_own_are_left_to_another_command(tree_cfg):
    with refused("DATASETS.TEST", "zero_shot_voc20", "dalnet zero-shot"):
        build_test_loader(tree_cfg(), "zero_shot_voc20")


def test_a_run_that_was_moved_needs_no_description_for_another_data_set(tree, tree_cfg):
    cfg = tree_cfg("DATASETS.DESCRIPTION", "gone.yaml", "DATASETS.TRAIN", ("tagged_train",))
    build_test_loader(cfg, "built_tree")
    with refused("gone.yaml"):
        build_test_loader(cfg, "tagged_val")


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ((), False),
        (("INPUT.RESCALE_RANGE", (2.0, 4.0)), True),
        (("INPUT.RESCALE_RANGE", (2.0, 4.0), "INPUT.MIN_SIZE_TRAIN", (20,)), False),
        (("INPUT.RESCALE_RANGE", (2.0, 4.0), "INPUT.LONGER_SIDE_RANGE", (20, 40)), False),
    ],
)
def test_images_too_large_for_the_crop_are_named(tree, tree_cfg, caplog, options, warned):
    build_train_loader(tree_cfg(*options))
    assert ("40 pixels on the short side" in caplog.text) == warned
    assert ("INPUT.MIN_SIZE_TRAIN" in caplog.text) == warned
