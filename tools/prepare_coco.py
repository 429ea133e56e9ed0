#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Make COCO 2014's label masks from the official instance annotations."""

import argparse
from pathlib import Path

from dalnet.data.datasets.catalog import datasets_root
from dalnet.data.prepare.coco_masks import prepare_coco
from dalnet.engine.launch import one_sentence_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--root",
        type=Path,
        default=datasets_root() / "coco",
        help="folder with annotations/ (default: $DETECTRON2_DATASETS/coco)",
    )
    parser.add_argument("--splits", nargs="+", choices=("train", "val"), default=("train", "val"))
    parser.add_argument("--workers", type=int, help="processes (default: all cores)")
    args = parser.parse_args()
    with one_sentence_errors():
        for split in args.splits:
            print(f"{split}2014: {prepare_coco(args.root, split, args.workers)}")


if __name__ == "__main__":
    main()
