# SPDX-License-Identifier: Apache-2.0
"""The data sets that open-vocabulary systems are measured on: ``zero_shot_{voc21,...,ade20k}``.

Masks are read as their authors publish them: a table says which label each stored value means.
The background is a class of some of them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

from dalnet.assets import ASSETS
from dalnet.data.image_io import read_mask
from dalnet.data.palette import voc_palette
from dalnet.errors import UsageError
from dalnet.io import read_lines, reading_errors

from .catalog import IGNORE_LABEL, datasets_root
from .coco import COCO_CLASSES
from .voc import VOC_CLASSES

PREFIX = "zero_shot_"
_NO_LABEL = -1  # of a value that no mask may have
# Of COCO's ids from 0, these are no class's; those behind 90 are COCO-Stuff's.
_UNUSED_COCO_IDS = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
_THINGS, _STUFF = range(91), range(91, 182)


@cache
def class_lists() -> dict[str, Any]:
    """Return the lists of ``zero_shot_classes.yaml``, by name."""
    return yaml.safe_load((ASSETS / "zero_shot_classes.yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class ZeroShotSet:
    """One data set.

    Attributes:
        classes: in the order of labels, "background" first where it is one.
        labels: the label of each value that a mask may have; 255 for what is not counted.
        find: from the data root to the images and their masks.
    """

    classes: tuple[str, ...]
    labels: Mapping[int, int]
    find: Callable[[Path], Iterable[tuple[Path, Path]]]


def _voc_files(year: str, lists: str, masks: str, root: Path) -> list[tuple[Path, Path]]:
    folder = root / year
    names = read_lines(folder / "ImageSets" / lists / "val.txt", "unpack the data set there")
    return [
        (folder / "JPEGImages" / f"{name}.jpg", folder / masks / f"{name}.png") for name in names
    ]


def _coco_files(root: Path) -> list[tuple[Path, Path]]:
    masks = root / "coco" / "stuffthingmaps" / "val2017"
    return _pairs(root / "coco" / "val2017", "*.jpg", lambda image: masks / f"{image.stem}.png")


def _cityscapes_files(root: Path) -> list[tuple[Path, Path]]:
    masks = root / "cityscapes" / "gtFine" / "val"

    def mask_of(image: Path) -> Path:
        name = image.name.replace("leftImg8bit", "gtFine_labelIds")
        return masks / image.parent.name / name

    return _pairs(root / "cityscapes" / "leftImg8bit" / "val", "*/*_leftImg8bit.png", mask_of)


def _ade20k_files(root: Path) -> list[tuple[Path, Path]]:
    folder = root / "ADEChallengeData2016"
    masks = folder / "annotations" / "validation"
    return _pairs(
        folder / "images" / "validation", "*.jpg", lambda image: masks / f"{image.stem}.png"
    )


@reading_errors()
def _pairs(folder: Path, pattern: str, mask_of: Callable[[Path], Path]) -> list[tuple[Path, Path]]:
    images = sorted(folder.glob(pattern))
    if not images:
        raise UsageError("there are no images", folder, "unpack the data set there (docs/data.md)")
    return [(image, mask_of(image)) for image in images]


def _identity(count: int) -> dict[int, int]:
    return {IGNORE_LABEL: IGNORE_LABEL, **{value: value for value in range(count)}}


def _without_zero(count: int) -> dict[int, int]:
    """Labels of masks in which 0 is no class and the first class is 1."""
    first = {0: IGNORE_LABEL, IGNORE_LABEL: IGNORE_LABEL}
    return {**first, **{value + 1: value for value in range(count)}}


def _coco_stuff_labels() -> dict[int, int]:
    used = [value for value in (*_THINGS, *_STUFF) if value not in _UNUSED_COCO_IDS]
    return {IGNORE_LABEL: IGNORE_LABEL, **{value: label for label, value in enumerate(used)}}


def _coco_object_labels() -> dict[int, int]:
    # What is not labeled is scored as background too, as published.
    things = [value for value in _THINGS if value not in _UNUSED_COCO_IDS]
    background = dict.fromkeys((*_STUFF, IGNORE_LABEL), 0)
    return {**background, **{value: label for label, value in enumerate(things, start=1)}}


def _cityscapes_labels() -> dict[int, int]:
    # Cityscapes has ids 0 to 33, of which 19 are evaluated; -1, a license plate, is stored as 255.
    others = dict.fromkeys((*range(34), IGNORE_LABEL), IGNORE_LABEL)
    return {**others, **{c["id"]: c["trainId"] for c in CITYSCAPES_CATEGORIES}}


def _sets() -> dict[str, ZeroShotSet]:
    lists = class_lists()
    context, ade = tuple(lists["context"]), tuple(lists["ade20k"])
    voc_files = partial(_voc_files, "VOC2012", "Segmentation", "SegmentationClass")
    context_files = partial(
        _voc_files, "VOC2010", "SegmentationContext", "SegmentationClassContext"
    )
    background = ("background",)
    cityscapes = tuple(category["name"] for category in CITYSCAPES_CATEGORIES)
    return {
        "voc21": ZeroShotSet(background + VOC_CLASSES, _identity(21), voc_files),
        "voc20": ZeroShotSet(VOC_CLASSES, _without_zero(20), voc_files),
        "context60": ZeroShotSet(background + context, _identity(60), context_files),
        "context59": ZeroShotSet(context, _without_zero(59), context_files),
        "coco_object": ZeroShotSet(background + COCO_CLASSES, _coco_object_labels(), _coco_files),
        "coco_stuff": ZeroShotSet(
            COCO_CLASSES + tuple(lists["stuff"]), _coco_stuff_labels(), _coco_files
        ),
        "cityscapes": ZeroShotSet(cityscapes, _cityscapes_labels(), _cityscapes_files),
        "ade20k": ZeroShotSet(ade, _without_zero(150), _ade20k_files),
    }


def register_zero_shot() -> None:
    """Register the eight data sets."""
    for task, one in _sets().items():
        name = f"{PREFIX}{task}"
        DatasetCatalog.pop(name, None)
        DatasetCatalog.register(name, partial(_records, one))
        MetadataCatalog.pop(name, None)
        MetadataCatalog.get(name).set(
            stuff_classes=list(one.classes),
            stuff_colors=voc_palette(len(one.classes)),
            ignore_label=IGNORE_LABEL,
            mask_labels=dict(one.labels),
            evaluator_type="zero_shot",
        )


def _records(one: ZeroShotSet) -> list[dict[str, Any]]:
    files = list(one.find(datasets_root()))
    for image, mask in files[:1]:
        for file in (image, mask):
            if not file.is_file():
                raise UsageError(
                    "there is no such file", file, "unpack the data set (docs/data.md)"
                )
    return [
        {
            "file_name": str(image),
            "image_id": image.stem,
            "image_labels": [],
            "sem_seg_file_name": str(mask),
        }
        for image, mask in files
    ]


def read_zero_shot_truth(
    path: str, size: tuple[int, int], labels: Mapping[int, int] | None, num_classes: int
) -> np.ndarray:
    """Return the label map ``[H, W]`` of a mask, uint8, 255 for what is not counted.

    Args:
        path: of the mask.
        size: (H, W) of its image.
        labels: of each value that it may have; None where values are labels.
        num_classes: how many labels there are.

    Raises:
        UsageError: it is unreadable, of another size, or has a value that means nothing here; the
            sentence counts the values that it has.
    """
    values = read_mask(path, size)
    table = np.full(256, _NO_LABEL, np.int16)
    for value, label in (labels if labels is not None else _identity(num_classes)).items():
        table[value] = label
    truth = table[values]
    if (truth == _NO_LABEL).any():
        found, counts = np.unique(values, return_counts=True)
        histogram = ", ".join(f"{v}: {n}" for v, n in zip(found, counts, strict=True))
        wrong = int(values[truth == _NO_LABEL][0])
        raise UsageError(
            f"the value {wrong} is none of the {num_classes} classes; its pixels by value are "
            f"{histogram}",
            path,
            "name the data set that the masks are of",
        )
    return truth.astype(np.uint8)
