# SPDX-License-Identifier: Apache-2.0
"""The whole training step: forward, backward, AdamW. The error is that of losses and gradients."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.profiler import record_function

from benchmarks.harness import Case, Pair
from benchmarks.inference import make_config
from benchmarks.inputs import photographs
from benchmarks.plain.train_step import PublishedDALNet
from dalnet.modeling import DALNet

_CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_TINY = (
    *("MODEL.VIT.IMG_SIZE", 64, "MODEL.VIT.EMBED_DIM", 24, "MODEL.VIT.DEPTH", 2),
    *("MODEL.VIT.NUM_HEADS", 2, "MODEL.VIT.INTERMEDIATE_BLOCK", 1),
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 16, "INPUT.CROP.SIZE", [64, 64]),
)


def step_config(device: str, small: bool, *options: object) -> CfgNode:
    """The paper's VOC recipe with all losses acting."""
    opts = (*(_TINY if small else ()), "MODEL.DALNET.SEG_START_ITER", 0)
    opts = (*opts, "MODEL.DEVICE", device, *options)
    return make_config(str(_CONFIGS / "voc_dalnet.yaml"), list(opts))


def step_inputs(cfg: CfgNode, batch: int, synthetic: bool) -> list[dict]:
    """Items as the mapper makes them, without further views; one to three classes each."""
    side, size = cfg.INPUT.CROP.SIZE[0], cfg.INPUT.MULTI_CROP.LOCAL_SIZE
    labels = torch.zeros(batch, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES - 1)
    for i in range(batch):
        labels[i, [(5 * i + 7 * k) % labels.shape[1] for k in range(1 + i % 3)]] = 1
    return [
        {
            "image": image,
            "image_labels": shown,
            "image_box": torch.tensor([0, side, 0, side]),
            "global_views": torch.zeros(0, 3, side, side, dtype=torch.uint8),
            "local_views": torch.zeros(0, 3, size, size, dtype=torch.uint8),
            "local_boxes": torch.zeros(0, 4, dtype=torch.int64),
        }
        for image, shown in zip(photographs(batch, side, side, synthetic), labels, strict=True)
    ]


def make_step(
    model: DALNet, items: list[dict], dtype: torch.dtype
) -> Callable[[], tuple[Tensor, ...]]:
    """A call that trains ``model`` once and returns losses and gradients.

    The learning rate is 0: the same work, but every call finds the same weights.
    """
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=0.0)
    device = model.device.type

    def step() -> tuple[Tensor, ...]:
        optimizer.zero_grad()
        mixed = torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32)
        with EventStorage(0), mixed, record_function("the rest of the forward pass"):
            losses = model(items)
        with record_function("backward pass"):
            sum(losses.values()).backward()
        with record_function("AdamW"):
            optimizer.step()
        parts = (model.classifier.linear.weight, *model.sem_seg_head.parameters())
        return *losses.values(), *(part.grad for part in parts)

    return step


def make_model(cls: type[DALNet], cfg: CfgNode) -> DALNet:
    """The same random weights for every class, with CAMs that reach the thresholds."""
    torch.manual_seed(0)
    model = cls(cfg)
    # Fresh classifiers give flat CAMs, and flat CAMs no pseudo labels.
    with torch.no_grad():
        for classifier in (model.classifier, model.inter_classifier):
            classifier.linear.weight.mul_(20)
    return model.to(cfg.MODEL.DEVICE)


def make_train_step(dtype: torch.dtype, device: str, small: bool) -> Pair:
    """Four photographs, ours in ``dtype`` by autocast, the plain form in single precision."""
    cfg = step_config(device, small)
    items = step_inputs(cfg, 2 if small else 4, small)
    ours, plain = make_model(DALNet, cfg), make_model(PublishedDALNet, cfg)
    return Pair(make_step(ours, items, dtype), make_step(plain, items, torch.float32))


CASES = (
    Case("train_step", partial(make_train_step, torch.float32)),
    # CPUs without matrix units for bfloat16 are slower with it.
    Case("train_step_bf16", partial(make_train_step, torch.bfloat16), devices=("cuda",)),
)
