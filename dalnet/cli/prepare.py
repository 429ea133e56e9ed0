# SPDX-License-Identifier: Apache-2.0
"""Convert VOC, COCO, PASCAL Context or published label files into what dalnet reads.

    dalnet prepare voc --input benchmark_RELEASE/dataset
    dalnet prepare coco --splits train val
    dalnet prepare context --input trainval
    dalnet prepare labels --input cls_labels.npy --classes voc --output image_tags.json
    dalnet prepare masks --input SegmentationClass --label-map labelmap.txt --classes classes.txt \\
        --output masks

"dalnet prepare KIND --help" shows the flags of a kind.
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
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)

    def add_kind(name: str, text: str) -> argparse.ArgumentParser:
        return kinds.add_parser(name, help=text, description=text)

    voc = add_kind("voc", "make VOC 2012's train_aug split from SBD and VOC's own masks")
    text = "folder benchmark_RELEASE/dataset of the SBD archive"
    voc.add_argument("--input", type=Path, required=True, metavar="DIR", help=text)
    coco = add_kind("coco", "make COCO 2014's label maps from its instance annotations")
    text = "which of the two splits to convert (default: both)"
    splits = ("train", "val")
    coco.add_argument("--splits", nargs="+", choices=splits, default=splits, help=text)
    context = add_kind("context", "make PASCAL Context's label maps, for dalnet zero-shot")
    text = "folder trainval of the PASCAL Context archive"
    context.add_argument("--input", type=Path, required=True, metavar="DIR", help=text)
    for kind, name in ((voc, "VOC2012"), (coco, "coco"), (context, "VOC2010")):
        text = f"folder of the data set (default: $DETECTRON2_DATASETS/{name})"
        folder = datasets_root() / name
        kind.add_argument("--output", type=Path, default=folder, metavar="DIR", help=text)
    labels = add_kind("labels", "convert a published cls_labels.npy without running its pickle")
    add = labels.add_argument
    add("--input", type=Path, required=True, metavar="FILE", help="the .npy file")
    text = "file of tags to write, as image_tags.json"
    add("--output", type=Path, required=True, metavar="FILE", help=text)
    masks = add_kind("masks", "convert masks in color, as CVAT exports them, to class indices")
    add = masks.add_argument
    add("--input", type=Path, required=True, metavar="DIR", help="folder of the color masks")
    text = "labelmap.txt of CVAT, which names the class of each color"
    add("--label-map", type=Path, required=True, metavar="FILE", help=text)
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the new masks")
    for kind in (voc, coco, context, masks):
        text = "number of processes (default: the number of cores)"
        kind.add_argument("--workers", type=int, help=text)
    for kind in (labels, masks):
        text = "the classes in their order: voc, coco, or a text file with one name a line"
        kind.add_argument("--classes", required=True, metavar="NAME|FILE", help=text)


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
