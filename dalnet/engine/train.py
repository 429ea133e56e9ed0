# SPDX-License-Identifier: Apache-2.0
"""Train or evaluate what a config describes."""

import argparse
import logging

from detectron2.engine import default_argument_parser

from dalnet.config import load_config

from .launch import run
from .setup import setup
from .trainer import Trainer, evaluate

logger = logging.getLogger("dalnet.train")


def main(args: argparse.Namespace) -> dict | None:
    """Train, or with ``--eval-only`` evaluate, in one process; return the results in percent.

    Args:
        args: of :func:`argument_parser`.

    Raises:
        UsageError: the config, the data or the machine cannot be used.
    """
    cfg = load_config(args.config_file, args.opts)
    # As for Detectron2's launch, no GPU is one process.
    processes = max(args.num_gpus, 1) * args.num_machines
    modes = {"eval_only": args.eval_only, "resume": args.resume, "overwrite": args.overwrite}
    setup(cfg, **modes, num_processes=processes)
    logger.info("Arguments: %s", vars(args))
    if args.eval_only:
        return evaluate(cfg, args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def launch_training(args: argparse.Namespace | None = None) -> None:
    """Run :func:`main` in as many processes as the arguments ask for.

    Args:
        args: of :func:`argument_parser`; default: those of the command line.
    """
    run(main, args or argument_parser().parse_args())


def argument_parser() -> argparse.ArgumentParser:
    """Return Detectron2's parser with the flags that DALNet adds."""
    parser = default_argument_parser()
    text = "remove the training that the output folder holds, and train anew"
    parser.add_argument("--overwrite", action="store_true", help=text)
    return parser
