# SPDX-License-Identifier: Apache-2.0
"""COCO: masks from the instance annotations."""

import os
import time

import numpy as np
import pytest
from helpers import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools import mask as rle_tools

from dalnet.data.palette import voc_palette
from dalnet.data.prepare.coco_masks import (
    check_run_lengths,
    prepare_coco,
    render_mask,
    with_area,
)

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


def segment(segmentation, number=3):
    return lambda content: content["annotations"][number].update(segmentation=segmentation)


FAULTS = [
    (lambda c: c["annotations"][3].update(category_id=2), "annotation 4"),
    (lambda c: c["images"][1].pop("height"), "image 4"),
    (lambda c: c["images"][1].update(width=0), "annotation 4"),
    (lambda c: c["annotations"][3].pop("area"), "annotation 4"),
    (lambda c: c["annotations"][3].update(area=float("nan")), "annotation 4"),
    (lambda c: c["annotations"][3].pop("segmentation"), "annotation 4"),
    (segment([]), "annotation 4"),
    (segment([[]]), "annotation 4"),
    (segment([1, 2]), "annotation 4"),
    (segment([[1, 2], [5, 2], [5, 8]]), "annotation 4"),
    (segment([[[1, 2], [5, 2], [5, 8]]]), "annotation 4"),
    (segment([[1, 2, 5, 2, 5]]), "annotation 4"),
    (segment([[1, 2, 5, "2", 5, 8]]), "annotation 4"),
    (segment([[1, 2, 5, float("nan"), 5, 8]]), "annotation 4"),
    (segment([[1, 2, 5, 10**400, 5, 8]]), "annotation 4"),
    (segment([[1, 2, 1e9, 2, 5, 8]]), "annotation 4"),
    (segment({}, 2), "annotation 3"),
    (segment({"size": [WIDTH, HEIGHT], "counts": [100, 40, 100]}, 2), "annotation 3"),
    (segment({"size": "12x20", "counts": [100, 40, 100]}, 2), "annotation 3"),
    (segment({"size": [HEIGHT, WIDTH], "counts": [100, 40]}, 2), "annotation 3"),
    (segment({"size": [HEIGHT, WIDTH], "counts": [300, -60]}, 2), "annotation 3"),
    (segment({"size": [HEIGHT, WIDTH], "counts": [100, "40", 100]}, 2), "annotation 3"),
    (segment({"size": [HEIGHT, WIDTH], "counts": "not base64 \u00e4"}, 2), "annotation 3"),
    (segment({"size": [HEIGHT, WIDTH], "counts": None}, 2), "annotation 3"),
]


@pytest.mark.parametrize(("change", "entry"), FAULTS)
def test_incomplete_entries_are_named_before_a_mask_is_drawn(
    coco_root, edit_annotations, change, entry
):
    edit_annotations(change)
    with refused("instances_val2014.json", entry):
        prepare_coco(coco_root, "val", workers=1)
    assert not (coco_root / "SegmentationClass").exists()


@pytest.mark.parametrize(
    "polygons",
    [
        [[8, 4, 10, 8]],
        [[8, 4, 10, 8], [0, 0, 5, 0, 5, 5, 0, 5]],
        [[0, 0, 5, 0, 5, 5, 0, 5], [8, 4, 10, 8]],
        [[0, 0, 5, 0, 5, 5, 0, 5], [21, 0, 30, 0, 30, 5, 21, 5]],
    ],
)
def test_polygons_without_area_are_left_out_and_counted(
    coco_root, edit_annotations, caplog, polygons
):
    edit_annotations(segment(polygons))
    prepare_coco(coco_root, "val", workers=1)
    assert "1 of 4 annotations" in caplog.text and "annotation 4" in caplog.text
    with Image.open(coco_root / "SegmentationClass/val2014/v_4.png") as image:
        drawn = np.array(image)
    assert (drawn == 3).sum() == (25 if len(polygons) > 1 else 0)


def test_masks_older_than_the_annotations_are_drawn_again(coco_root, edit_annotations):
    first = prepare_coco(coco_root, "val", workers=1)
    edit_annotations(segment([[0, 0, 9, 0, 9, 9, 0, 9]]))
    later = time.time() + 5
    os.utime(coco_root / "annotations" / "instances_val2014.json", (later, later))
    second = prepare_coco(coco_root, "val", workers=1)
    assert (second.written, second.kept) == (2, 0) and second.checksum != first.checksum
    with Image.open(coco_root / "SegmentationClass/val2014/v_4.png") as image:
        assert (np.array(image) == 3).sum() == 81


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.booleans()))
@settings(max_examples=200, deadline=None)
def test_whole_run_lengths_pass_and_damaged_ones_do_not(pixels):
    rle = rle_tools.encode(np.asfortranarray(pixels))
    height, width = pixels.shape
    text = rle["counts"].decode()
    check_run_lengths({"size": [height, width], "counts": text}, height, width)
    with pytest.raises(ValueError, match="of size"):
        check_run_lengths({"size": [height, width + 1], "counts": text}, height, width)
    for damaged in (text[:-1], text + "1", text + "\u00e4"):
        with pytest.raises(ValueError, match="run lengths"):
            check_run_lengths({"size": [height, width], "counts": damaged}, height, width)


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.integers() | st.text(max_size=2)


@given(st.recursive(numbers | st.none(), lambda inner: st.lists(inner, max_size=9), max_leaves=30))
@settings(max_examples=300, deadline=None)
def test_nonsense_in_place_of_polygons_is_drawn_or_refused(segmentation):
    if not isinstance(segmentation, list):
        return
    image = {"id": 1, "height": HEIGHT, "width": WIDTH}
    try:
        polygons = with_area(segmentation, HEIGHT, WIDTH)
    except (ValueError, OverflowError):
        return
    annotation = {"image_id": 1, "category_id": 9, "segmentation": polygons, "area": 1.0}
    assert render_mask({9: 6}, (image, [annotation])).shape == (HEIGHT, WIDTH)


def test_coco_command_exits_with_one_sentence(tmp_path, last_words):
    status, sentence = last_words("coco", "--output", tmp_path)
    assert status == 1 and sentence.startswith("error: ")
    assert "instances_train2014.json" in sentence
