# SPDX-License-Identifier: Apache-2.0
"""COCO 2014 as semantic segmentation of 80 classes: ``coco_2014_sem_seg_{train,val}``."""

import contextlib
import io
import os
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from pycocotools.coco import COCO

from dalnet.errors import UsageError
from dalnet.files import reading_errors

from .catalog import datasets_root, register

COCO_CLASSES: tuple[str, ...] = tuple(c["name"] for c in COCO_CATEGORIES if c["isthing"])
# COCO's own ids of these classes, 1..90 with gaps.
COCO_CATEGORY_IDS: tuple[int, ...] = tuple(c["id"] for c in COCO_CATEGORIES if c["isthing"])
MASK_FOLDER = "SegmentationClass"

# What an entry of an annotation file must have, and of which type.
Keys = Mapping[str, type | tuple[type, ...]]
_IMAGE_KEYS: Keys = {"file_name": str}
_ANNOTATION_KEYS: Keys = {"category_id": int}

_HOW_TO_GET = (
    "unpack train2014.zip, val2014.zip and annotations_trainval2014.zip of "
    "https://cocodataset.org/#download into the folder coco and set DETECTRON2_DATASETS to the "
    "folder that holds it"
)


def register_coco() -> None:
    """Register both splits of COCO 2014."""
    for split in ("train", "val"):
        register(f"coco_2014_sem_seg_{split}", partial(_load_coco, split), COCO_CLASSES)


def _load_coco(split: str) -> list[dict[str, Any]]:
    return load_coco(datasets_root() / "coco", split)


@reading_errors()
def load_coco(root: Path, split: str) -> list[dict[str, Any]]:
    """List the images of a COCO split that have at least one annotation.

    Args:
        root: folder with ``{split}2014/`` and ``annotations/instances_{split}2014.json``.
        split: ``"train"`` or ``"val"`` (82,081 and 40,137 images in the release).

    Returns:
        One dict an image: ``file_name``, ``image_id``, ``image_labels`` (sorted, 0..79; every
        annotation counts, crowds too), ``sem_seg_file_name`` (made by tools/prepare_coco.py).

    Raises:
        UsageError: no data set at ``root``, a listed image missing, an unknown class, or a
            folder that cannot be read.
    """
    images, masks = root / f"{split}2014", root / MASK_FOLDER / f"{split}2014"
    annotations = root / "annotations" / f"instances_{split}2014.json"
    for path in (images, annotations):
        if not path.exists():
            raise UsageError(f"no data set at {root}: expected {path} there; {_HOW_TO_GET}.")
    listed = _read_labels(annotations, os.stat(annotations).st_mtime_ns)
    existing = set(os.listdir(images))
    missing = [name for _, name, _ in listed if name not in existing]
    if missing:
        raise UsageError(
            f"{len(missing)} annotated image(s) missing in {images}, the first is {missing[0]}: "
            "unpack the archive again."
        )
    return [
        {
            "file_name": str(images / name),
            "image_id": image_id,
            "image_labels": list(labels),
            "sem_seg_file_name": str(masks / f"{Path(name).stem}.png"),
        }
        for image_id, name, labels in listed
    ]


def open_annotations(
    path: Path, image_keys: Keys = _IMAGE_KEYS, annotation_keys: Keys = _ANNOTATION_KEYS
) -> COCO:
    """Open an ``instances_*.json`` without the prints of pycocotools.

    Args:
        path: of the file.
        image_keys, annotation_keys: what each image and annotation must have, and its type.

    Raises:
        UsageError: it is unreadable, or an image, annotation or category lacks something.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(path))
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as e:
        raise UsageError(
            f"{path} is not a readable COCO annotation file ({e}): {_HOW_TO_GET}."
        ) from e
    needed = {"image": image_keys, "annotation": annotation_keys, "category": {"name": str}}
    for (kind, keys), entries in zip(
        needed.items(), (coco.imgs, coco.anns, coco.cats), strict=True
    ):
        for number, entry in entries.items():
            wrong = [key for key, type_ in keys.items() if not isinstance(entry.get(key), type_)]
            if wrong:
                raise UsageError(
                    f"{kind} {number} in {path} has no usable {wrong[0]!r}: use the official "
                    "annotations of COCO 2014."
                )
    return coco


def category_indices(coco: COCO, path: Path) -> dict[int, int]:
    """Map the category ids of an annotation file (1..90, with gaps) to 0..79.

    Raises:
        UsageError: a category that is not among COCO's 80 classes, or an annotation of a
            category that the file does not list.
    """
    index = {name: i for i, name in enumerate(COCO_CLASSES)}
    unknown = [c["name"] for c in coco.cats.values() if c["name"] not in index]
    if unknown:
        raise UsageError(
            f"unknown class {unknown[0]!r} in {path}: use the official annotations of COCO 2014."
        )
    stray = next((a for a in coco.anns.values() if a["category_id"] not in coco.cats), None)
    if stray is not None:
        raise UsageError(
            f"annotation {stray['id']} in {path} is of the unknown category "
            f"{stray['category_id']}: use the official annotations of COCO 2014."
        )
    return {c["id"]: index[c["name"]] for c in coco.cats.values()}


# The file takes seconds to read and every evaluator asks for the list again; the time stamp in
# the key lets a replaced file be read anew.
@lru_cache(maxsize=2)
def _read_labels(path: Path, _mtime_ns: int) -> tuple[tuple[int, str, tuple[int, ...]], ...]:
    coco = open_annotations(path)
    index = category_indices(coco, path)
    return tuple(
        (
            image_id,
            coco.imgs[image_id]["file_name"],
            tuple(sorted({index[a["category_id"]] for a in coco.imgToAnns[image_id]})),
        )
        for image_id in sorted(coco.imgs)
        if coco.imgToAnns.get(image_id)
    )
