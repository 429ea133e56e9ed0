# SPDX-License-Identifier: Apache-2.0
"""Any folder laid out like PASCAL VOC, the user's own images included.

::

    root/JPEGImages/{id}.jpg (or .jpeg, .png)
    root/ImageSets/Segmentation/{split}.txt      one id a line
    root/Annotations/{id}.xml                    or root/image_tags.json
    root/SegmentationClass/{id}.png              masks; only evaluation opens them
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dalnet.data.labels import TAGS_FILE, read_image_labels
from dalnet.errors import UsageError
from dalnet.io import read_lines, reading_errors

from .catalog import register

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def register_voc_layout(
    name: str,
    root: str | Path | Callable[[], str | Path],
    classes: Sequence[str],
    *,
    split: str,
    mask_folder: str | None = "SegmentationClass",
    labeled: bool = True,
    prompt_names: Sequence[str] | None = None,
    how_to_get: str = "",
) -> None:
    """Register one split of a VOC-layout folder as a data set of Detectron2.

    Args:
        name: its name in ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        root: the folder, or a function that returns it when the data set is asked for.
        classes: the C foreground classes, in the order of the mask values 1..C.
        split: which list of ``ImageSets/Segmentation``.
        mask_folder: folder of the masks (0 background, 1..C, 255 ignore); ``None``: no masks.
        labeled: whether the images have labels; without, ``image_labels`` are empty.
        prompt_names: the C words for the text prompts; ``classes`` where not given.
        how_to_get: half a sentence on how to obtain the data, for the message that it is missing.
    """

    def load() -> list[dict[str, Any]]:
        folder = Path(root() if callable(root) else root)
        return load_voc_layout(folder, split, classes if labeled else None, mask_folder, how_to_get)

    register(name, load, classes, prompt_names)


@reading_errors()
def load_voc_layout(
    root: Path,
    split: str,
    classes: Sequence[str] | None,
    mask_folder: str | None = "SegmentationClass",
    how_to_get: str = "",
) -> list[dict[str, Any]]:
    """List one split of a VOC-layout folder; no mask is opened.

    Args:
        root: the folder that holds ``JPEGImages`` and ``ImageSets``.
        classes: foreground classes; None where the split has no labels.
        split, mask_folder, how_to_get: as of :func:`register_voc_layout`.

    Returns:
        One dict an image: ``file_name``, ``image_id``, ``image_labels`` (sorted, 0..C-1; empty
        where nothing is known) and, with masks, ``sem_seg_file_name``.

    Raises:
        UsageError: no data set at ``root``, no such list, a listed image or the labels missing,
            or a folder that cannot be read.
    """
    if not (root / "JPEGImages").is_dir():
        what = f"no data set there: expected JPEGImages, ImageSets and Annotations or {TAGS_FILE}"
        raise UsageError(what, where=root, hint=how_to_get or "correct the path")
    image_ids = read_lines(
        root / "ImageSets" / "Segmentation" / f"{split}.txt",
        how_to_get or "write one image id a line or choose another split",
    )
    images = _find_images(root / "JPEGImages", image_ids)
    labels = read_image_labels(root, image_ids, classes) if classes is not None else {}
    dicts = []
    for image_id in image_ids:
        record: dict[str, Any] = {
            "file_name": str(root / "JPEGImages" / images[image_id]),
            "image_id": image_id,
            "image_labels": labels.get(image_id, []),
        }
        if mask_folder is not None:
            record["sem_seg_file_name"] = str(root / mask_folder / f"{image_id}.png")
        dicts.append(record)
    return dicts


def _find_images(folder: Path, image_ids: Sequence[str]) -> dict[str, str]:
    # One listing of the folder instead of one look-up an image: quick on network drives too.
    with os.scandir(folder) as entries:
        found = {
            stem: stem + suffix
            for stem, suffix in (os.path.splitext(entry.name) for entry in entries)
            if suffix.lower() in _IMAGE_SUFFIXES
        }
    missing = [image_id for image_id in image_ids if image_id not in found]
    if missing:
        what = f"{len(missing)} listed image(s) missing, the first is {missing[0]} "
        what += f"({', '.join(_IMAGE_SUFFIXES)})"
        raise UsageError(what, where=folder, hint="restore them or take them off the list")
    return found
