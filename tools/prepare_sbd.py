#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Make VOC 2012's train_aug split from the SBD release and VOC's official masks."""

import argparse
from pathlib import Path

from dalnet.data.datasets.catalog import datasets_root
from dalnet.data.prepare.sbd import prepare_sbd
from dalnet.engine.launch import one_sentence_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "sbd", type=Path, help="folder benchmark_RELEASE/dataset of SBD's benchmark.tgz"
    )
    parser.add_argument(
        "--voc",
        type=Path,
        default=datasets_root() / "VOC2012",
        help="folder VOC2012 (default: $DETECTRON2_DATASETS/VOC2012)",
    )
    parser.add_argument("--workers", type=int, help="processes (default: all cores)")
    args = parser.parse_args()
    with one_sentence_errors():
        summary, listed = prepare_sbd(args.sbd, args.voc, args.workers)
        print(f"SegmentationClassAug: {summary}")
        print(f"train_aug.txt: {listed:,} images (10,582 for the full releases)")


if __name__ == "__main__":
    main()
