#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Evaluate a checkpoint: any sources and protocols in one pass over any registered split.

    python tools/evaluate.py --weights output/voc_dalnet/model_final.pth \\
        --split voc_2012_sem_seg_val --sources sem_seg,cam --protocols ss,ms+flip,ms+flip+crf

Prints a table and writes results.json and results.csv. Interrupted, the same command goes on.
"""

import argparse

from dalnet import engine
from dalnet.evaluation.results import Result
from dalnet.evaluation.run import add_arguments, run


def main(args: argparse.Namespace) -> Result | None:
    """Evaluate; returns the contents of results.json on the main process."""
    return run(args, engine.setup)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", dest="config", help=argparse.SUPPRESS)
    parser.add_argument("--num-gpus", type=int, default=1, help="of each machine")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="of this machine")
    parser.add_argument(
        "--dist-url", default="auto", help="where processes meet; auto: one machine"
    )
    add_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    engine.run(main, parse_args())
