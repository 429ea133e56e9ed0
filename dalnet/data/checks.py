# SPDX-License-Identifier: Apache-2.0
"""Check whether data sets fit the config, each other and the images and masks on disk."""

import logging
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from dalnet.config import class_difference
from dalnet.errors import UsageError
from dalnet.io import reading_errors

from .classes import match_classes
from .datasets import ensure_registered
from .datasets.tagged import CORRECTED_MASK, register_tagged
from .datasets.tagged import SPLITS as TAGGED_SPLITS
from .image_io import open_image, read_mask, short_side, upright_size

logger = logging.getLogger(__name__)

# A crop of VOC's recipe spans about one short side of an image.
_MAX_SIDES_TO_CROP = 3.0
_SAMPLES = 5  # images that are opened to know the size of all


def check_datasets(
    cfg: CfgNode, names: Sequence[str], key: str, *, any_order: bool = False
) -> None:
    """Refuse ``names``, the value of config key ``key``, if they cannot be used together.

    The tagged images that the config describes are registered, and the user's own folders are
    looked through for names that are not registered yet.

    Args:
        cfg: whose model and data sets are meant.
        names: of data sets.
        key: where they stand.
        any_order: whether classes of the model in any order and number will do, as they are matched
            by name (:func:`dalnet.data.classes.number_as_model`).

    Raises:
        UsageError: no or an unknown data set, or classes that differ in number, name or order: of
            the data sets among each other, from ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``, or from
            ``MODEL.CLASS_NAMES`` (where empty, those of ``DATASETS.TRAIN``).
    """
    # A run that has been moved can be measured on other data sets without its description.
    needed = key == "DATASETS.TRAIN" or not TAGGED_SPLITS.keys().isdisjoint(names)
    if cfg.DATASETS.DESCRIPTION and needed:
        register_tagged(Path(cfg.DATASETS.DESCRIPTION))
    if not names:
        raise UsageError("it is empty", where=key, hint="name at least one data set")
    for name in names:
        if not ensure_registered(name):
            ours = sorted(n for n in DatasetCatalog if MetadataCatalog.get(n).get("prompt_names"))
            hint = f"choose from {', '.join(ours)}, or add your own (docs/data.md)"
            raise UsageError(f"there is no data set {name!r}", where=key, hint=hint)
        if not _class_names(name):
            hint = "name one for semantic segmentation"
            raise UsageError(f"{name} has no classes of pixels", where=key, hint=hint)
        if MetadataCatalog.get(name).get("mask_labels"):
            what = f"{name} has masks of its own numbers, without background"
            raise UsageError(what, key, "measure on it by dalnet zero-shot")
    classes = _class_names(names[0])
    for name in names[1:]:
        if _class_names(name) != classes:
            what = f"{names[0]} and {name} have different classes"
            raise UsageError(what, where=key, hint="name one of them")
    known = list(cfg.MODEL.CLASS_NAMES) or _class_names(next(iter(cfg.DATASETS.TRAIN), ""))
    name, head = names[0], cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if any_order and known:
        match_classes(classes, known, name)
        name, classes = "the model", known
    if len(classes) != head:
        raise UsageError(
            f"it is {head}, but {name} has {len(classes)} classes with background",
            where="MODEL.SEM_SEG_HEAD.NUM_CLASSES",
            hint=f"set it to {len(classes)} or name another data set",
        )
    if known and (difference := class_difference(classes, known)):
        what = f"the classes of {names[0]} are not the model's: {difference}"
        raise UsageError(what, key, "name a data set of the same classes in the same order")


def _class_names(dataset_name: str) -> list[str]:
    """Return the classes of a data set, background first; none if there is no such data set."""
    known = ensure_registered(dataset_name)
    return list(MetadataCatalog.get(dataset_name).get("stuff_classes", [])) if known else []


def warn_of_large_images(cfg: CfgNode, paths: Sequence[str]) -> None:
    """Warn where crops, which have all labels of their image, show next to nothing of it."""
    if any(cfg.INPUT.MIN_SIZE_TRAIN) or cfg.INPUT.LONGER_SIDE_RANGE or not paths:
        return
    chosen = paths[:: max(len(paths) // _SAMPLES, 1)][:_SAMPLES]
    side = statistics.median(map(short_side, chosen))
    factor = statistics.mean(cfg.INPUT.RESCALE_RANGE)
    if side * factor > _MAX_SIDES_TO_CROP * min(cfg.INPUT.CROP.SIZE):
        logger.warning(
            "the images have about %d pixels on the short side, of which a crop of %s after "
            "INPUT.RESCALE_RANGE %s shows a small part, yet with all labels; INPUT.MIN_SIZE_TRAIN "
            "'(375,)' and INPUT.MIN_SIZE_TEST 375 bring them to VOC's size.",
            side,
            tuple(cfg.INPUT.CROP.SIZE),
            tuple(cfg.INPUT.RESCALE_RANGE),
        )


@reading_errors()
def check_masks(dicts: Sequence[dict[str, Any]]) -> None:
    """Refuse data set dicts with ``sem_seg_file_name`` of a mask that is not there.

    Raises:
        UsageError: a missing mask, or a folder of masks that cannot be read.
    """
    masks = [d["sem_seg_file_name"] for d in dicts if "sem_seg_file_name" in d]
    # One listing of each folder instead of one look-up a mask: quick on network drives too.
    folders = {os.path.dirname(mask) for mask in masks}
    listings = {folder: set(os.listdir(folder)) for folder in folders if os.path.isdir(folder)}
    missing = [m for m in masks if os.path.basename(m) not in listings.get(os.path.dirname(m), ())]
    if missing:
        raise UsageError(
            f"{len(missing)} of {len(masks)} masks missing, this one first",
            where=missing[0],
            hint="unpack them, or make them with dalnet prepare coco (COCO) or "
            "dalnet prepare voc (SBD): evaluation needs them",
        )


def check_corrected_masks(dicts: Sequence[dict[str, Any]], num_classes: int) -> None:
    """Read the corrected masks, as a training would only skip the images of those that do not fit.

    The log names those with pixels of a class that their image is not tagged with: masks that were
    made when the classes had another order fit otherwise, and teach wrong classes.

    Args:
        dicts: of the training.
        num_classes: with background.

    Raises:
        UsageError: a mask that cannot be read, of another size than its image, or with other values
            than 0 to ``num_classes - 1`` and 255; or all, of tagged images, have 255 and no class.
    """
    corrected = [record for record in dicts if CORRECTED_MASK in record]
    odd, blank = [], []
    for record in corrected:
        with open_image(record["file_name"], "image") as image:
            size = upright_size(image)
        values = np.unique(read_mask(record[CORRECTED_MASK], size, num_classes)).tolist()
        shown = {value - 1 for value in values if 0 < value < num_classes}
        if shown - {*record["image_labels"], *record.get("unknown_labels", ())}:
            odd.append(record[CORRECTED_MASK])
        if record["image_labels"] and 255 in values and not shown:
            blank.append(record[CORRECTED_MASK])
    if blank and len(blank) == sum(bool(record["image_labels"]) for record in corrected):
        what = f"none of {len(blank)} corrected masks shows a class: 255 stands for ignored pixels"
        raise UsageError(what, blank[0], "write 1 for the first class, 2 for the second")
    if odd:
        logger.warning(
            "%d of %d corrected masks have pixels of a class that their image is not tagged with, "
            "%s first: complete the tags or, if the masks were made for classes of another order, "
            "put the dataset_meta.json of their labeling beside them.",
            len(odd),
            len(corrected),
            odd[0],
        )
