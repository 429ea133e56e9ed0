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

from dalnet.config import load_config
from dalnet.engine import setup
from dalnet.errors import one_sentence_errors
from dalnet.report.run import MAX_IMAGES, write_report


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
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
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts)
    cfg.DATASETS.TEST = (args.split,)
    cfg.TEST.EVAL_CAM = True
    # Not OUTPUT_DIR itself: the training's config and log lie there.
    cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "report", args.split)
    setup(cfg, eval_only=True)
    output = args.output or Path(cfg.OUTPUT_DIR, "report.html")
    flags = {key: getattr(args, key) for key in ("run", "results", "images", "colorblind")}
    write_report(cfg, args.split, output, config_name=args.config_file, **flags)
    print(f"written: {output}")


if __name__ == "__main__":
    with one_sentence_errors():
        main(parse_args())
