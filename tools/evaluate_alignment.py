#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Measure what the alignment losses work with: the mask M_obj, and cosines of patches with texts.

    python tools/evaluate_alignment.py --weights output/voc_dalnet/model_final.pth \\
        --split voc_2012_sem_seg_val

Compares both with the true masks, where a CAM's mIoU alone does not say why it is good or bad.
Prints a table and writes alignment.json.
"""

import argparse
from pathlib import Path

from dalnet.cli.arguments import add_keys
from dalnet.cli.evaluate import add_checkpoint_arguments, read_config
from dalnet.engine import setup
from dalnet.errors import one_sentence_errors
from dalnet.evaluation.alignment import evaluate_alignment


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_checkpoint_arguments(parser)
    add_keys(parser)
    return parser.parse_args()


def main() -> None:
    with one_sentence_errors():
        args = parse_args()
        cfg = setup(read_config(args), eval_only=True)
        evaluate_alignment(cfg, args.split, Path(cfg.OUTPUT_DIR))


if __name__ == "__main__":
    main()
