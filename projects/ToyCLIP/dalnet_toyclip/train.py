# SPDX-License-Identifier: Apache-2.0
"""The training: images and captions that fit, told from those that do not."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from detectron2.engine import hooks

from dalnet_toy_backbone.train import RunOptions, run

from .batches import training_batches
from .evaluate import evaluate
from .toy_clip import ToyCLIP


@dataclass(frozen=True)
class TrainOptions(RunOptions):
    """What decides the result. A checkpoint holds it, so that no other run is resumed from it."""

    iterations: int = 450
    batch_size: int = 256
    bank_size: int = 6000  # objects drawn at a time
    bank_life: int = 250  # iterations until others are drawn
    lr: float = 1.5e-3
    warmup: int = 40  # iterations


def train(
    options: TrainOptions, folder: Path, resume: bool = False, save_every: int = 50
) -> ToyCLIP:
    """Train and return the towers.

    Args:
        options: what decides the result.
        folder: for checkpoints, metrics and TensorBoard's events.
        resume: go on from the newest checkpoint in ``folder``, if there is one.
        save_every: iterations between two checkpoints; every fourth is evaluated.

    Raises:
        UsageError: the checkpoint is of a run with other options.
    """
    torch.manual_seed(options.seed)
    model = ToyCLIP()
    source = (options.seed, options.batch_size, options.bank_size, options.bank_life)
    evaluation = hooks.EvalHook(4 * save_every, partial(evaluate, model, count=80))
    batches = partial(training_batches, *source)
    run(model, batches, options, folder, resume, save_every, evaluation)
    return model
