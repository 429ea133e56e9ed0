# SPDX-License-Identifier: Apache-2.0
"""A network that learns where labels change, from confident labels (IRNet, CVPR 2019).

IRNet's branch for displacements is left out: it shares nothing that learns with the edges, and
masks of classes do not need it.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from timm.models import FeatureInfo
from torch import Tensor, nn

from dalnet.data import DATASET_MAPPER_REGISTRY
from dalnet.modeling.backbone.cnn import create_cnn, load_cnn_weights
from dalnet.modeling.meta_arch import WeakSegmentor
from dalnet.modeling.multi_scale import Features

from .affinity import affinities, pair_losses
from .label_maps import LabelMapBatch, LabelMapMapper

GRID = 4  # pixels of the image for one place of the edge map
_LEVELS = (0, 1, 2, 3, 4)
_CHANNELS, _GROUPS = 32, 4


@META_ARCH_REGISTRY.register()
class EdgeNetwork(WeakSegmentor[LabelMapBatch]):
    """Edges from all stages of a frozen, pre-trained CNN; it has no predictions of classes."""

    sources = {}
    batch_type = LabelMapBatch

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        radius: int,
        size: int,
        across_processes: bool,
        **shared: Any,
    ) -> None:
        """
        Args:
            backbone: returns the maps of five stages.
            channels, strides: of these maps.
            radius: of the pairs of pixels that it is trained on.
            size: side in pixels that smaller images are padded to, that of the training's views.
            across_processes: whether the loss counts the pairs of all processes.
            shared: see :class:`WeakSegmentor`.
        """
        super().__init__(**shared)
        self.backbone = backbone.requires_grad_(False)
        self.strides = strides
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, _CHANNELS, 1, bias=False), nn.GroupNorm(_GROUPS, _CHANNELS)
            )
            for width in channels
        )
        self.predictor = nn.Conv2d(_CHANNELS * len(channels), 1, 1)
        self.radius = radius
        self.size = size
        self.across_processes = across_processes

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the parts that ``cfg`` describes."""
        cnn = cfg.MODEL.CNN
        backbone = create_cnn(cnn.NAME, cnn.STRIDE, cnn.DILATE, "MODEL.CNN.NAME", _LEVELS)
        load_cnn_weights(backbone, cnn.NAME, cnn.WEIGHTS, "MODEL.CNN.WEIGHTS")
        info = cast(FeatureInfo, backbone.feature_info)
        return {
            **cls.shared_arguments(cfg),
            "backbone": backbone,
            "channels": tuple(info.channels()),
            "strides": tuple(min(stride, cnn.STRIDE) for stride in info.reduction()),
            "radius": cfg.MODEL.CLIMS.EDGES.RADIUS,
            "size": max(cfg.INPUT.CROP.SIZE),
            "across_processes": cfg.SOLVER.GLOBAL_LOSS_STATISTICS,
        }

    def train(self, mode: bool = True) -> "EdgeNetwork":
        """Set the mode; the frozen CNN stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def encode(self, images: Tensor) -> Features:
        """Return the ``edges``, logits ``[N, 1, ceil(H / 4), ceil(W / 4)]``."""
        with torch.no_grad():
            maps = list(self.backbone(images))
        if self.strides[0] < GRID:  # before the max pooling of a ResNet
            maps[0] = F.max_pool2d(maps[0], 3, stride=GRID // self.strides[0], padding=1)
        height, width = (-(-side // GRID) for side in images.shape[-2:])
        branches = []
        for features, stride, branch in zip(maps, self.strides, self.branches, strict=True):
            found = branch(features)
            if stride > GRID:
                found = F.interpolate(found, scale_factor=stride // GRID, mode="bilinear")
            branches.append(found[..., :height, :width].relu())
        return {"edges": self.predictor(torch.cat(branches, dim=1))}

    def maps(self, source: str, features: Features) -> Tensor:
        """Raise ValueError: edges are no maps of classes."""
        raise ValueError("an edge network has no maps of classes")

    def losses(self, batch: LabelMapBatch) -> dict[str, Tensor]:
        """Return the loss on pairs of pixels, of which those with two sure labels count."""
        logits = self.encode(self.normalize(batch.images))["edges"][:, 0]
        pairs = affinities(logits.float().sigmoid(), self.radius)
        labels = self.num_classes + 1
        loss = pair_losses(pairs, batch.label_maps, self.radius, labels, self.across_processes)
        return {"loss_edges": loss}

    @torch.no_grad()
    def edges(self, images: Tensor) -> Tensor:
        """Return the edges ``[ceil(H / 4), ceil(W / 4)]`` in 0..1 of an image ``[1, 3, H, W]``.

        The mean of the logits of the image (RGB in 0..255) and of its flipped copy.
        """
        height, width = images.shape[-2:]
        # Group norms see as much padding as in the training.
        padding = (0, max(self.size - width, 0), 0, max(self.size - height, 0))
        views = self.normalize(torch.cat([images, images.flip(-1)]))
        logits = self.encode(F.pad(views, padding))["edges"][:, 0]
        plain, flipped = logits[:, : -(-height // GRID), : -(-width // GRID)].float()
        return ((plain + flipped.flip(-1)) / 2).sigmoid()


@DATASET_MAPPER_REGISTRY.register()
class EdgeMapper(LabelMapMapper):
    """A training image becomes a view with a label map ``[H / 4, W / 4]``."""

    section = "EDGES"
    step = GRID
