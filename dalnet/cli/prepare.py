# SPDX-License-Identifier: Apache-2.0
"""Bring VOC, COCO or published label files into the layout that is read.

    dalnet prepare voc --input benchmark_RELEASE/dataset
    dalnet prepare coco --splits train val
    dalnet prepare labels --input cls_labels.npy --classes voc --output image_tags.json

voc makes VOC 2012's train_aug split from the SBD release and VOC's own masks, coco makes COCO
2014's label maps from the instance annotations, labels converts a published cls_labels.npy
without trusting its pickle.
"""

import argparse
from pathlib import Path

from dalnet.data.datasets.catalog import datasets_root
from dalnet.data.datasets.coco import COCO_CLASSES
from dalnet.data.datasets.custom import read_classes
from dalnet.data.datasets.voc import VOC_CLASSES
from dalnet.data.prepare.coco_masks import prepare_coco
from dalnet.data.prepare.image_labels import convert_image_labels
from dalnet.data.prepare.sbd import prepare_sbd

_CLASSES = {"voc": VOC_CLASSES, "coco": COCO_CLASSES}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    kinds = parser.add_subparsers(dest="kind", required=True)
    voc = kinds.add_parser("voc", help="VOC 2012's train_aug split")
    voc.add_argument("--input", type=Path, required=True, help="benchmark_RELEASE/dataset of SBD")
    coco = kinds.add_parser("coco", help="COCO 2014's label maps")
    coco.add_argument("--splits", nargs="+", choices=("train", "val"), default=("train", "val"))
    for kind, name in ((voc, "VOC2012"), (coco, "coco")):
        text = f"folder of the data set (default: $DETECTRON2_DATASETS/{name})"
        kind.add_argument("--output", type=Path, default=datasets_root() / name, help=text)
        kind.add_argument("--workers", type=int, help="processes (default: all cores)")
    labels = kinds.add_parser("labels", help="image_tags.json from a cls_labels.npy")
    labels.add_argument("--input", type=Path, required=True, help="the .npy file")
    text = "whose order it has: voc, coco, or a classes.txt"
    labels.add_argument("--classes", required=True, help=text)
    labels.add_argument("--output", type=Path, required=True, help="image_tags.json")


def run(args: argparse.Namespace) -> None:
    """Prepare what the arguments say, and print what was made.

    Raises:
        UsageError: files are missing or damaged.
    """
    if args.kind == "voc":
        summary, listed = prepare_sbd(args.input, args.output, args.workers)
        print(f"SegmentationClassAug: {summary}")
        print(f"train_aug.txt: {listed:,} images (10,582 for the full releases)")
    elif args.kind == "coco":
        for split in args.splits:
            print(f"{split}2014: {prepare_coco(args.output, split, args.workers)}")
    else:
        classes = _CLASSES.get(args.classes) or tuple(read_classes(Path(args.classes)))
        count = convert_image_labels(args.input, args.output, classes)
        print(f"{args.output}: labels of {count:,} images")
