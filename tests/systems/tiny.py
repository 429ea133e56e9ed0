# SPDX-License-Identifier: Apache-2.0
"""A second system, as small as one can be: a CNN with CAMs of three classes and no other head.

It shows what a system has to bring: a meta-architecture with ``encode``, ``maps`` and ``losses``,
a mapper, and its config keys.
"""

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, Backbone, build_backbone
from torch import Tensor, nn

from dalnet.config import System, register_system
from dalnet.config.checks import at_least
from dalnet.data import DATASET_MAPPER_REGISTRY, ImageLabelMapper
from dalnet.modeling.batch import TrainingBatch
from dalnet.modeling.heads import CAMClassifier
from dalnet.modeling.losses import image_classification
from dalnet.modeling.meta_arch import Source, WeakSegmentor
from dalnet.modeling.multi_scale import Features

STRIDE = 4


@BACKBONE_REGISTRY.register()
class TinyCNN(Backbone):
    """Two convolutions with stride 2."""

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec) -> None:
        super().__init__()
        self.width = cfg.MODEL.TINY.WIDTH
        self.layers = nn.Sequential(
            nn.Conv2d(3, self.width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(self.width, self.width, 3, stride=2, padding=1),
            nn.ReLU(),
        )

    def forward(self, images: Tensor) -> Features:
        return {"map": self.layers(images)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"map": ShapeSpec(channels=self.width, stride=STRIDE)}


@META_ARCH_REGISTRY.register()
class TinyCAM(WeakSegmentor):
    """An image classifier whose weights give CAMs."""

    class_rows = {"classifier.linear.weight": 1}
    sources = {
        "cam": Source("CAM", "cam"),
        "pseudo_label": Source("pseudo label", "pseudo_label"),
    }

    @configurable
    def __init__(self, *, backbone: TinyCNN, weight: float, **shared: object) -> None:
        super().__init__(**shared)
        self.backbone = backbone
        self.classifier = CAMClassifier(backbone.width, self.num_classes)
        self.weight = weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {
            **cls.shared_arguments(cfg),
            "backbone": build_backbone(cfg),
            "weight": cfg.MODEL.TINY.WEIGHT,
        }

    def encode(self, images: Tensor) -> Features:
        return self.backbone(images)

    def maps(self, source: str, features: Features) -> Tensor:
        return self.classifier.cam(features["map"])

    def losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        features = self.encode(self.normalize(batch.images))
        logits = self.classifier.logits(features["map"])
        loss = image_classification(logits, batch.image_labels, batch.known_labels)
        return {"loss_cls": self.weight * loss}


class SquareView:
    """The whole image as a square."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, image: np.ndarray) -> dict[str, Tensor]:
        pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float()
        square = F.interpolate(pixels, (self.side, self.side), mode="bilinear")[0]
        box = torch.tensor([0, self.side, 0, self.side])
        return {"image": square.round().byte(), "image_box": box}


@DATASET_MAPPER_REGISTRY.register()
class TinyMapper(ImageLabelMapper):
    """One square view of each image."""

    @classmethod
    def build_views(cls, cfg: CfgNode) -> SquareView:
        return SquareView(cfg.INPUT.CROP.SIZE[0])


def add_tiny_config(cfg: CfgNode) -> None:
    cfg.MODEL.TINY = CfgNode()
    cfg.MODEL.TINY.WIDTH = 8
    cfg.MODEL.TINY.WEIGHT = 1.0


register_system(System("TinyCAM", add_tiny_config, (at_least(1, "MODEL.TINY.WIDTH"),)))
