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

import dalnet.data  # noqa: F401  registers the data sets

# isort: split
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from dalnet.data.datasets import ensure_registered
from dalnet.data.datasets.custom import CLASSES_FILE
from dalnet.data.image_io import read_mask
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
        matrices = [
            count(folder, args.split, args.threshold) for folder in (args.first, args.second)
        ]
        found = paired_bootstrap(*matrices)
        print(f"mIoU {found.value:+.2f}, 95 % of the resampled splits {found.low:+.2f} to ", end="")
        print(f"{found.high:+.2f}; the first is better on {100 * found.better:.1f} % of them")


def count(folder: Path, split: str, threshold: float) -> np.ndarray:
    """Return the confusion matrix of each image with a mask, [N, K, K + 1]."""
    names = MetadataCatalog.get(split).stuff_classes
    check_classes(folder / CLASSES_FILE, names[1:])
    num_classes = len(names)
    matrices = []
    for record in tqdm(DatasetCatalog.get(split), desc=str(folder), unit="image"):
        if "sem_seg_file_name" not in record:
            continue
        truth = read_mask(record["sem_seg_file_name"], None, num_classes)
        prediction = read_labels(folder, image_name(record), threshold)
        if prediction.shape != truth.shape:
            what = f"it is {prediction.shape}, but its mask is {truth.shape}"
            raise UsageError(what, folder / image_name(record), "dump the split again")
        matrices.append(confusion_matrix(truth, prediction, num_classes))
    if not matrices:
        raise UsageError("no image has a mask", split, "name a split with masks")
    return np.stack(matrices)


def read_labels(folder: Path, name: str, threshold: float) -> np.ndarray:
    path = folder / LABEL_FOLDER / f"{name}.png"
    if path.is_file():
        return read_mask(str(path))
    path = folder / CAM_FOLDER / f"{name}.npz"
    if not path.is_file():
        raise UsageError(f"there is no prediction of {name}", folder, "dump the whole split")
    with np.load(path, allow_pickle=False) as file:
        classes, cams = file["classes"], file["cams"].astype(np.float32)
    if not len(classes):
        return np.zeros(cams.shape[1:], np.uint8)
    labels = (classes + 1)[cams.argmax(axis=0)]
    return np.where(cams.max(axis=0) > threshold, labels, 0).astype(np.uint8)


if __name__ == "__main__":
    main()
