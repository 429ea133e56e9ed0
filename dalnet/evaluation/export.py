# SPDX-License-Identifier: Apache-2.0
"""Dumped predictions in the form that others take: VOC's test server, COCO's result files."""

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle
from tqdm import tqdm

from dalnet.data.image_io import read_mask
from dalnet.errors import UsageError
from dalnet.files import complete_or_absent

from .dump import LABEL_FOLDER

# comp6: segmentation by methods that have seen data beyond VOC's own, as a pre-trained encoder.
VOC_FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"
_NO_IGNORE = -1  # a value that no mask has: every pixel needs a class


def write_voc_archive(
    predictions: Path, dicts: Sequence[dict[str, Any]], num_classes: int, output: Path
) -> None:
    """Pack label maps as PASCAL VOC's test server wants them.

    Args:
        predictions: folder of one row of a dump; its ``SegmentationClass/*.png`` are packed.
        dicts: all images of the split.
        num_classes: 21, background included.
        output: the archive, ``.tar`` or compressed ``.tgz``, ``.tar.gz``.

    Raises:
        UsageError: an image without or with two predictions, a picture of another split, of
            another size than its photograph or with other values, a suffix of no archive.
    """
    suffix = output.name.lower()
    if not suffix.endswith((".tar", ".tgz", ".tar.gz")):
        raise UsageError(f"{output} is no .tar, .tgz or .tar.gz; name the archive so.")
    mode = "w" if suffix.endswith(".tar") else "w:gz"
    with (
        complete_or_absent(output) as unfinished,
        tarfile.open(unfinished, mode, format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, path, _, _ in _checked(predictions, dicts, num_classes):
            archive.add(path, f"{VOC_FOLDER}/{name}.png", filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same archive whoever packs it, and when."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def write_coco_results(
    predictions: Path,
    dicts: Sequence[dict[str, Any]],
    category_ids: Sequence[int],
    output: Path,
) -> None:
    """Write label maps in COCO's result format for stuff: one RLE per image and class.

    Args:
        predictions: folder of one row of a dump.
        dicts: all images of the split; their ``image_id`` is COCO's.
        category_ids: COCO's ids of the C foreground classes.
        output: the JSON file: a list of ``{"image_id", "category_id", "segmentation": {"size",
            "counts"}}``; background has no entry.

    Raises:
        UsageError: as :func:`write_voc_archive`.
    """
    checked = _checked(predictions, dicts, len(category_ids) + 1)
    with complete_or_absent(output) as unfinished, unfinished.open("w") as stream:
        # Written entry by entry: the whole list of a large split would fill the memory.
        separator = "[\n"
        for _, _, labels, record in checked:
            for value in np.unique(labels[labels > 0]).tolist():
                segmentation = rle.encode(np.asfortranarray(labels == value, dtype=np.uint8))
                segmentation["counts"] = segmentation["counts"].decode("ascii")
                entry = {
                    "image_id": record["image_id"],
                    "category_id": category_ids[value - 1],
                    "segmentation": segmentation,
                }
                stream.write(separator + json.dumps(entry))
                separator = ",\n"
        stream.write("[]\n" if separator == "[\n" else "\n]\n")


def _checked(
    predictions: Path, dicts: Sequence[dict[str, Any]], num_classes: int
) -> Iterator[tuple[str, Path, np.ndarray, dict[str, Any]]]:
    """Each image's name, prediction file, label map uint8 [H, W] and record; or a sentence."""
    folder = predictions / LABEL_FOLDER
    if not folder.is_dir():
        raise UsageError(
            f"{predictions} has no folder {LABEL_FOLDER}; give a folder that tools/evaluate.py "
            "--dump has written, as DUMP/seg/ms+flip+crf."
        )
    records = {Path(record["file_name"]).stem: record for record in dicts}
    found = {Path(name).stem for name in os.listdir(folder) if name.endswith(".png")}
    missing, foreign = sorted(records.keys() - found), sorted(found - records.keys())
    if missing or foreign:
        wrong = f"lacks {len(missing)} image(s) of the split" if missing else ""
        wrong += " and " * bool(missing and foreign)
        wrong += f"has {len(foreign)} picture(s) of no image of it" if foreign else ""
        raise UsageError(
            f"{folder} {wrong}, the first is {(missing or foreign)[0]}; dump the whole split "
            "into an empty folder."
        )
    for name, record in tqdm(sorted(records.items()), desc="checking and packing", unit="image"):
        path = folder / f"{name}.png"
        width, height = _upright_size(record["file_name"])
        yield name, path, read_mask(str(path), (height, width), num_classes, _NO_IGNORE), record


def _upright_size(photograph: str) -> tuple[int, int]:
    """(width, height) as the photograph is shown, from its header alone."""
    try:
        with Image.open(photograph) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations that swap the sides
            return image.size[::-1] if turned else image.size
    except (OSError, ValueError) as error:
        raise UsageError(f"image {photograph} cannot be read ({error}): restore it.") from error
