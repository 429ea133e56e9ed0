# SPDX-License-Identifier: Apache-2.0
"""Any folder laid out like PASCAL VOC, the user's own images included.

::

    root/JPEGImages/{id}.jpg (or .png, .webp, ...)
    root/ImageSets/Segmentation/{split}.txt      one id a line
    root/Annotations/{id}.xml                    or root/image_tags.json or .csv
    root/SegmentationClass/{id}.png              masks; only evaluation opens them
"""

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dalnet.data.image_files import IMAGE_SUFFIXES
from dalnet.data.labels import TAGS_FILE, ImageLabels, read_image_labels
from dalnet.data.tags import match_names
from dalnet.errors import UsageError
from dalnet.io import read_lines, reading_errors

from .catalog import register

logger = logging.getLogger(__name__)


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
        labeled: whether the images have labels; without, nothing is known of any class.
        prompt_names: the C words for the text prompts; ``classes`` where not given.
        how_to_get: half a sentence on how to obtain the data, for the message that it is missing.
    """

    def load() -> list[dict[str, Any]]:
        folder = Path(root() if callable(root) else root)
        return load_voc_layout(
            folder, split, classes, mask_folder, labeled=labeled, how_to_get=how_to_get
        )

    register(name, load, classes, prompt_names)


@reading_errors()
def load_voc_layout(
    root: Path,
    split: str,
    classes: Sequence[str],
    mask_folder: str | None = "SegmentationClass",
    *,
    labeled: bool = True,
    how_to_get: str = "",
) -> list[dict[str, Any]]:
    """List one split of a VOC-layout folder; no image and no mask is opened.

    Args:
        root: the folder that holds ``JPEGImages`` and ``ImageSets``.
        classes: foreground classes.
        split, mask_folder, labeled, how_to_get: as of :func:`register_voc_layout`.

    Returns:
        One dict an image: ``file_name``, ``image_id`` (the name without suffix), ``image_labels``
        and ``unknown_labels`` (see :mod:`dalnet.data.labels`) and, with masks,
        ``sem_seg_file_name``.

    Raises:
        UsageError: no data set at ``root``, no such list, a line of it that names no image or
            several, labels missing or malformed, or a folder that cannot be read.
    """
    folder = root / "JPEGImages"
    if not folder.is_dir():
        what = f"no data set there: expected JPEGImages, ImageSets and Annotations or {TAGS_FILE}"
        raise UsageError(what, where=root, hint=how_to_get or "correct the path")
    path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    lines = read_lines(path, how_to_get or "write one image id a line or choose another split")
    files = sorted(filter(_is_image, os.listdir(folder)))
    listed = find_listed(path, lines, files)
    labels = dict.fromkeys(listed, ImageLabels([], list(range(len(classes)))))
    if labeled:
        labels = read_image_labels(root, files, listed, classes)
    masks = {} if mask_folder is None else _find_masks(root / mask_folder, listed)
    return [
        {
            "file_name": os.path.join(folder, file),
            "image_id": _stem(file),
            **labels[file].as_fields(),
            **masks.get(file, {}),
        }
        for file in listed
    ]


def find_listed(path: Path, lines: Sequence[str], files: Sequence[str]) -> list[str]:
    """Return the images that the lines of a list name, in its order.

    A line is a file name with or without suffix and folders, or such a pair as ``JPEGImages/a.jpg
    SegmentationClass/a.png``. Comments after ``#`` and lines that occur again are left out.

    Args:
        path: the list, for the errors.
        lines: of the list, stripped and not blank.
        files: names of all images.

    Raises:
        UsageError: a line that names no image or several, or two that name images of one stem.
    """
    hint = "write one image id a line: the file name without folder and suffix"
    known = set(files)
    names = {line: line if line in known else _image_of_pair(line) for line in lines}
    found, unclear = match_names(names.values(), files, uploaded=False)
    listed: dict[str, tuple[str, str]] = {}  # by stem, the line and the file
    missing = []
    for line, name in names.items():
        file = found.get(name)
        if file is None:
            if unclear[name]:
                what = f"{line!r} means {' or '.join(unclear[name])}"
                raise UsageError(what, path, "write the suffix too")
            if not line.startswith("#"):
                missing.append(line)
            continue
        other_line, other = listed.setdefault(_stem(file), (line, file))
        if other_line != line:
            raise UsageError(f"{other_line!r} and {line!r} have one id", path, "keep one of them")
    if missing:
        columns = missing[0].split()
        if len(columns) == 2 and columns[1] in ("1", "-1", "0"):
            what = f"{missing[0]!r} is a line of VOC's lists of one class (ImageSets/Main)"
            raise UsageError(what, path, hint)
        what = f"{len(missing)} listed image(s) missing in JPEGImages, the first is {missing[0]!r}"
        raise UsageError(what, path, f"restore them or take them off the list; {hint}")
    if len(lines) > len(set(lines)):
        logger.warning("lines of %s that occur again: %d.", path, len(lines) - len(set(lines)))
    return [file for _, file in listed.values()]


def _stem(file: str) -> str:
    return os.path.splitext(file)[0]


def _is_image(file: str) -> bool:
    return os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES


def _image_of_pair(line: str) -> str:
    """Return the image of a line that has the paths of an image and its mask; else the line."""
    paths = line.replace("\\", "/").split()
    if len(paths) != 2 or not all(map(_is_image, paths)):
        return line
    image, mask = (_stem(path.rpartition("/")[2]) for path in paths)
    return paths[0] if image == mask else ""  # of different names, neither is meant for certain


def _find_masks(folder: Path, files: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the record's field of each image's mask; where there is none, ``{id}.png``."""
    masks: list[str] = []
    # Training does without masks: what cannot be looked into is left to the evaluation's check.
    with contextlib.suppress(OSError):
        masks = list(filter(_is_image, os.listdir(folder)))
    usual = {file: f"{_stem(file)}.png" for file in files}
    found, unclear = match_names(usual.values(), masks, uploaded=False)
    for candidates in unclear.values():
        if candidates:
            what = f"{' and '.join(sorted(candidates))} are masks of one image"
            raise UsageError(what, folder, "keep one of them")
    return {
        file: {"sem_seg_file_name": os.path.join(folder, found.get(name, name))}
        for file, name in usual.items()
    }
