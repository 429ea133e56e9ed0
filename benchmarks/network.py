# SPDX-License-Identifier: Apache-2.0
"""The network, its inputs and its training step, as all measurements use them."""

from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.profiler import record_function

import dalnet.data  # noqa: F401  registers the data sets, which know the prompts
from benchmarks.inputs import sample_images
from dalnet.config import fill_class_names, load_config
from dalnet.config.validation import use_cpu_without_cuda
from dalnet.modeling import DALNet

# What precedes the names of a step's parts in a profile.
LABEL = "part: "
_TINY = (
    *("MODEL.VIT.IMG_SIZE", 64, "MODEL.VIT.EMBED_DIM", 24, "MODEL.VIT.DEPTH", 2),
    *("MODEL.VIT.NUM_HEADS", 2, "MODEL.VIT.INTERMEDIATE_BLOCK", 1),
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 16, "INPUT.CROP.SIZE", [64, 64]),
    *("INPUT.MULTI_CROP.LOCAL_SIZE", 32, "INPUT.MULTI_CROP.LOCAL_VIEWS", 2),
)


def make_config(name: str, device: str, tiny: bool, *options: object) -> CfgNode:
    """Return the recipe ``name`` with random weights, in ``tiny`` sizes or its own.

    All losses act from the first iteration.
    """
    random = ("MODEL.VIT.WEIGHTS", "", "MODEL.VIT.STEM_WEIGHTS", "", "MODEL.CLIP.SOURCE")
    opts = [*random, "untrained", "MODEL.DALNET.SEG_START_ITER", 0, "MODEL.DEVICE", device]
    cfg = load_config(name, [*opts, *(_TINY if tiny else ()), *options])
    fill_class_names(cfg)
    use_cpu_without_cuda(cfg)
    return cfg


def make_items(cfg: CfgNode, batch: int, synthetic: bool, all_views: bool) -> list[dict]:
    """Return what the mapper makes of ``batch`` images of one to three classes each.

    With ``all_views`` each has the config's global and local views, else the main view alone.
    """
    side, crop = cfg.INPUT.CROP.SIZE[0], cfg.INPUT.MULTI_CROP
    small = crop.LOCAL_SIZE
    further, local = (crop.GLOBAL_VIEWS - 1, crop.LOCAL_VIEWS) if all_views else (0, 0)
    labels = torch.zeros(batch, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES - 1)
    for i in range(batch):
        labels[i, [(5 * i + 7 * k) % labels.shape[1] for k in range(1 + i % 3)]] = 1
    return [
        {
            "image": image,
            "image_labels": image_labels,
            "image_box": torch.tensor([0, side, 0, side]),
            "global_views": image.flip(-1).expand(further, -1, -1, -1).contiguous(),
            "local_views": image[:, :small, :small].expand(local, -1, -1, -1).contiguous(),
            "local_boxes": torch.tensor([[0, small, 0, small]]).repeat(local, 1),
        }
        for image, image_labels in zip(
            sample_images(batch, side, side, synthetic), labels, strict=True
        )
    ]


def make_model(cls: type[DALNet], cfg: CfgNode) -> DALNet:
    """Return a model with the same random weights for every class, and CAMs that reach the limits.

    Fresh classifiers give flat CAMs, and flat CAMs no pseudo labels.
    """
    torch.manual_seed(0)
    model = cls(cfg)
    with torch.no_grad():
        for classifier in (model.classifier, model.inter_classifier):
            classifier.linear.weight.mul_(20)
    return model.to(cfg.MODEL.DEVICE)


def make_step(model: DALNet, dtype: torch.dtype) -> Callable[[list[dict]], tuple[Tensor, ...]]:
    """Return a call that trains ``model`` once in ``dtype`` and returns losses and gradients.

    The learning rate is 0: the same work, but every call finds the same weights.
    """
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=0.0)
    device = model.device.type

    def step(items: list[dict]) -> tuple[Tensor, ...]:
        optimizer.zero_grad()
        mixed = torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32)
        with EventStorage(0), mixed, record_function(LABEL + "forward pass"):
            losses = model(items)
        sum(losses.values()).backward()
        with record_function(LABEL + "AdamW"):
            optimizer.step()
        parts = (model.classifier.linear.weight, *model.sem_seg_head.parameters())
        return *losses.values(), *(part.grad for part in parts)

    return step
