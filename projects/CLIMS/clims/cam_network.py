# SPDX-License-Identifier: Apache-2.0
"""The network of CLIMS, and its stage 0: the CAM classifier that it starts from."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from torch import Tensor

from dalnet.modeling.backbone import TimmCNN
from dalnet.modeling.batch import TrainingBatch
from dalnet.modeling.heads import CAMClassifier
from dalnet.modeling.losses import image_classification
from dalnet.modeling.meta_arch import Source, WeakSegmentor
from dalnet.modeling.multi_scale import Features


@META_ARCH_REGISTRY.register()
class CAMBaseline(WeakSegmentor[TrainingBatch]):
    """A CNN that classifies images; the weights of its classifier give CAMs.

    Mean pooling, a linear layer without bias, and the sigmoid cross-entropy of each class.
    """

    sources = {"cam": Source("CAM", "cam")}
    class_rows = {"classifier.linear.weight": 1}

    @configurable
    def __init__(self, *, backbone: TimmCNN, across_processes: bool, **shared: Any) -> None:
        """
        Args:
            backbone: returns ``map`` ``[N, D, h, w]``.
            across_processes: whether the loss counts the known labels of all processes.
            shared: see :class:`WeakSegmentor`.
        """
        super().__init__(**shared)
        self.backbone = backbone
        self.classifier = CAMClassifier(backbone.embed_dim, self.num_classes, pooling="mean")
        self.across_processes = across_processes
        self.map_stride = backbone.output_shape()["map"].stride

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the encoder that ``cfg`` describes."""
        return {
            **cls.shared_arguments(cfg),
            "backbone": build_backbone(cfg),
            "across_processes": cfg.SOLVER.GLOBAL_LOSS_STATISTICS,
        }

    def encode(self, images: Tensor) -> Features:
        """Return the ``map`` of normalized images ``[N, 3, H, W]``."""
        return self.backbone(images)

    def maps(self, source: str, features: Features) -> Tensor:
        """Return the raw CAMs ``[N, C, h, w]``."""
        return self.classifier.cam(features["map"])

    def image_logits(self, features: Features) -> Tensor:
        """Return the classifier's logits ``[N, C]``."""
        return self.classifier.logits(features["map"])

    def losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Return the loss of the image classifier."""
        features = self.encode(self.normalize(batch.images))
        logits = self.image_logits(features)  # [N, C]
        loss = image_classification(
            logits, batch.image_labels, batch.known_labels, across_processes=self.across_processes
        )
        return {"loss_cls": loss}
