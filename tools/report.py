#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""A run as one HTML page: results, curves and a gallery of best, worst and random images.

    python tools/report.py --config-file configs/voc_dalnet.yaml --split voc_2012_sem_seg_val \\
        MODEL.WEIGHTS output/voc_dalnet/model_final.pth

Curves come from metrics.json beside the weights, results from what tools/evaluate.py wrote there.
"""

import argparse
import os
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser

from dalnet.engine import run, setup
from dalnet.errors import UsageError
from dalnet.report.run import MAX_IMAGES, write_report


def parse_args() -> argparse.Namespace:
    parser = default_argument_parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--split", required=True, help="a registered data set")
    text = "folder of metrics.json (default: the folder of the weights)"
    parser.add_argument("--run", type=Path, help=text)
    text = "of tools/evaluate.py; may be repeated (default: RUN/evaluation/SPLIT/results.json)"
    parser.add_argument(
        "--results", type=Path, action="append", default=[], metavar="RESULTS.JSON", help=text
    )
    text = "the page (default: OUTPUT_DIR/report/SPLIT/report.html)"
    parser.add_argument("--output", type=Path, help=text)
    text = f"of each group, at most {MAX_IMAGES} (default: %(default)s)"
    parser.add_argument("--images", type=int, default=8, help=text)
    text = "colors that color-blind readers tell apart"
    parser.add_argument("--colorblind", action="store_true", help=text)
    args = parser.parse_args()
    args.eval_only = True
    return args


def main(args: argparse.Namespace) -> None:
    def adjust(cfg: CfgNode) -> None:
        cfg.DATASETS.TEST = (args.split,)
        cfg.TEST.EVAL_CAM = True
        # Not OUTPUT_DIR itself: the training's config and log lie there.
        cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "report", args.split)

    if args.resume:
        raise UsageError("--resume: a report is made anew each time; leave it out.")
    if args.num_gpus > 1:
        raise UsageError("--num-gpus: a report is made in one process; leave it out.")
    cfg = setup(args, adjust)
    output = args.output or Path(cfg.OUTPUT_DIR, "report.html")
    flags = {key: getattr(args, key) for key in ("run", "results", "images", "colorblind")}
    write_report(cfg, args.split, output, config_name=args.config_file, **flags)
    print(f"written: {output}")


if __name__ == "__main__":
    run(main, parse_args())
