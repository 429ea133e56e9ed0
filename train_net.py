#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Train or evaluate a model: ``train_net.py --config-file configs/voc_dalnet.yaml``."""

import argparse

from detectron2.engine import default_argument_parser

from dalnet.config import load_config
from dalnet.engine import Trainer, evaluate, run, setup


def main(args: argparse.Namespace) -> dict | None:
    """Train, or with ``--eval-only`` evaluate; return the results in percent."""
    cfg = load_config(args.config_file, args.opts)
    # As for Detectron2's launch, no GPU is one process.
    processes = max(args.num_gpus, 1) * args.num_machines
    setup(cfg, eval_only=args.eval_only, resume=args.resume, num_processes=processes)
    if args.eval_only:
        return evaluate(cfg, args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    run(main, default_argument_parser().parse_args())
