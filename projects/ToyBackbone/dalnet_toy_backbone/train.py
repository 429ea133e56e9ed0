# SPDX-License-Identifier: Apache-2.0
"""The training: name shape, texture and palette of generated objects in collages.

No object looks like a class of the toy data set, see :mod:`dalnet_toy_backbone.collages`.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import SimpleTrainer, default_writers, hooks
from detectron2.evaluation import inference_context
from safetensors.torch import save_file
from torch import nn
from torch.optim.lr_scheduler import ChainedScheduler, CosineAnnealingLR, LinearLR

from dalnet.data.datasets.toy import SIZE
from dalnet.errors import UsageError
from dalnet.io import atomic_write
from dalnet.modeling import TimmViT

from .attribute_classifier import AttributeClassifier
from .cnn_tokens import CNNTokens
from .collages import NUM_LABELS, PATCH, TILES, Batch, training_batches, unseen_batches

logger = logging.getLogger(__name__)

# As configs/toy_dalnet.yaml has it.
_VIT = "vit_tiny_patch16_224"
_SIZES = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": 144, "depth": 6, "num_heads": 3}
_BETAS = (0.9, 0.98)
_CLIP_NORM = 1.0  # of all gradients together


@dataclass(frozen=True)
class RunOptions:
    """What every pre-training on toy images has; a checkpoint holds it all.

    So no other run is resumed from a checkpoint.
    """

    iterations: int
    seed: int = 0  # of weights and data
    lr: float = 1e-3  # learning rate that warm-up and cosine are multiplied with
    weight_decay: float = 0.05  # of AdamW, on all parameters
    warmup: int = 150  # iterations

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it."""
        return asdict(self)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Raise :class:`UsageError` if a checkpoint is of a run with other options."""
        if saved != asdict(self):
            raise UsageError(
                f"the checkpoint is of a run with {saved}",
                where="resume",
                hint="repeat these options, or train anew in another folder",
            )


@dataclass(frozen=True)
class TrainOptions(RunOptions):
    """What decides the result of this pre-training."""

    iterations: int = 900
    batch_size: int = 16
    memory: int = 4096  # number of the latest collages that batches are chosen from
    initial: int = 256  # collages drawn at the start
    fresh: int = 4  # collages drawn for each further iteration
    cnn: str = ""  # timm's name of a CNN to train in place of the ViT


def train(
    options: TrainOptions, folder: Path, resume: bool = False, save_every: int = 200
) -> AttributeClassifier:
    """Train and return the classifier.

    Args:
        options: what decides the result.
        folder, resume, save_every: see :func:`run`; each checkpoint is evaluated.

    Raises:
        UsageError: the checkpoint is of a run with other options.
    """
    model = build_classifier(options.seed, options.cnn)
    source = (options.seed, options.batch_size, options.memory, options.initial, options.fresh)
    evaluation = hooks.EvalHook(save_every, partial(evaluate, model, options, batches=4))
    run(model, partial(training_batches, *source), options, folder, resume, save_every, evaluation)
    return model


def run(
    model: nn.Module,
    batches: Callable[[int], Iterator[Batch]],
    options: RunOptions,
    folder: Path,
    resume: bool,
    save_every: int,
    evaluation: hooks.EvalHook,
) -> None:
    """Train a model, and keep checkpoints from which the training goes on as if uninterrupted.

    Args:
        model: returns a dictionary of losses for a batch.
        batches: returns the batches from that of a given number on.
        options: what decides the result.
        folder: for checkpoints, metrics and TensorBoard's events.
        resume: go on from the newest checkpoint in ``folder``, if there is one.
        save_every: iterations between two checkpoints, of which the last is kept.
        evaluation: of the model, now and then.

    Raises:
        UsageError: the checkpoint is of a run with other options.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = build_optimizer(model, options)
    scheduler = build_scheduler(optimizer, options)
    checkpointer = DetectionCheckpointer(
        model, str(folder), options=options, optimizer=optimizer, scheduler=scheduler
    )
    start = checkpointer.resume_or_load("", resume=resume).get("iteration", -1) + 1
    trainer = SimpleTrainer(model, batches(start), optimizer)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(optimizer, scheduler),
            hooks.PeriodicCheckpointer(checkpointer, save_every, max_to_keep=1),
            evaluation,
            hooks.PeriodicWriter(default_writers(str(folder), options.iterations)),
        ]
    )
    if start < options.iterations:
        trainer.train(start, options.iterations)


def build_classifier(seed: int, cnn: str = "") -> AttributeClassifier:
    """Return the classifier around the very encoder that ``TimmViT``, or ``TimmCNN``, trains."""
    torch.manual_seed(seed)
    if cnn:
        return AttributeClassifier(CNNTokens(cnn, PATCH), NUM_LABELS, TILES)
    vit = TimmViT(name=_VIT, weights="", intermediate_block=1, overrides=_SIZES).vit
    return AttributeClassifier(vit, NUM_LABELS, TILES)


def build_optimizer(model: nn.Module, options: RunOptions) -> torch.optim.AdamW:
    """Return AdamW that clips the norm of all gradients together before each step."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.lr, betas=_BETAS, weight_decay=options.weight_decay
    )

    def clip(*args: object) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), _CLIP_NORM)

    # Not by Detectron2, which clips the norm of each parameter by itself.
    optimizer.register_step_pre_hook(clip)
    return optimizer


def build_scheduler(optimizer: torch.optim.Optimizer, options: RunOptions) -> ChainedScheduler:
    """Return half a cosine to 0, times a linear rise over ``warmup`` iterations.

    Detectron2's ``WarmupParamScheduler`` rises in a straight line to the cosine: up to 6 % lower.
    """
    rise = LinearLR(optimizer, 1 / options.warmup, total_iters=options.warmup - 1)
    return ChainedScheduler([rise, CosineAnnealingLR(optimizer, options.iterations)])


@torch.no_grad()
def evaluate(
    model: AttributeClassifier, options: TrainOptions, batches: int, classes: bool = False
) -> dict[str, float]:
    """Return the percentage of the objects, by attribute, that their tile's patches name right.

    It is logged too, for so many batches of unseen collages. With ``classes`` these show the
    data set's classes, else looks as in training.
    """
    sizes = list(model.attributes.values())
    right, total = torch.zeros(len(sizes)), 0
    with inference_context(model):
        for batch in unseen_batches(options.seed, options.batch_size, batches, classes):
            labels = batch["labels"]
            objects = labels[..., 0] > 0
            _, tile_logits = model.logits(batch["images"], batch["tile_map"])
            named = [logits.argmax(2) for logits in tile_logits.split(sizes, dim=2)]
            right += (torch.stack(named, dim=2) == labels)[objects].sum(0)
            total += int(objects.sum())
    result = dict(zip(model.attributes, (100 * right / total).tolist(), strict=True))
    looks = "the data set's classes" if classes else "looks as in training"
    words = ", ".join(f"{name} {value:.1f} %" for name, value in result.items())
    logger.info("named right in unseen collages with %s: %s", looks, words)
    return result


def save_encoder(model: AttributeClassifier, path: Path) -> None:
    """Write the encoder in half precision, with timm's names and without a classifier."""
    encoder = model.vit.cnn if isinstance(model.vit, CNNTokens) else model.vit
    state = {key: value.half().contiguous() for key, value in encoder.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(state, temporary)
    logger.info("wrote %s", path)
