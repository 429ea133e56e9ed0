# SPDX-License-Identifier: Apache-2.0
"""Estimate how long a training on one's own images takes here, by measuring a few steps."""

import itertools
import statistics
import time

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

import dalnet.modeling  # noqa: F401  registers the network's parts
from dalnet.config import fill_class_names, load_config
from dalnet.config.recipes import choose_recipe
from dalnet.config.validation import use_cpu_without_cuda
from dalnet.engine.optimizer import build_optimizer
from dalnet.engine.step import StepTrainer
from dalnet.modeling.memory import gpu_memory
from dalnet.modeling.meta_arch import WeakSegmentor
from dalnet.modeling.meta_arch.segmentor import amp_dtype

from .check import Findings
from .tagged_training import held_out_count

_STEPS = 2


def estimate_training(findings: Findings) -> str:
    """Return how long a training takes here, with its recipe, as text; empty without classes.

    The steps are those of the training, with random weights and images, and all losses; reading
    images and evaluating are not in the time.
    """
    if not (findings.sizes and findings.classes):
        return ""
    known = sum(tags is not None for tags in findings.tags.values())
    # Where there are masks, a part of their images is held out.
    known -= held_out_count(sum(findings.tags.get(f) is not None for f in findings.masked))
    side = int(statistics.median(min(size) for size in findings.sizes.values()))
    recipe = choose_recipe(max(known, 1), len(findings.classes), side, gpu_memory())
    names = str(("background", *findings.classes))
    opts = [
        *recipe.opts,
        "MODEL.CLASS_NAMES",
        names,
        "MODEL.PROMPT_NAMES",
        str((*findings.classes,)),
    ]
    cfg = load_config(recipe.config, [*opts, "MODEL.VIT.WEIGHTS", "", "MODEL.CLIP.SOURCE", "codes"])
    use_cpu_without_cuda(cfg)
    fill_class_names(cfg)
    model = build_model(cfg).train()
    size, batch = cfg.INPUT.CROP.SIZE, cfg.SOLVER.IMS_PER_BATCH
    views = cfg.INPUT.MULTI_CROP
    record = {
        "image": torch.randint(0, 256, (3, *size), dtype=torch.uint8),
        "image_labels": torch.eye(len(findings.classes))[0],
        "image_box": torch.tensor([0, size[0], 0, size[1]]),
        "global_views": torch.zeros(views.GLOBAL_VIEWS - 1, 3, *size, dtype=torch.uint8),
        "local_views": torch.zeros(
            views.LOCAL_VIEWS, 3, views.LOCAL_SIZE, views.LOCAL_SIZE, dtype=torch.uint8
        ),
        "local_boxes": torch.tensor([[0, 8, 0, 8]] * views.LOCAL_VIEWS).reshape(-1, 4),
    }
    seconds = _time_steps(cfg, model, [record] * batch)
    minutes = seconds * cfg.SOLVER.MAX_ITER / 60
    reasons = "; ".join(recipe.reasons)
    steps = f"{seconds:.2f} s a step, evaluation not counted"
    return f"A training here takes about {minutes:.0f} minutes ({reasons}; {steps})."


def _time_steps(cfg: CfgNode, model: WeakSegmentor, batch: list[dict]) -> float:
    """Return the seconds of a step as the training takes it; the first is not measured."""
    trainer = StepTrainer(
        model,
        itertools.repeat(batch),
        build_optimizer(cfg, model),
        amp_dtype=amp_dtype(cfg) if cfg.SOLVER.AMP.ENABLED else None,
        max_nonfinite=1 + _STEPS,  # random images teach nothing; their time is wanted
    )
    trainer.iter = cfg.MODEL.DALNET.SEG_START_ITER
    times = []
    for _ in range(1 + _STEPS):
        start = time.perf_counter()
        with EventStorage(trainer.iter):
            trainer.run_step()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])
