# SPDX-License-Identifier: Apache-2.0
"""Train a model, then evaluate it on the config's test splits.

    dalnet train --config toy_dalnet --output output/toy
    dalnet train --config voc_dalnet --num-gpus 4 SOLVER.IMS_PER_BATCH 8
    dalnet train --config voc_dalnet --output output/voc --resume

The run's folder gets config.yaml, log.txt, metrics.json, checkpoints and evaluation/.
"""

import argparse

from dalnet.errors import UsageError

from .arguments import add_config, add_keys, add_processes, add_weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add_config(parser)
    add_weights(parser)
    parser.add_argument("--output", metavar="DIR", help="folder of the run (OUTPUT_DIR)")
    text = "go on where the training in the folder of the run was interrupted"
    parser.add_argument("--resume", action="store_true", help=text)
    add_processes(parser)
    add_keys(parser)


def run(args: argparse.Namespace) -> None:
    """Train as the arguments say.

    Raises:
        UsageError: no config is named, or see :func:`dalnet.engine.train.main`.
    """
    from dalnet.engine.train import launch_training

    launch_training(training_arguments(args))


def training_arguments(args: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments in the form that Detectron2's programs take.

    Raises:
        UsageError: no config is named.
    """
    if not args.config:
        raise UsageError("no config is named", where="config", hint="as in --config voc_dalnet")
    opts = list(args.opts)
    for key, value in (("MODEL.WEIGHTS", args.weights), ("OUTPUT_DIR", args.output)):
        # Behind the keys, so that the flag counts.
        opts += [key, value] if value else []
    return argparse.Namespace(
        **{"eval_only": False, **vars(args), "opts": opts, "config_file": args.config}
    )
