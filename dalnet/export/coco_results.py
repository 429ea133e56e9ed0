# SPDX-License-Identifier: Apache-2.0
"""Write label maps in COCO's result format for stuff: one RLE for each image and class."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from dalnet.io import atomic_write

from .predictions import read_predictions


def write_coco_results(
    predictions: Path,
    records: Sequence[dict[str, Any]],
    category_ids: Mapping[str, int],
    output: Path,
) -> None:
    """Write the label maps of a split.

    Args:
        predictions: folder of one measurement of a dump.
        records: all images of the split; their ``image_id`` is COCO's.
        category_ids: COCO's ids of the C foreground classes by name, in the order of label maps.
        output: the JSON file: a list of ``{"image_id", "category_id", "segmentation": {"size",
            "counts"}}``; background has no entry.

    Raises:
        UsageError: see :func:`dalnet.export.predictions.read_predictions`.
    """
    with atomic_write(output) as unfinished, unfinished.open("w") as stream:
        # Written entry by entry: the whole list of a large split would fill the memory.
        separator = "[\n"
        ids = list(category_ids.values())
        for _, label_map, record in read_predictions(predictions, records, list(category_ids)):
            for value in np.unique(label_map[label_map > 0]).tolist():
                segmentation = rle.encode(np.asfortranarray(label_map == value, dtype=np.uint8))
                segmentation["counts"] = segmentation["counts"].decode("ascii")
                entry = {
                    "image_id": record["image_id"],
                    "category_id": ids[value - 1],
                    "segmentation": segmentation,
                }
                stream.write(separator + json.dumps(entry))
                separator = ",\n"
        stream.write("[]\n" if separator == "[\n" else "\n]\n")
