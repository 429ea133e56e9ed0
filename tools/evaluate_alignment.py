#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Measure what the alignment losses work with: the mask M_obj, and cosines of patches with texts.

    python tools/evaluate_alignment.py --config-file configs/voc_dalnet.yaml \\
        --split voc_2012_sem_seg_val MODEL.WEIGHTS output/model_final.pth

Compares both with the true masks, where a CAM's mIoU alone does not say why it is good or bad.
Prints a table and writes alignment.json.
"""

import argparse
import os
from pathlib import Path

from detectron2.config import CfgNode

from dalnet.engine import setup
from dalnet.engine.alignment_evaluation import evaluate_alignment
from dalnet.engine.launch import one_sentence_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--split", required=True, help="a registered data set")
    parser.add_argument(
        "--output", help="folder of the result (default: OUTPUT_DIR/evaluation/SPLIT)"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    parser.set_defaults(eval_only=True, resume=False, num_gpus=1, num_machines=1)
    return parser.parse_args()


def main() -> None:
    with one_sentence_errors():
        args = parse_args()

        def adjust(cfg: CfgNode) -> None:
            cfg.DATASETS.TEST = (args.split,)
            cfg.OUTPUT_DIR = args.output or os.path.join(cfg.OUTPUT_DIR, "evaluation", args.split)

        cfg = setup(args, adjust)
        evaluate_alignment(cfg, args.split, Path(cfg.OUTPUT_DIR))


if __name__ == "__main__":
    main()
