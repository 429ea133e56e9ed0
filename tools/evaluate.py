#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Evaluate a trained model: any sources and protocols in one pass over any registered split.

    python tools/evaluate.py --config-file configs/voc_dalnet.yaml --split voc_2012_sem_seg_val \\
        --sources seg,cam,cam_inter,pseudo --protocols ss,ms+flip,ms+flip+crf \\
        MODEL.WEIGHTS output/model_final.pth

Prints a table and writes results.json and results.csv. Interrupted, the same command goes on.
"""

import argparse
import os
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser

from dalnet.engine import run, setup
from dalnet.engine.grid_evaluation import GridJob, default_workers, evaluate_grid
from dalnet.errors import UsageError


def parse_args() -> argparse.Namespace:
    parser = default_argument_parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--split", required=True, help="a registered data set")
    parser.add_argument(
        "--sources", default="seg,cam,cam_inter,pseudo", help="default: %(default)s"
    )
    parser.add_argument(
        "--protocols", default="ss,ms+flip", help="of ss, ms with +flip, +crf; default: %(default)s"
    )
    parser.add_argument("--dump", type=Path, help="folder to write the predictions to")
    parser.add_argument(
        "--output", help="folder of the results (default: OUTPUT_DIR/evaluation/SPLIT)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="CRF processes (default: one a core; without a GPU, some for the network)",
    )
    args = parser.parse_args()
    args.eval_only = True
    return args


def main(args: argparse.Namespace) -> dict | None:
    """Evaluate; returns the contents of results.json on the main process."""

    if args.resume:
        raise UsageError("--resume: an interrupted evaluation goes on by itself; leave it out.")

    def adjust(cfg: CfgNode) -> None:
        cfg.DATASETS.TEST = (args.split,)
        # Not OUTPUT_DIR itself: the training's config and log lie there.
        cfg.OUTPUT_DIR = args.output or os.path.join(cfg.OUTPUT_DIR, "evaluation", args.split)

    cfg = setup(args, adjust)
    workers = default_workers(cfg) if args.workers is None else args.workers
    output = Path(cfg.OUTPUT_DIR)
    job = GridJob(args.split, args.sources, args.protocols, output, args.dump, workers)
    return evaluate_grid(cfg, job)


if __name__ == "__main__":
    run(main, parse_args())
