#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Train or evaluate DALNet: ``train_net.py --config-file configs/voc_dalnet.yaml``."""

import argparse

from detectron2.engine import default_argument_parser

from dalnet.engine import DALNetTrainer, evaluate, run, setup


def main(args: argparse.Namespace) -> dict | None:
    """Train, or with ``--eval-only`` evaluate; returns the results in percent."""
    cfg = setup(args)
    if args.eval_only:
        return evaluate(cfg, args.resume)
    trainer = DALNetTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    run(main, default_argument_parser().parse_args())
