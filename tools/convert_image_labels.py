#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Convert a cls_labels*.npy dictionary to image_tags.json without trusting its pickle."""

import argparse
from pathlib import Path

from dalnet.data.datasets.coco import COCO_CLASSES
from dalnet.data.datasets.voc import VOC_CLASSES
from dalnet.data.prepare.image_labels import convert_image_labels
from dalnet.engine.launch import one_sentence_errors

CLASSES = {"voc": VOC_CLASSES, "coco": COCO_CLASSES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="the .npy file")
    parser.add_argument("target", type=Path, help="image_tags.json, beside ImageSets")
    parser.add_argument(
        "--classes", choices=CLASSES, required=True, help="class list the vectors follow"
    )
    args = parser.parse_args()
    with one_sentence_errors():
        count = convert_image_labels(args.source, args.target, CLASSES[args.classes])
        print(f"{args.target}: labels of {count:,} images")


if __name__ == "__main__":
    main()
