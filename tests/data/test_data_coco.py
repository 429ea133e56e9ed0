# SPDX-License-Identifier: Apache-2.0
"""COCO: labels and masks from the instance annotations."""

import json
import os

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as rle_tools

from dalnet.data.datasets.coco import COCO_CLASSES, load_coco
from dalnet.data.palette import voc_palette
from dalnet.data.prepare.coco_masks import Region, Scene, prepare_coco, render_scene
from dalnet.errors import UsageError

HEIGHT, WIDTH = 12, 20


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
    pixels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    pixels[:, 15:] = 1
    flat = pixels.flatten(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": counts}


@pytest.fixture
def root(tmp_path):
    """Image 9: person behind toothbrush, a crowd at the right; 4: a car; 7: nothing."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2014").mkdir()
    images = [
        {"id": i, "file_name": f"v_{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in (9, 4, 7)
    ]
    for image in images:
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "val2014" / image["file_name"])
    annotations = [
        annotation(9, 90, box(4, 4, 8, 8), 16),  # small, yet listed first
        annotation(9, 1, box(2, 2, 17, 10), 120),
        annotation(9, 1, crowd_rle(), 60, crowd=1),
        annotation(4, 3, box(0, 0, 5, 5), 25),
    ]
    write_json(tmp_path, images, annotations, [(1, "person"), (3, "car"), (90, "toothbrush")])
    return tmp_path


def write_json(root, images, annotations, categories):
    annotations = [{"id": i + 1, **a} for i, a in enumerate(annotations)]
    categories = [{"id": i, "name": name} for i, name in categories]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_val2014.json").write_text(json.dumps(content))


def test_classes_are_the_eighty_in_order_of_their_ids():
    assert len(COCO_CLASSES) == 80
    assert (COCO_CLASSES[0], COCO_CLASSES[2], COCO_CLASSES[-1]) == ("person", "car", "toothbrush")
    meta = MetadataCatalog.get("coco_2014_sem_seg_train")
    assert len(meta.stuff_classes) == len(meta.stuff_colors) == 81
    assert meta.prompt_names == list(COCO_CLASSES)


def test_list_has_labels_and_leaves_out_images_without(root, monkeypatch):
    dicts = load_coco(root, "val")
    assert [(d["image_id"], d["image_labels"]) for d in dicts] == [(4, [2]), (9, [0, 79])]
    assert dicts[1]["file_name"] == str(root / "val2014" / "v_9.jpg")
    assert dicts[1]["sem_seg_file_name"] == str(root / "SegmentationClass/val2014/v_9.png")
    root.rename(root.parent / "coco")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root.parent))
    assert len(DatasetCatalog.get("coco_2014_sem_seg_val")) == 2


def test_callers_cannot_spoil_the_list_and_new_annotations_are_seen(root):
    load_coco(root, "val")[0]["image_labels"].append(5)
    assert load_coco(root, "val")[0]["image_labels"] == [2]
    path = root / "annotations" / "instances_val2014.json"
    path.write_text(path.read_text().replace('"category_id": 3', '"category_id": 90'))
    os.utime(path, ns=(1, 1))
    assert load_coco(root, "val")[0]["image_labels"] == [79]


def expected_mask():
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[:, 15:] = 255
    mask[2:10, 2:17] = 1
    mask[4:8, 4:8] = 80
    return mask


def test_masks_small_over_large_over_crowd(root):
    summary = prepare_coco(root, "val", workers=2)
    with Image.open(root / "SegmentationClass/val2014/v_9.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[:9] == sum(voc_palette(3), [])
        np.testing.assert_array_equal(np.array(image), expected_mask())
    assert sorted(os.listdir(root / "SegmentationClass/val2014")) == ["v_4.png", "v_9.png"]
    assert (summary.written, summary.kept) == (2, 0)


def test_compressed_run_lengths_are_read_too():
    pixels = np.asfortranarray(expected_mask() == 80, dtype=np.uint8)
    region = Region(7, rle_tools.encode(pixels), 16.0)
    np.testing.assert_array_equal(render_scene(Scene(HEIGHT, WIDTH, (region,))), 7 * pixels)


def test_preparation_resumes_and_its_checksum_sees_every_pixel(root):
    first = prepare_coco(root, "val", workers=1)
    path = root / "SegmentationClass/val2014/v_9.png"
    finished = path.stat().st_mtime_ns
    (root / "SegmentationClass/val2014/v_4.png").write_bytes(b"cut off")
    second = prepare_coco(root, "val", workers=2)
    assert (second.written, second.kept) == (1, 1) and path.stat().st_mtime_ns == finished
    assert second.checksum == first.checksum
    changed = expected_mask()
    changed[0, 0] = 1
    Image.fromarray(changed).save(path)
    assert prepare_coco(root, "val", workers=1).checksum != first.checksum


def test_broken_releases_are_named(root, tmp_path):
    with pytest.raises(UsageError, match="train2014"):
        load_coco(root, "train")
    with pytest.raises(UsageError, match="instances_train2014.json"):
        prepare_coco(root, "train", workers=1)
    (root / "val2014" / "v_9.jpg").unlink()
    with pytest.raises(UsageError, match="v_9.jpg"):
        load_coco(root, "val")
    write_json(root, [], [], [(1, "dragon")])
    with pytest.raises(UsageError, match="dragon.*instances_val2014.json"):
        load_coco(root, "val")
    (root / "annotations" / "instances_val2014.json").write_text("{")
    with pytest.raises(UsageError, match="instances_val2014.json"):
        load_coco(root, "val")


@pytest.mark.parametrize("part", [".", "val2014"])
def test_unreadable_folder_is_named(root, lock, part):
    lock(root / part)
    with pytest.raises(UsageError, match="val2014 cannot be read .Permission"):
        load_coco(root, "val")


def edit(root, change):
    path = root / "annotations" / "instances_val2014.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


FAULTS = [
    (lambda c: c["annotations"][3].update(category_id=2), "annotation 4 .*unknown category 2"),
    (
        lambda c: c["annotations"][3].update(category_id=None),
        "annotation 4 .*no usable 'category_id'",
    ),
    (lambda c: c["annotations"][3].pop("image_id"), "not a readable COCO .*image_id"),
    (lambda c: c.update(annotations=None), "not a readable COCO"),
    (lambda c: c["images"][1].pop("file_name"), "image 4 .*no usable 'file_name'"),
    (lambda c: c["images"][1].update(file_name=None), "image 4 .*no usable 'file_name'"),
    (lambda c: c["categories"][0].pop("name"), "category 1 .*no usable 'name'"),
]
FAULTS_OF_MASKS = [
    (lambda c: c["images"][1].pop("height"), "image 4 .*no usable 'height'"),
    (lambda c: c["annotations"][3].pop("area"), "annotation 4 .*no usable 'area'"),
    (lambda c: c["annotations"][3].pop("segmentation"), "annotation 4 .*'segmentation'"),
    (lambda c: c["annotations"][3].update(segmentation=[]), "annotation 4 .*neither polygons"),
    (lambda c: c["annotations"][3].update(segmentation=[[]]), "annotation 4 .*neither polygons"),
    (lambda c: c["annotations"][3].update(segmentation=[1, 2]), "annotation 4 .*neither polygons"),
    (lambda c: c["annotations"][2].update(segmentation={}), "annotation 3 .*neither polygons"),
]


@pytest.mark.parametrize(("change", "part"), FAULTS)
def test_incomplete_entries_are_named(root, change, part):
    edit(root, change)
    with pytest.raises(UsageError, match=part) as error:
        load_coco(root, "val")
    assert "instances_val2014.json" in str(error.value)


@pytest.mark.parametrize(("change", "part"), FAULTS + FAULTS_OF_MASKS)
def test_incomplete_entries_are_named_before_a_mask_is_drawn(root, change, part):
    edit(root, change)
    with pytest.raises(UsageError, match=part):
        prepare_coco(root, "val", workers=1)
    assert not (root / "SegmentationClass").exists()
