# SPDX-License-Identifier: Apache-2.0
"""COCO's instance annotations as one label mask an image."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from dalnet.data.datasets.catalog import IGNORE_LABEL
from dalnet.data.datasets.coco import MASK_FOLDER, OFFICIAL, check_keys, open_annotations
from dalnet.errors import UsageError

from .masks import MaskSummary, write_masks

_MIN_NUMBERS = 4  # of a polygon; pycocotools knows nothing shorter


def prepare_coco(root: Path, split: str, workers: int | None = None) -> MaskSummary:
    """Write ``root/SegmentationClass/{split}2014/*.png`` for every image with an annotation.

    Values: 0 background, 1..80 the classes in the order of their official ids, 255 crowd.

    Args:
        root: folder with ``annotations/instances_{split}2014.json``.
        split: ``"train"`` or ``"val"``.
        workers: number of processes; all cores where not given.

    Raises:
        UsageError: annotations missing, incomplete or of other classes, or a mask cannot be
            written.
    """
    path = root / "annotations" / f"instances_{split}2014.json"
    coco, index = open_annotations(path)
    check_keys(path, "image", coco.imgs, height=int, width=int)
    check_keys(path, "annotation", coco.anns, segmentation=(list, dict), area=(int, float))
    for number, annotation in coco.anns.items():
        if not _is_drawable(annotation["segmentation"]):
            what = f"annotation {number} has a segmentation of neither polygons nor run lengths"
            raise UsageError(what, path, OFFICIAL)
    folder = root / MASK_FOLDER / f"{split}2014"
    sources = {
        folder / f"{Path(image['file_name']).stem}.png": (image, annotations)
        for image_id, image in coco.imgs.items()
        if (annotations := coco.imgToAnns.get(image_id))
    }
    return write_masks(sources, partial(render_mask, index), workers)


def render_mask(
    index: Mapping[int, int], annotated: tuple[dict[str, Any], list[dict[str, Any]]]
) -> np.ndarray:
    """Draw an image's label mask, uint8 [H, W].

    Crowds lie at the bottom, as an object annotated in front of one is certain; then objects from
    large to small, so that a small one in front of a large one stays visible.

    Args:
        index: class 0..79 of each category id.
        annotated: an image and its annotations, as in the file.
    """
    image, annotations = annotated
    coco = COCO()  # turns any kind of segmentation into pixels
    coco.imgs[image["id"]] = image
    mask = np.zeros((image["height"], image["width"]), dtype=np.uint8)
    for annotation in sorted(annotations, key=lambda a: (not a.get("iscrowd"), -a["area"])):
        value = IGNORE_LABEL if annotation.get("iscrowd") else index[annotation["category_id"]] + 1
        mask[coco.annToMask(annotation) > 0] = value
    return mask


def _is_drawable(segmentation: list[Any] | dict[str, Any]) -> bool:
    if isinstance(segmentation, dict):
        return "counts" in segmentation and "size" in segmentation
    return bool(segmentation) and all(
        isinstance(polygon, list) and len(polygon) >= _MIN_NUMBERS for polygon in segmentation
    )
