# SPDX-License-Identifier: Apache-2.0
"""COCO's instance annotations as one label mask an image."""

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from dalnet.data.datasets.catalog import IGNORE_LABEL
from dalnet.data.datasets.coco import MASK_FOLDER, OFFICIAL, check_entries, open_annotations
from dalnet.errors import UsageError

from .masks import MaskSource, MaskSummary, write_masks

_MAX_PIXELS = 1 << 28  # of a mask
_MIN_NUMBERS = 6  # of a polygon with an area; pycocotools takes four for a box

logger = logging.getLogger(__name__)
Annotation = dict[str, Any]


def prepare_coco(root: Path, split: str, workers: int | None = None) -> MaskSummary:
    """Write ``root/SegmentationClass/{split}2014/*.png`` for every image with an annotation.

    Values: 0 background, 1..80 the classes in the order of their official ids, 255 crowd.
    Masks that are older than the annotations are drawn again. Polygons without area (fewer than
    three points, or outside the image) are left out and counted in the log.

    Args:
        root: folder with ``annotations/instances_{split}2014.json``.
        split: ``"train"`` or ``"val"``.
        workers: number of processes; all cores where not given.

    Raises:
        UsageError: annotations missing, incomplete, damaged or of other classes, or a mask cannot
            be written.
    """
    path = root / "annotations" / f"instances_{split}2014.json"
    coco, index = open_annotations(path)
    check_entries(path, "image", coco.dataset["images"], height=int, width=int)
    annotations = coco.dataset["annotations"]
    check_entries(path, "annotation", annotations, segmentation=(list, dict), area=(int, float))
    dropped = [a["id"] for a in annotations if not _keep_drawable(path, a, coco.imgs)]
    if dropped:
        logger.warning(
            "%d of %d annotations in %s have polygons without area, which are left out; the first "
            "is annotation %s.",
            len(dropped),
            len(annotations),
            path,
            dropped[0],
        )
    folder, changed_at = root / MASK_FOLDER / f"{split}2014", path.stat().st_mtime
    sources = {
        folder / f"{Path(image['file_name']).stem}.png": MaskSource((image, found), changed_at)
        for image_id, image in coco.imgs.items()
        if (found := coco.imgToAnns.get(image_id))
    }
    return write_masks(sources, partial(render_mask, index), workers)


def render_mask(
    index: Mapping[int, int], annotated: tuple[dict[str, Any], list[Annotation]]
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
        if annotation["segmentation"]:
            mask[coco.annToMask(annotation) > 0] = value
    return mask


def _keep_drawable(path: Path, annotation: Annotation, images: Mapping[int, Annotation]) -> bool:
    """Remove the polygons without area from an annotation; return whether there were none.

    Raises:
        UsageError: the segmentation is no polygons and no run lengths, or damaged.
    """
    image, segmentation = images[annotation["image_id"]], annotation["segmentation"]
    try:
        if not math.isfinite(annotation["area"]) or min(image["height"], image["width"]) < 1:
            raise ValueError("its area or the size of its image is no size")
        if image["height"] * image["width"] > _MAX_PIXELS:
            raise ValueError(f"its image has {image['width']} x {image['height']} pixels")
        if isinstance(segmentation, dict):
            check_run_lengths(segmentation, image["height"], image["width"])
            return True
        drawable = with_area(segmentation, image["height"], image["width"])
    except (ValueError, OverflowError) as e:
        raise UsageError(str(e), f"{path}, annotation {annotation['id']}", OFFICIAL) from e
    annotation["segmentation"] = drawable
    return len(drawable) == len(segmentation)


def with_area(polygons: Sequence[Any], height: int, width: int) -> list[list[float]]:
    """Return the polygons, each ``[x1, y1, x2, y2, ...]``, that have an area within an image.

    Raises:
        ValueError: they are no polygons, or reach farther out of the image than it is large.
    """
    if not polygons or not all(isinstance(polygon, list) and polygon for polygon in polygons):
        raise ValueError("its segmentation is neither polygons nor run lengths")
    if len(polygons) > 1 and all(len(polygon) == 2 for polygon in polygons):
        raise ValueError("its polygon is a list of points, not [[x1, y1, x2, y2, ...]]")
    drawable = []
    for polygon in polygons:
        for number in polygon:
            if not isinstance(number, int | float) or not math.isfinite(number):
                raise ValueError(f"its polygon has the coordinate {number!r}")
        xs, ys = polygon[::2], polygon[1::2]
        if len(xs) != len(ys):
            raise ValueError(f"its polygon has {len(polygon)} coordinates, an odd number")
        # pycocotools walks along every edge, also outside: for ever, if it is long enough.
        if max(map(abs, xs)) > 2 * width or max(map(abs, ys)) > 2 * height:
            raise ValueError("its polygon lies far outside the image")
        inside = min(xs) < width and max(xs) > 0 and min(ys) < height and max(ys) > 0
        if len(polygon) >= _MIN_NUMBERS and inside:
            drawable.append(polygon)
    return drawable


def check_run_lengths(segmentation: Mapping[str, Any], height: int, width: int) -> None:
    """Refuse run lengths, plain or compressed, that do not fill an image.

    Raises:
        ValueError: the size is another, or the counts are damaged.
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise ValueError(f"its run lengths are of size {size}, but its image of {[height, width]}")
    counts = _decompress(counts) if isinstance(counts, str) else counts
    if not isinstance(counts, list) or not all(isinstance(c, int) and c >= 0 for c in counts):
        raise ValueError("its run lengths are damaged")
    if sum(counts) != height * width:
        raise ValueError(f"its run lengths cover {sum(counts)} pixels of {height * width}")


def _decompress(text: str) -> list[int]:
    """Return the counts of COCO's compressed run lengths (its ``rleFrString``)."""
    counts: list[int] = []
    value = shift = 0
    for code in (ord(character) - 48 for character in text):
        if not 0 <= code < 64:
            raise ValueError("its run lengths are damaged")
        value |= (code & 31) << shift  # five bits at a time, the lowest first
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("its run lengths are cut off")
    return counts
