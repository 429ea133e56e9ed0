# SPDX-License-Identifier: Apache-2.0
"""Measure an open-vocabulary system on the usual data sets, by one of two usual protocols.

    dalnet zero-shot --weights output/code --data voc21 context60 --preset tcl
    dalnet zero-shot --config projects/CoDe/configs/naclip.yaml --data voc21 --preset sclip

The preset is the protocol. tcl is that of TCL and CoDe: short side 448 pixels, windows of 448, one
name for each class, a constant background score. sclip is that of SCLIP and NACLIP: short side 336,
windows of 224, several names for each class in 80 sentences, a threshold on probabilities. Results
of the two cannot be compared, so every table names its preset. Numbers of a preset can be changed:
--preset tcl:short_side=96,crop=96,stride=48.

The data sets are voc21, voc20, context60, context59, coco_object, coco_stuff, cityscapes, ade20k,
and every other registered one that has masks, as toy_val.
"""

import argparse
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from dalnet.checkpoint import checkpoint_hash, config_for, load_model
from dalnet.config import load_config
from dalnet.config.validation import check_values, use_cpu_without_cuda
from dalnet.engine import launch
from dalnet.errors import UsageError
from dalnet.evaluation.zero_shot import PRESETS
from dalnet.evaluation.zero_shot_run import evaluate_zero_shot, write_zero_shot
from dalnet.modeling.meta_arch import WeakSegmentor

from .arguments import add_config, add_keys, add_processes, add_weights, split_keys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add = parser.add_argument
    add_config(parser, "recipe or YAML file (default: the config in the checkpoint)")
    add_weights(parser)
    text = "without --weights: measure the model of --config before any training"
    add("--untrained", action="store_true", help=text)
    add("--data", nargs="+", required=True, metavar="NAME", help="data sets, see above")
    add("--preset", default="tcl", help=f"{' or '.join(PRESETS)}; default: %(default)s")
    add("--limit", type=int, metavar="N", help="measure on only N images of each data set")
    text = "folder of the results (default: OUTPUT_DIR/evaluation)"
    add("--output", type=Path, metavar="DIR", help=text)
    add_processes(parser)
    add_keys(parser)


def run(args: argparse.Namespace) -> None:
    """Measure in as many processes as the arguments ask for.

    Raises:
        UsageError: see :func:`measure`.
    """
    launch.run(measure, args)


def measure(args: argparse.Namespace) -> None:
    """Measure in this process; print the table and write the results on the main rank.

    Raises:
        UsageError: there is no model, or see
            :func:`dalnet.evaluation.zero_shot_run.evaluate_zero_shot`.
    """
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"it is {args.limit}", "limit", "measure on 1 image or more")
    names, keys = split_keys(args.data)
    args.opts = [*keys, *args.opts]
    cfg, model = _load(args)
    output = args.output or Path(cfg.OUTPUT_DIR) / "evaluation"
    setup_logger(str(output), distributed_rank=comm.get_rank(), name="dalnet")
    weights = checkpoint_hash(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else None
    results = []
    for name in names:
        result = evaluate_zero_shot(model, name, args.preset, args.limit)
        if result is not None:
            results.append({**result, "weights_sha256": weights})
    if comm.is_main_process():
        write_zero_shot(results, output)


def _load(args: argparse.Namespace) -> tuple[CfgNode, WeakSegmentor]:
    if args.weights or not args.config:
        cfg = config_for(args.weights, args.config, args.opts)
        check_values(cfg)
        return cfg, load_model(cfg).eval()
    cfg = load_config(args.config, args.opts)
    use_cpu_without_cuda(cfg)
    check_values(cfg)
    if cfg.MODEL.WEIGHTS:
        return cfg, load_model(cfg).eval()
    model = build_model(cfg)
    if any(p.requires_grad for p in model.parameters()) and not args.untrained:
        raise UsageError("no checkpoint is named", "weights", "give one, or --untrained")
    return cfg, model.eval()
