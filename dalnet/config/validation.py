# SPDX-License-Identifier: Apache-2.0
"""Check whether a config's values can be used on this machine, whatever its data sets."""

import logging

import torch
from detectron2.config import CfgNode

from .base import BASE_RULES, check_base
from .checks import check_rules, get_value, one_of
from .systems import installed_systems

logger = logging.getLogger(__name__)


def use_cpu_without_cuda(cfg: CfgNode) -> bool:
    """Set the device to the CPU where CUDA is wanted but missing; return whether it was."""
    missing = cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available()
    if missing:
        cfg.MODEL.DEVICE = "cpu"
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        # Mixed precision is switched on for CUDA alone.
        cfg.SOLVER.AMP.ENABLED = False
    return missing


def check_values(cfg: CfgNode) -> None:
    """Refuse values that would only fail, or silently go wrong, later.

    Raises:
        UsageError: unknown names or impossible values, of the system's keys too.
    """
    systems = installed_systems()
    check_rules(cfg, (*BASE_RULES, one_of(systems, "MODEL.META_ARCHITECTURE")))
    check_base(cfg)
    system = systems[cfg.MODEL.META_ARCHITECTURE]
    check_rules(cfg, system.rules)
    system.check(cfg)


def warn_of_untrained_parts(cfg: CfgNode) -> None:
    """Log which parts of the network learn nothing in a training of this length.

    Args:
        cfg: of a training, checked.
    """
    iterations = cfg.SOLVER.MAX_ITER
    for part in installed_systems()[cfg.MODEL.META_ARCHITECTURE].late_parts:
        start = get_value(cfg, part.key)
        if start >= iterations and any(get_value(cfg, key) > 0 for key in part.weights):
            logger.warning(
                "%s: it is %d, but the training has %d iterations (SOLVER.MAX_ITER), in which %s "
                "learns nothing.",
                part.key,
                start,
                iterations,
                part.name,
            )


def warn_of_slow_precision(cfg: CfgNode) -> None:
    """Log where mixed precision is of a type that the GPU only imitates.

    Args:
        cfg: of a training; mixed precision is on for CUDA alone.
    """
    amp = cfg.SOLVER.AMP
    if not amp.ENABLED or amp.DTYPE != "bfloat16":
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        logger.warning(
            "SOLVER.AMP.DTYPE: this GPU has no bfloat16 of its own and is slow in it; set the key "
            "to float16."
        )
