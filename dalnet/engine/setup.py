# SPDX-License-Identifier: Apache-2.0
"""From a config file and the command line to a checked, frozen config."""

import argparse
import logging
import os
from collections.abc import Callable, Sequence

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup
from detectron2.utils.logger import setup_logger

import dalnet.modeling  # noqa: F401  registers the network's parts
from dalnet.config import add_dalnet_config
from dalnet.errors import UsageError

from .config_checks import check_config
from .config_files import merge_file, merge_options

logger = logging.getLogger("dalnet.setup")


def setup(
    args: argparse.Namespace, adjust: Callable[[CfgNode], None] = lambda cfg: None
) -> CfgNode:
    """Read ``args.config_file`` and ``args.opts``, check them, start logging.

    Args:
        args: of Detectron2's ``default_argument_parser``.
        adjust: changes what was read, in place, before it is checked.

    Returns:
        The frozen config. Without CUDA its device is the CPU.

    Raises:
        UsageError: the config or the machine cannot do what is asked.
    """
    cfg = get_cfg()
    add_dalnet_config(cfg)
    merge_config(cfg, args.config_file, args.opts)
    adjust(cfg)
    last_checkpoint = os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")
    if args.eval_only or (args.resume and os.path.isfile(last_checkpoint)):
        expect_checkpoint(cfg)
    elif cfg.MODEL.CLIP.SOURCE == "checkpoint" and not cfg.MODEL.WEIGHTS:
        raise UsageError(
            'MODEL.CLIP.SOURCE is "checkpoint", but MODEL.WEIGHTS names no checkpoint to take the '
            'text embeddings from; train with "tower", "embeddings", "untrained" or "codes".'
        )
    # As for Detectron2's launch, no GPU is one process.
    processes = max(args.num_gpus, 1) * args.num_machines
    if not args.eval_only and cfg.SOLVER.IMS_PER_BATCH % processes:
        raise UsageError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH} in all, which {processes} "
            "processes cannot share evenly; make it a multiple of them."
        )
    no_cuda = use_cpu_without_cuda(cfg)
    check_config(cfg)
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, name="dalnet")
    if no_cuda:
        logger.info("CUDA is not available: running on the CPU (MODEL.DEVICE cpu, no AMP).")
    return cfg


def expect_checkpoint(cfg: CfgNode) -> None:
    """Load no pre-trained weights: a checkpoint carries the backbone and the text embeddings."""
    cfg.MODEL.VIT.WEIGHTS = cfg.MODEL.VIT.STEM_WEIGHTS = ""
    cfg.MODEL.CLIP.SOURCE = "checkpoint"


def use_cpu_without_cuda(cfg: CfgNode) -> bool:
    """Set the device to the CPU where CUDA is wanted but missing; returns whether it was."""
    missing = cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available()
    if missing:
        cfg.MODEL.DEVICE = "cpu"
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        # Detectron2's trainer for mixed precision insists on CUDA.
        cfg.SOLVER.AMP.ENABLED = False
    return missing


def merge_config(cfg: CfgNode, config_file: str, opts: Sequence[str]) -> None:
    """Merge a config file and then ``KEY, VALUE, ...`` into ``cfg``.

    Raises:
        UsageError: no such file, no config, or a key or value that does not fit.
    """
    if not config_file:
        raise UsageError("No config was given; name one with --config-file configs/….yaml.")
    if not os.path.isfile(config_file):
        raise UsageError(f"The config file {config_file} does not exist.")
    merge_file(cfg, config_file)
    merge_options(cfg, opts, config_file)
