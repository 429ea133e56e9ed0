# SPDX-License-Identifier: Apache-2.0
"""COCO 2014 as semantic segmentation of 80 classes: ``coco_2014_sem_seg_{train,val}``."""

import contextlib
import io
import os
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from pycocotools.coco import COCO

from dalnet.errors import UsageError
from dalnet.io import reading_errors, require_file

from .catalog import datasets_root, register

COCO_CLASSES: tuple[str, ...] = tuple(c["name"] for c in COCO_CATEGORIES if c["isthing"])
# COCO's own ids of these classes, 1..90 with gaps.
COCO_CATEGORY_IDS: tuple[int, ...] = tuple(c["id"] for c in COCO_CATEGORIES if c["isthing"])
MASK_FOLDER = "SegmentationClass"

OFFICIAL = "use the official annotations of COCO 2014"
_HOW_TO_GET = (
    "unpack train2014.zip, val2014.zip and annotations_trainval2014.zip of "
    "https://cocodataset.org/#download into the folder coco and set DETECTRON2_DATASETS to the "
    "folder that holds it"
)

# What pycocotools raises at a file that is no annotations.
_UNREADABLE = (
    *(OSError, ValueError, RecursionError, LookupError),
    *(TypeError, AttributeError, AssertionError),
)


def register_coco() -> None:
    """Register both splits of COCO 2014."""
    for split in ("train", "val"):
        # The root is asked for when the list is: the environment may change until then.
        load = partial(lambda split: load_coco(datasets_root() / "coco", split), split)
        register(f"coco_2014_sem_seg_{split}", load, COCO_CLASSES)


@reading_errors()
def load_coco(root: Path, split: str) -> list[dict[str, Any]]:
    """List the images of a COCO split that have at least one annotation.

    Args:
        root: folder with ``{split}2014/`` and ``annotations/instances_{split}2014.json``.
        split: ``"train"`` or ``"val"`` (82,081 and 40,137 images in the release).

    Returns:
        One dict an image: ``file_name``, ``image_id``, ``image_labels`` (sorted, 0..79; every
        annotation counts, crowds too), ``sem_seg_file_name`` (made by ``dalnet prepare coco``).

    Raises:
        UsageError: no data set at ``root``, a listed image missing, an unknown class, or a
            folder that cannot be read.
    """
    images, masks = root / f"{split}2014", root / MASK_FOLDER / f"{split}2014"
    annotations = root / "annotations" / f"instances_{split}2014.json"
    for path in (images, annotations):
        if not path.exists():
            raise UsageError(f"expected {path} there", where=root, hint=_HOW_TO_GET)
    listed = _read_labels(annotations, os.stat(annotations).st_mtime_ns)
    existing = set(os.listdir(images))
    missing = [name for _, name, _ in listed if name not in existing]
    if missing:
        what = f"{len(missing)} annotated image(s) missing, the first is {missing[0]}"
        raise UsageError(what, where=images, hint="unpack the archive again")
    return [
        {
            "file_name": str(images / name),
            "image_id": image_id,
            "image_labels": list(labels),
            "sem_seg_file_name": str(masks / f"{Path(name).stem}.png"),
        }
        for image_id, name, labels in listed
    ]


def open_annotations(path: Path) -> tuple[COCO, dict[int, int]]:
    """Open an ``instances_*.json`` without the prints of pycocotools.

    Returns:
        The file's content, and the class 0..79 of each of its category ids (1..90, with gaps).

    Raises:
        UsageError: it is unreadable, an image, annotation or category lacks something, or a
            category is not among COCO's 80 classes or not listed.
    """
    require_file(path)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(path))
        images, annotations, categories = (
            coco.dataset[key] for key in ("images", "annotations", "categories")
        )
    except _UNREADABLE as e:
        raise UsageError(f"not a readable COCO annotation file ({e})", path, _HOW_TO_GET) from e
    check_entries(path, "image", images, file_name=str)
    check_entries(path, "annotation", annotations, image_id=int, category_id=int)
    check_entries(path, "category", categories, name=str)
    index = {name: i for i, name in enumerate(COCO_CLASSES)}
    for category in categories:
        if category["name"] not in index:
            raise UsageError(f"unknown class {category['name']!r}", path, OFFICIAL)
    for annotation in annotations:
        for key, known in (("category_id", coco.cats), ("image_id", coco.imgs)):
            if annotation[key] not in known:
                what = f"annotation {annotation['id']} has the unknown {key} {annotation[key]}"
                raise UsageError(what, path, OFFICIAL)
    stems: dict[str, str] = {}
    for image in images:
        name = image["file_name"]
        if stems.setdefault(Path(name).stem, name) != name:
            what = f"{stems[Path(name).stem]} and {name} would have one mask"
            raise UsageError(what, path, OFFICIAL)
    return coco, {number: index[category["name"]] for number, category in coco.cats.items()}


def check_entries(
    path: Path, kind: str, entries: Sequence[dict[str, Any]], **keys: type | tuple[type, ...]
) -> None:
    """Refuse an annotation file in which entries lack one of ``keys`` of its type, or share an id.

    Raises:
        UsageError: there is such an entry.
    """
    numbers, types = set(), [("id", int), *keys.items()]
    for entry in entries:
        number = entry["id"]
        for key, type_ in types:
            if not isinstance(entry.get(key), type_):
                raise UsageError(f"{kind} {number} has no usable {key!r}", path, OFFICIAL)
        if number in numbers:
            raise UsageError(f"{kind} {number} is there twice", path, OFFICIAL)
        numbers.add(number)


# The file takes seconds to read and every evaluator asks for the list again; the time stamp in
# the key lets a replaced file be read anew.
@lru_cache(maxsize=2)
def _read_labels(path: Path, _mtime_ns: int) -> tuple[tuple[int, str, tuple[int, ...]], ...]:
    coco, index = open_annotations(path)
    return tuple(
        (
            image_id,
            coco.imgs[image_id]["file_name"],
            tuple(sorted({index[a["category_id"]] for a in coco.imgToAnns[image_id]})),
        )
        for image_id in sorted(coco.imgs)
        if coco.imgToAnns.get(image_id)
    )
