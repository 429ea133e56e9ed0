# SPDX-License-Identifier: Apache-2.0
"""Pre-training of the toy data set's small ViT, in the role that ImageNet has in the paper.

The task is to name shape, texture and palette of generated objects, of which none looks like a
class of the data set: see ``dalnet_toy_backbone.collages`` and
``dalnet_toy_backbone.attribute_classifier``.
"""

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from detectron2.engine import hooks
from detectron2.evaluation import inference_context
from fvcore.common.param_scheduler import CosineParamScheduler
from torch import nn

from dalnet.assets import ASSETS
from dalnet.data.datasets.toy import SIZE
from dalnet.engine.pretrainer import (
    Pretrainer,
    PretrainingPlan,
    expect_positive,
    run_pretraining,
    save_encoder,
)
from dalnet.errors import UsageError
from dalnet.modeling.backbone.vit import TimmViT

from .attribute_classifier import AttributeClassifier
from .collages import (
    NUM_LABELS,
    PATCH,
    PICTURES,
    Batch,
    Collages,
    new_batches,
)

logger = logging.getLogger(__name__)

# As configs/toy_dalnet.yaml has it.
_VIT = "vit_tiny_patch16_224"
_SIZES = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": 144, "depth": 6, "num_heads": 3}
_BETAS = (0.9, 0.98)
_CLIP_NORM = 1.0  # of all gradients together


@dataclass(frozen=True)
class ToyRecipe:
    """What decides the result.

    Attributes:
        iters: length of the training.
        seed: of weights and collages.
        batch: collages an iteration.
        memory: number of the latest collages that batches are chosen from.
        initial: collages drawn at the start.
        fresh: collages drawn for each further iteration.
        rate: learning rate after the warm-up, if there were no cosine.
        weight_decay: of AdamW, on all parameters.
        warmup: iterations in which the rate rises.
    """

    iters: int = 900
    seed: int = 0
    batch: int = 16
    memory: int = 4096
    initial: int = 256
    fresh: int = 4
    rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 150

    def __post_init__(self) -> None:
        """Refuse impossible values with a :class:`UsageError`."""
        expect_positive(iters=self.iters)
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"--seed is {self.seed}; choose one from 0 to 2^64 - 1.")


@dataclass(frozen=True)
class ToyPlan(PretrainingPlan):
    """Where the pre-training runs and what it leaves; nothing here changes the result.

    Attributes:
        checkpoint: folder of checkpoints, log and metrics. It is not named as the output, beside
            which, in the package, it would be in the way.
        checked: new collages that are judged at each checkpoint, in multiples of a batch.
        judged: the same at the end, of either kind of looks.
    """

    output: Path = ASSETS / "toy_vit.safetensors"
    checkpoint: Path = Path("output/pretrain_toy")
    checked: int = 64
    judged: int = 512

    @property
    def folder(self) -> Path:
        """Folder of checkpoints, log and metrics."""
        return self.checkpoint


class RisingCosine(CosineParamScheduler):
    """Factor of the rate over 0..1 of the training: half a cosine to 0, times a rise at first."""

    def __init__(self, iters: int, warmup: int) -> None:
        """Rise in ``warmup`` of ``iters`` iterations; the first one is not at 0 already."""
        super().__init__(1.0, 0.0)
        self.iters, self.warmup = iters, warmup

    def __call__(self, where: float) -> float:
        """The factor at ``where`` = iterations done / all iterations."""
        return min(1.0, (where * self.iters + 1) / self.warmup) * super().__call__(where)


def pretrain_toy(recipe: ToyRecipe, plan: ToyPlan) -> None:
    """Train, write the encoder's weights in half precision, and log what it can do.

    Raises:
        UsageError: something cannot be written, or the checkpoint is of another run.
    """
    model = build_classifier(recipe.seed)
    collages = Collages(recipe.seed, recipe.batch, recipe.memory, recipe.initial, recipe.fresh)
    trainer = Pretrainer(model, collages, build_optimizer(model, recipe), asdict(recipe))
    check = partial(judge, model, recipe, plan.checked)
    run_pretraining(
        trainer,
        RisingCosine(recipe.iters, recipe.warmup),
        recipe.iters,
        plan,
        [hooks.EvalHook(plan.save_every, check)],
    )
    save_encoder(model.vit, plan.output, torch.float16)
    logger.info("wrote %s, loss %.4f", plan.output, trainer.loss)
    judge(model, recipe, plan.judged)
    judge(model, recipe, plan.judged, classes=True)


def build_classifier(seed: int) -> AttributeClassifier:
    """The classifier around the very encoder that ``TimmViT`` trains."""
    torch.manual_seed(seed)
    vit = TimmViT(name=_VIT, weights="", intermediate_block=1, overrides=_SIZES).vit
    return AttributeClassifier(vit, NUM_LABELS, PICTURES)


def build_optimizer(model: nn.Module, recipe: ToyRecipe) -> torch.optim.AdamW:
    """AdamW that clips the norm of all gradients before each step."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.rate, betas=_BETAS, weight_decay=recipe.weight_decay
    )

    def clip(*args: object) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), _CLIP_NORM)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def judge(
    model: AttributeClassifier, recipe: ToyRecipe, count: int, classes: bool = False
) -> dict[str, float]:
    """Log and return :func:`accuracy` on ``count`` new collages, rounded down to whole batches.

    With ``classes`` they show the data set's classes, else looks as in training.
    """
    batches = new_batches(recipe.seed, recipe.batch, count // recipe.batch, classes)
    shares = accuracy(model, batches)
    what = "the data set's classes" if classes else "other combinations"
    words = ", ".join(f"{name} {share:.1f}" for name, share in shares.items())
    logger.info("unseen pictures, %s: %s %% right", what, words)
    return shares


@torch.no_grad()
def accuracy(model: AttributeClassifier, batches: Iterable[Batch]) -> dict[str, float]:
    """Per cent of the objects, by attribute, that their patches name right."""
    sizes = list(model.attributes.values())
    right, total = torch.zeros(len(sizes)), 0
    with inference_context(model):
        for batch in batches:
            labels = batch["labels"]
            objects = labels[..., 0] > 0
            of_parts = model.logits(batch["images"], batch["owners"])[1].split(sizes, dim=2)
            named = torch.stack([logits.argmax(2) for logits in of_parts], dim=2)
            right += (named == labels)[objects].sum(0)
            total += int(objects.sum())
    return dict(zip(model.attributes, (100 * right / total).tolist(), strict=True))
