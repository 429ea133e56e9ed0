# SPDX-License-Identifier: Apache-2.0
"""Build the optimizer, slower for the pre-trained backbone than for the rest, and its schedule."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.projects import deeplab
from detectron2.solver import LRMultiplier
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn

from dalnet.errors import UsageError
from dalnet.modeling.meta_arch import WeakSegmentor


def build_optimizer(cfg: CfgNode, model: WeakSegmentor) -> torch.optim.Optimizer:
    """Return ``SOLVER.OPTIMIZER`` over all trainable parameters of ``model``.

    The model's ``backbone`` learns at ``SOLVER.BASE_LR``, everything else at
    ``HEAD_LR_MULTIPLIER`` times that (ToCo's setting; the paper names only the base rate,
    Sec. 4.1). A step leaves the model's ``withheld_parameters`` as they are.

    Raises:
        UsageError: a model without such parameters.
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
    if not groups:
        what = f"{type(model).__name__} has nothing that is trained"
        raise UsageError(what, "MODEL.META_ARCHITECTURE", "measure it as it is")
    if not solver.DECAY_VECTORS:
        # Later versions of Detectron2 put parameters of one rate together.
        groups = [{**group, "params": [one]} for group in groups for one in group["params"]]
        for group in groups:
            if group["params"][0].ndim == 1:
                group["weight_decay"] = 0.0
    shared = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    kind: type[torch.optim.Optimizer] = torch.optim.AdamW
    own: dict[str, Any] = {"betas": tuple(solver.BETAS), "eps": solver.EPS}
    if solver.OPTIMIZER == "SGD":
        kind, own = torch.optim.SGD, {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}
    clip = solver.CLIP_GRADIENTS
    clips_all = clip.ENABLED and clip.CLIP_TYPE == "full_model"
    if not clips_all:
        kind = maybe_add_gradient_clipping(cfg, kind)
    optimizer = kind(groups, **shared, **own)

    def before_step(*_: object) -> None:
        for parameter in model.withheld_parameters():
            # Without a gradient neither decay nor the moments act.
            parameter.grad = None
        if clips_all:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, clip.CLIP_VALUE, clip.NORM_TYPE)

    optimizer.register_step_pre_hook(before_step)
    return optimizer


def build_lr_scheduler(
    cfg: CfgNode, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the schedule that ``SOLVER.LR_SCHEDULER_NAME`` names.

    Beside those of Detectron2 and ``WarmupPolyLR`` of its DeepLab project there is
    ``WarmupThenCosineLR``: the rate rises linearly from ``WARMUP_FACTOR`` to 1 times the base rate,
    and only then falls along a cosine, to ``MIN_LR_FACTOR`` times it at ``MAX_ITER``.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != "WarmupThenCosineLR":
        return deeplab.build_lr_scheduler(cfg, optimizer)
    multiplier = WarmupThenCosine(
        solver.WARMUP_FACTOR, solver.WARMUP_ITERS, solver.MIN_LR_FACTOR, solver.MAX_ITER
    )
    return LRMultiplier(optimizer, multiplier, solver.MAX_ITER)


@dataclass(frozen=True)
class WarmupThenCosine(ParamScheduler):
    """A line from ``first`` to 1 in ``warmup`` iterations, then a cosine to ``last`` at ``end``."""

    first: float
    warmup: int
    last: float
    end: int

    def __call__(self, where: float) -> float:
        """Return the factor at a fraction of all iterations."""
        iteration = where * self.end
        if iteration < self.warmup:
            return self.first + (1 - self.first) * iteration / self.warmup
        progress = (iteration - self.warmup) / max(self.end - self.warmup, 1)
        return self.last + (1 - self.last) * (1 + math.cos(math.pi * progress)) / 2
