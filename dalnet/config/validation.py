# SPDX-License-Identifier: Apache-2.0
"""Whether a config's values can be used on this machine, whatever its data sets."""

import torch
from detectron2.config import CfgNode

from dalnet.errors import UsageError

from .base import BASE_RULES, check_base
from .checks import check_rules
from .systems import installed_systems


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
    check_rules(cfg, BASE_RULES)
    check_base(cfg)
    name, systems = cfg.MODEL.META_ARCHITECTURE, installed_systems()
    if name not in systems:
        raise UsageError(
            f"MODEL.META_ARCHITECTURE is {name!r}, which is no weakly supervised system; set it to "
            f"one of {', '.join(systems)}."
        )
    check_rules(cfg, systems[name].rules)
    systems[name].check(cfg)
