# SPDX-License-Identifier: Apache-2.0
"""Measure a checkpoint on a data set: any sources and protocols in one pass over its images.

    dalnet evaluate --weights output/voc_dalnet --split voc_2012_sem_seg_val
    dalnet evaluate --weights output/voc_dalnet/model_final.pth --split voc_2012_sem_seg_val \\
        --sources sem_seg,cam --protocols ss,ms+flip,ms+flip+crf

A source is what is measured: sem_seg (the segmentation head), cam, cam_inter (CAM of an
intermediate block) or pseudo_label. A protocol is how: ss (one scale) or ms (several scales), then
+flip (also the flipped image) and +crf (refined by a dense CRF).

Prints a table and writes results.json and results.csv. If it is interrupted, the same command goes
on where it stopped. With --alignment it also compares the object mask M_obj and the cosines of
patches with texts to the true masks (alignment.json), which helps to see why a CAM is good or bad.
"""

import argparse
import os
from pathlib import Path

from detectron2.config import CfgNode

from dalnet.checkpoint import config_for
from dalnet.engine import launch, setup
from dalnet.evaluation.alignment import evaluate_alignment
from dalnet.evaluation.results import Result
from dalnet.evaluation.run import PROTOCOLS, evaluate

from .arguments import add_config, add_keys, add_processes, add_split, add_weights, split_list


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the checkpoint, the data set and the folder of the results."""
    add_config(parser, "recipe or YAML file (default: the config in the checkpoint)")
    add_weights(parser)
    add_split(parser)
    text = "folder of the results (default: OUTPUT_DIR/evaluation/SPLIT/PROTOCOLS)"
    parser.add_argument("--output", metavar="DIR", help=text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add_checkpoint_arguments(parser)
    add = parser.add_argument
    add("--sources", default="", help="sources, as sem_seg,cam (default: all that the system has)")
    text = "protocols, each ss or ms, then +flip and +crf as wanted; default: %(default)s"
    add("--protocols", default=",".join(PROTOCOLS), help=text)
    add("--dump", type=Path, metavar="DIR", help="folder to write the predictions to")
    text = "number of CRF processes (default: the number of cores; about half of it without a GPU)"
    add("--workers", type=int, help=text)
    text = "also compare the object mask and the patches' cosines with the true masks"
    add("--alignment", action="store_true", help=text)
    add_processes(parser)
    add_keys(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate in as many processes as the arguments ask for.

    Raises:
        UsageError: see :func:`evaluate_in_process`.
    """
    launch.run(evaluate_in_process, args)


def evaluate_in_process(args: argparse.Namespace) -> Result | None:
    """Evaluate in this process; return the results on the main rank.

    Raises:
        UsageError: see :func:`read_config` and :func:`dalnet.evaluation.run.evaluate`.
    """
    cfg = setup(read_config(args), eval_only=True)
    output = Path(cfg.OUTPUT_DIR)
    if args.alignment:
        evaluate_alignment(cfg, args.split, output)
    return evaluate(
        cfg,
        args.split,
        sources=split_list(args.sources),
        protocols=split_list(args.protocols),
        output=output,
        dump=args.dump,
        workers=args.workers,
    )


def read_config(args: argparse.Namespace) -> CfgNode:
    """Return the config that :func:`add_checkpoint_arguments` ask for, not frozen.

    Its ``OUTPUT_DIR`` is the folder of the results.

    Raises:
        UsageError: a file or key that cannot be used, or no checkpoint.
    """
    cfg = config_for(args.weights, args.config, args.opts)
    cfg.DATASETS.TEST = (args.split,)
    # Not evaluation/SPLIT itself, where the results of the training lie.
    own = "_".join(split_list(args.protocols))
    cfg.OUTPUT_DIR = args.output or os.path.join(cfg.OUTPUT_DIR, "evaluation", args.split, own)
    return cfg
