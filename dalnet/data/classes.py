# SPDX-License-Identifier: Apache-2.0
"""Match the classes of a split with those of a model by name: their numbers need not agree."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from dalnet.config import with_class_names
from dalnet.errors import UsageError

from .image_io import read_mask

logger = logging.getLogger(__name__)
Record = dict[str, Any]


def match_classes(names: Sequence[str], known: Sequence[str], where: object) -> list[int]:
    """Return the number that each of ``names`` has in ``known``.

    Args:
        names: the K classes of a split, background first.
        known: those of the model, background first; it may know more.
        where: of an error.

    Raises:
        UsageError: a class that the model does not know.
    """
    numbers = {name: number for number, name in enumerate(known[1:], start=1)}
    unknown = [name for name in names[1:] if name not in numbers]
    if unknown:
        raise UsageError(
            f"the model does not know the class {unknown[0]!r}",
            where=where,
            hint=f"name a split of its classes: {', '.join(known[1:])}",
        )
    return [0, *(numbers[name] for name in names[1:])]


def number_as_model(cfg: CfgNode, split: str, records: list[Record]) -> list[Record]:
    """Return the records of a split with labels that are numbered as the classes of the model.

    Where the numbers differ, or the model knows more classes, a record also gets ``mask_classes``,
    the model's number for each value of its mask, for :func:`read_truth`.

    Raises:
        UsageError: a class that the model does not know.
    """
    names = MetadataCatalog.get(split).stuff_classes
    known = list(with_class_names(cfg).MODEL.CLASS_NAMES or names)
    numbers = match_classes(names, known, split)
    if numbers == list(range(len(known))):
        return records
    if numbers != list(range(len(numbers))):
        logger.warning("%s numbers its classes otherwise than the model: matched by name.", split)
    return [
        record
        | {
            key: sorted(numbers[label + 1] - 1 for label in record[key])
            for key in ("image_labels", "unknown_labels")
            if key in record
        }
        | {"mask_classes": numbers}
        for record in records
    ]


def read_truth(record: Record, num_classes: int, ignore: int = 255) -> np.ndarray:
    """Read the mask of a record of the test mapper, numbered as the classes of the model.

    Args:
        record: with ``sem_seg_file_name``, ``height`` and ``width``.
        num_classes: of the model, background included.
        ignore: value of pixels that count for nothing.

    Returns:
        uint8 ``[H, W]``.

    Raises:
        UsageError: see :func:`dalnet.data.image_io.read_mask`.
    """
    numbers = record.get("mask_classes", range(num_classes))
    size = (record["height"], record["width"])
    mask = read_mask(record["sem_seg_file_name"], size, len(numbers), ignore)
    table = np.full(256, ignore, np.uint8)
    table[: len(numbers)] = numbers
    return table[mask]
