# SPDX-License-Identifier: Apache-2.0
"""Bring VOC, COCO, PASCAL Context or published label files into the layout that is read.

    dalnet prepare voc --input benchmark_RELEASE/dataset
    dalnet prepare coco --splits train val
    dalnet prepare context --input trainval
    dalnet prepare labels --input cls_labels.npy --classes voc --output image_tags.json
    dalnet prepare masks --input SegmentationClass --label-map labelmap.txt --classes classes.txt \
        --output masks

voc makes VOC 2012's train_aug split from the SBD release and VOC's own masks, coco makes COCO
2014's label maps from the instance annotations, labels converts a published cls_labels.npy without
trusting its pickle, masks converts masks in color (CVAT's) to class indices. context makes PASCAL
Context's label maps from its release, for dalnet zero-shot, which reads its other data sets as they
are published.
"""

import argparse
from pathlib import Path

from dalnet.data.datasets.catalog import datasets_root
from dalnet.data.datasets.coco import COCO_CLASSES
from dalnet.data.datasets.custom import read_classes
from dalnet.data.datasets.voc import VOC_CLASSES
from dalnet.data.prepare.coco_masks import prepare_coco
from dalnet.data.prepare.color_masks import convert_color_masks
from dalnet.data.prepare.context import prepare_context
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
    context = kinds.add_parser("context", help="PASCAL Context's label maps")
    context.add_argument("--input", type=Path, required=True, help="trainval of its release")
    for kind, name in ((voc, "VOC2012"), (coco, "coco"), (context, "VOC2010")):
        text = f"folder of the data set (default: $DETECTRON2_DATASETS/{name})"
        kind.add_argument("--output", type=Path, default=datasets_root() / name, help=text)
        kind.add_argument("--workers", type=int, help="processes (default: all cores)")
    labels = kinds.add_parser("labels", help="image_tags.json from a cls_labels.npy")
    labels.add_argument("--input", type=Path, required=True, help="the .npy file")
    labels.add_argument("--output", type=Path, required=True, help="image_tags.json")
    masks = kinds.add_parser("masks", help="masks of class indices from masks in color")
    masks.add_argument("--input", type=Path, required=True, help="folder of the color masks")
    masks.add_argument("--label-map", type=Path, required=True, help="CVAT's labelmap.txt")
    masks.add_argument("--output", type=Path, required=True, help="folder of the new masks")
    masks.add_argument("--workers", type=int, help="processes (default: all cores)")
    for kind in (labels, masks):
        text = "list of the classes in their order: voc, coco, or a classes.txt"
        kind.add_argument("--classes", required=True, help=text)


def run(args: argparse.Namespace) -> None:
    """Prepare what the arguments say, and print what was made.

    Raises:
        UsageError: files are missing or damaged.
    """
    if args.kind == "voc":
        summary, listed = prepare_sbd(args.input, args.output, args.workers)
        print(f"SegmentationClassAug: {summary}")
        print(f"train_aug.txt: {listed:,} images (10,582 for the full releases)")
    elif args.kind == "context":
        summary, listed = prepare_context(args.input, args.output, args.workers)
        print(f"SegmentationClassContext: {summary}")
        print(f"SegmentationContext/val.txt: {listed:,} images (5,105 for the full releases)")
    elif args.kind == "coco":
        for split in args.splits:
            print(f"{split}2014: {prepare_coco(args.output, split, args.workers)}")
    else:
        classes = _CLASSES.get(args.classes) or tuple(read_classes(Path(args.classes)))
        if args.kind == "labels":
            count = convert_image_labels(args.input, args.output, classes)
            print(f"{args.output}: labels of {count:,} images")
        else:
            paths = (args.input, args.label_map, args.output)
            print(f"{args.output}: {convert_color_masks(*paths, classes, args.workers)}")
