# SPDX-License-Identifier: Apache-2.0
"""COCO's instance annotations as one label mask an image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle_tools
from pycocotools.coco import COCO

from dalnet.data.datasets.catalog import IGNORE_LABEL
from dalnet.data.datasets.coco import MASK_FOLDER, category_indices, open_annotations
from dalnet.errors import UsageError

from .masks import MaskSummary, write_masks

_IMAGE_KEYS = {"file_name": str, "height": int, "width": int}
_ANNOTATION_KEYS = {"category_id": int, "segmentation": (list, dict), "area": (int, float)}
_MIN_NUMBERS = 4  # of a polygon; pycocotools knows nothing shorter


@dataclass(frozen=True)
class Region:
    """One annotation: its mask value, its segmentation as in the JSON, its area in pixels."""

    value: int
    segmentation: Any
    area: float


@dataclass(frozen=True)
class Scene:
    """An image's size in pixels and its annotated regions."""

    height: int
    width: int
    regions: tuple[Region, ...]


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
    annotations = root / "annotations" / f"instances_{split}2014.json"
    coco = open_annotations(annotations, _IMAGE_KEYS, _ANNOTATION_KEYS)
    index = category_indices(coco, annotations)
    _check_segmentations(coco, annotations)
    folder = root / MASK_FOLDER / f"{split}2014"
    sources = {
        folder / f"{Path(image['file_name']).stem}.png": _scene(image, anns, index)
        for image_id, image in coco.imgs.items()
        if (anns := coco.imgToAnns.get(image_id))
    }
    return write_masks(sources, render_scene, workers)


def render_scene(scene: Scene) -> np.ndarray:
    """Draw an image's label mask, uint8 [H,W].

    Crowds lie at the bottom, as an object annotated in front of one is certain; then objects from
    large to small, so that a small one in front of a large one stays visible.
    """
    mask = np.zeros((scene.height, scene.width), dtype=np.uint8)
    order = sorted(scene.regions, key=lambda r: (r.value != IGNORE_LABEL, -r.area))
    for region in order:
        mask[_pixels(region.segmentation, scene.height, scene.width)] = region.value
    return mask


def _check_segmentations(coco: COCO, path: Path) -> None:
    for number, annotation in coco.anns.items():
        if not _is_drawable(annotation["segmentation"]):
            raise UsageError(
                f"annotation {number} in {path} has a segmentation that is neither polygons nor "
                "run lengths: use the official annotations of COCO 2014."
            )


def _is_drawable(segmentation: list[Any] | dict[str, Any]) -> bool:
    if isinstance(segmentation, dict):
        return "counts" in segmentation and "size" in segmentation
    return bool(segmentation) and all(
        isinstance(polygon, list) and len(polygon) >= _MIN_NUMBERS for polygon in segmentation
    )


def _scene(image: dict[str, Any], anns: list[dict[str, Any]], index: dict[int, int]) -> Scene:
    regions = tuple(
        Region(
            IGNORE_LABEL if ann.get("iscrowd") else index[ann["category_id"]] + 1,
            ann["segmentation"],
            ann["area"],
        )
        for ann in anns
    )
    return Scene(image["height"], image["width"], regions)


def _pixels(segmentation: Any, height: int, width: int) -> np.ndarray:  # noqa: ANN401
    if isinstance(segmentation, list):
        rle = rle_tools.merge(rle_tools.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = rle_tools.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return rle_tools.decode(rle).astype(bool)
