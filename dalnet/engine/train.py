# SPDX-License-Identifier: Apache-2.0
"""Train or evaluate what a config describes."""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.utils import comm

from dalnet.config import load_config
from dalnet.errors import UsageError

from .launch import run
from .run_folder import locked, old_training_kept
from .setup import setup
from .trainer import Trainer, evaluate


def main(args: argparse.Namespace) -> dict | None:
    """Train, or with ``--eval-only`` evaluate, in one process; return the results in percent.

    Args:
        args: of :func:`argument_parser`.

    Raises:
        UsageError: the config, the data or the machine cannot be used.
    """
    cfg = load_config(args.config_file, args.opts)
    if args.eval_only:
        setup(cfg, eval_only=True, resume=args.resume)
        return evaluate(cfg, args.resume)
    modes = {"resume": args.resume, "overwrite": args.overwrite}
    return run_training(cfg, **modes, prepare=args.prepare).results


def run_training(
    cfg: CfgNode,
    *,
    resume: bool = False,
    overwrite: bool = False,
    prepare: Callable[[], None] | None = None,
) -> Trainer:
    """Set up a training and run it to its end, in one of its processes.

    Args:
        cfg, resume, overwrite, prepare: see :func:`dalnet.engine.setup`, which is called when no
            other training can use the output folder.

    Returns:
        The trainer, with the model and the results of the last evaluation.

    Raises:
        UsageError: the config, the data or the machine cannot be used, or another training runs in
            the output folder.
        SystemExit: a signal has ended it, see :mod:`dalnet.engine.interruption`.
    """
    is_main, folder = comm.is_main_process(), Path(cfg.OUTPUT_DIR)
    if (
        overwrite
        and cfg.MODEL.WEIGHTS
        and Path(cfg.MODEL.WEIGHTS).resolve().is_relative_to(folder.resolve())
    ):
        what = f"{cfg.MODEL.WEIGHTS} lies in the folder that is overwritten"
        raise UsageError(what, "MODEL.WEIGHTS", "choose another OUTPUT_DIR")
    with locked(cfg.OUTPUT_DIR) if is_main else nullcontext():
        with old_training_kept(folder, resume, overwrite) if is_main else nullcontext():
            setup(cfg, resume=resume, overwrite=overwrite, prepare=prepare)
            trainer = Trainer(cfg)
            trainer.resume_or_load(resume=resume)
        trainer.train()
    return trainer


def launch_training(args: argparse.Namespace | None = None) -> None:
    """Run :func:`main` in as many processes as the arguments ask for.

    Args:
        args: of :func:`argument_parser`; default: those of the command line.
    """
    run(main, args or argument_parser().parse_args())


def argument_parser() -> argparse.ArgumentParser:
    """Return Detectron2's parser with the flags that DALNet adds."""
    parser = default_argument_parser()
    parser.set_defaults(dist_url="auto", prepare=None)
    text = "remove the training that the output folder holds, and train anew"
    parser.add_argument("--overwrite", action="store_true", help=text)
    text = "of each machine, on the CPU; default: as many as GPUs"
    parser.add_argument("--num-processes", type=int, default=0, help=text)
    return parser
