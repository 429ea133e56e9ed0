#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Tell how far the difference of two predictions depends on the choice of images.

    dalnet evaluate --weights output/a --split voc_2012_sem_seg_val --dump a
    dalnet evaluate --weights output/b --split voc_2012_sem_seg_val --dump b
    python tools/bootstrap.py a/sem_seg/ss b/sem_seg/ss --split voc_2012_sem_seg_val

Each folder is that of one measurement. CAMs become label maps at --threshold.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dalnet.data  # noqa: F401  registers the data sets

# isort: split
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from dalnet.data.datasets import ensure_registered
from dalnet.data.datasets.custom import CLASSES_FILE
from dalnet.data.image_io import read_mask
from dalnet.data.labels import has_labels
from dalnet.errors import UsageError, one_sentence_errors
from dalnet.evaluation.bootstrap import paired_bootstrap
from dalnet.evaluation.counts import confusion_matrix
from dalnet.evaluation.dump import CAM_FOLDER, LABEL_FOLDER, image_name
from dalnet.export.predictions import check_classes


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--split", required=True)
    parser.add_argument("--threshold", type=float, default=0.5, help="default: %(default)s")
    args = parser.parse_args(argv)
    with one_sentence_errors(vars(args)):
        if not ensure_registered(args.split):
            raise UsageError(f"there is no data set {args.split!r}", "split")
        folders = args.first, args.second
        records = choose_records(args.split, folders)
        matrices = [count(folder, args.split, records, args.threshold) for folder in folders]
        found = paired_bootstrap(*matrices)
        print(f"mIoU {found.value:+.2f}, 95 % of the resampled splits {found.low:+.2f} to ", end="")
        print(f"{found.high:+.2f}; the first is better on {100 * found.better:.1f} % of them")


def choose_records(split: str, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the images that are compared: with a mask, and with labels or a prediction of each.

    CAMs and pseudo labels are those of images with labels alone.
    """
    records = [one for one in DatasetCatalog.get(split) if "sem_seg_file_name" in one]
    chosen = [
        one
        for one in records
        if has_labels(one) or all(find_prediction(folder, image_name(one)) for folder in folders)
    ]
    if not chosen:
        raise UsageError("no image has a mask", split, "name a split with masks")
    if len(chosen) < len(records):
        count = len(records) - len(chosen)
        print(f"{count} of {len(records)} images have no labels and are left out")
    return chosen


def count(
    folder: Path, split: str, records: Sequence[dict[str, Any]], threshold: float
) -> np.ndarray:
    """Return the confusion matrix of each image, [N, K, K + 1]."""
    names = MetadataCatalog.get(split).stuff_classes
    check_classes(folder / CLASSES_FILE, names[1:])
    num_classes = len(names)
    matrices = []
    for record in tqdm(records, desc=str(folder), unit="image"):
        truth = read_mask(record["sem_seg_file_name"], None, num_classes)
        prediction = read_labels(folder, image_name(record), threshold, num_classes)
        if prediction.shape != truth.shape:
            what = f"it is {prediction.shape}, but its mask is {truth.shape}"
            raise UsageError(what, folder / image_name(record), "dump the split again")
        matrices.append(confusion_matrix(truth, prediction, num_classes))
    return np.stack(matrices)


def find_prediction(folder: Path, name: str) -> Path | None:
    """Return the file of an image's label map or CAMs; None if there is none."""
    paths = folder / LABEL_FOLDER / f"{name}.png", folder / CAM_FOLDER / f"{name}.npz"
    return next((path for path in paths if path.is_file()), None)


def read_labels(folder: Path, name: str, threshold: float, num_classes: int) -> np.ndarray:
    """Return an image's label map, uint8 [H, W], 255 for ignored."""
    path = find_prediction(folder, name)
    if path is None:
        raise UsageError(f"there is no prediction of {name}", folder, "dump the whole split")
    if path.suffix == ".png":
        return read_mask(str(path), None, num_classes)
    with np.load(path, allow_pickle=False) as file:
        classes, cams = file["classes"], file["cams"].astype(np.float32)
    if not len(classes):
        return np.zeros(cams.shape[1:], np.uint8)
    labels = (classes + 1)[cams.argmax(axis=0)]
    return np.where(cams.max(axis=0) > threshold, labels, 0).astype(np.uint8)


if __name__ == "__main__":
    main()
