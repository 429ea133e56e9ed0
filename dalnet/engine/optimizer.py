# SPDX-License-Identifier: Apache-2.0
"""Build an optimizer with a lower learning rate for the pre-trained backbone than for the rest."""

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Return ``SOLVER.OPTIMIZER`` over all trainable parameters of ``model``.

    The model's ``backbone`` learns at ``SOLVER.BASE_LR``, everything else at
    ``HEAD_LR_MULTIPLIER`` times that (ToCo's setting; the paper names only the base rate,
    Sec. 4.1).
    """
    solver = cfg.SOLVER
    heads = nn.ModuleDict({k: m for k, m in model.named_children() if k != "backbone"})
    groups = []
    for module, factor in ((model.backbone, 1.0), (heads, solver.HEAD_LR_MULTIPLIER)):
        groups += get_default_optimizer_params(
            module,
            base_lr=factor * solver.BASE_LR,
            weight_decay=solver.WEIGHT_DECAY,
            weight_decay_norm=solver.WEIGHT_DECAY_NORM,
            weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        )
    shared = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    if solver.OPTIMIZER == "SGD":
        sgd = maybe_add_gradient_clipping(cfg, torch.optim.SGD)
        return sgd(groups, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, **shared)
    adamw = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    return adamw(groups, betas=tuple(solver.BETAS), **shared)
