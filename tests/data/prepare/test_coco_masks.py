# SPDX-License-Identifier: Apache-2.0
"""COCO: masks from the instance annotations."""

import os

import numpy as np
import pytest
from helpers import refused
from PIL import Image
from pycocotools import mask as rle_tools

from dalnet.data.palette import voc_palette
from dalnet.data.prepare.coco_masks import prepare_coco, render_mask

HEIGHT, WIDTH = 12, 20


def expected_mask():
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[:, 15:] = 255
    mask[2:10, 2:17] = 1
    mask[4:8, 4:8] = 80
    return mask


def test_masks_small_over_large_over_crowd(coco_root):
    summary = prepare_coco(coco_root, "val", workers=2)
    with Image.open(coco_root / "SegmentationClass/val2014/v_9.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[:9] == sum(voc_palette(3), [])
        np.testing.assert_array_equal(np.array(image), expected_mask())
    assert sorted(os.listdir(coco_root / "SegmentationClass/val2014")) == ["v_4.png", "v_9.png"]
    assert (summary.written, summary.kept) == (2, 0)


def test_compressed_run_lengths_are_read_too():
    pixels = np.asfortranarray(expected_mask() == 80, dtype=np.uint8)
    image = {"id": 1, "height": HEIGHT, "width": WIDTH}
    rle = rle_tools.encode(pixels)
    annotation = {"image_id": 1, "category_id": 9, "segmentation": rle, "area": 16.0}
    np.testing.assert_array_equal(render_mask({9: 6}, (image, [annotation])), 7 * pixels)


def test_preparation_resumes_and_its_checksum_sees_every_pixel(coco_root):
    first = prepare_coco(coco_root, "val", workers=1)
    path = coco_root / "SegmentationClass/val2014/v_9.png"
    finished = path.stat().st_mtime_ns
    (coco_root / "SegmentationClass/val2014/v_4.png").write_bytes(b"cut off")
    second = prepare_coco(coco_root, "val", workers=2)
    assert (second.written, second.kept) == (1, 1) and path.stat().st_mtime_ns == finished
    assert second.checksum == first.checksum
    changed = expected_mask()
    changed[0, 0] = 1
    Image.fromarray(changed).save(path)
    assert prepare_coco(coco_root, "val", workers=1).checksum != first.checksum


FAULTS = [
    (lambda c: c["annotations"][3].update(category_id=2), "annotation 4"),
    (lambda c: c["images"][1].pop("height"), "image 4"),
    (lambda c: c["annotations"][3].pop("area"), "annotation 4"),
    (lambda c: c["annotations"][3].pop("segmentation"), "annotation 4"),
    (lambda c: c["annotations"][3].update(segmentation=[]), "annotation 4"),
    (lambda c: c["annotations"][3].update(segmentation=[[]]), "annotation 4"),
    (lambda c: c["annotations"][3].update(segmentation=[1, 2]), "annotation 4"),
    (lambda c: c["annotations"][2].update(segmentation={}), "annotation 3"),
]


@pytest.mark.parametrize(("change", "entry"), FAULTS)
def test_incomplete_entries_are_named_before_a_mask_is_drawn(
    coco_root, edit_annotations, change, entry
):
    edit_annotations(change)
    with refused("instances_val2014.json", entry):
        prepare_coco(coco_root, "val", workers=1)
    assert not (coco_root / "SegmentationClass").exists()


def test_coco_command_exits_with_one_sentence(tmp_path, last_words):
    status, sentence = last_words("coco", "--output", tmp_path)
    assert status == 1 and sentence.startswith("error: ")
    assert "instances_train2014.json" in sentence
