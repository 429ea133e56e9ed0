# SPDX-License-Identifier: Apache-2.0
"""The last stage: a segmentation network, DeepLabV3+, trained on refined label maps."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.projects.deeplab import DeepLabV3PlusHead
from torch import Tensor

from dalnet.modeling.backbone import TimmCNN
from dalnet.modeling.losses import balanced_cross_entropy
from dalnet.modeling.meta_arch import Source, WeakSegmentor
from dalnet.modeling.multi_scale import Features
from dalnet.modeling.resize import resize

from .label_maps import LabelMapBatch

_LOW = 1  # timm's stage whose map, of stride 4, the decoder takes beside the last one
_LOW_CHANNELS, _CHANNELS, _DROPOUT = 48, 256, 0.1  # those of Detectron2's DeepLab project


@META_ARCH_REGISTRY.register()
class LabelMapSegmentor(WeakSegmentor[LabelMapBatch]):
    """A CNN with the head of DeepLabV3+ (Chen et al., ECCV 2018), as Detectron2 has it.

    It learns from label maps that are made from CAMs, and never sees a mask.
    """

    sources = {"sem_seg": Source("segmentation", "probabilities")}
    batch_type = LabelMapBatch
    class_rows = {"head.predictor.weight": 0, "head.predictor.bias": 0}

    @configurable
    def __init__(
        self,
        *,
        backbone: TimmCNN,
        dilations: tuple[int, ...],
        norm: str,
        ignore_value: int,
        across_processes: bool,
        **shared: Any,
    ) -> None:
        """
        Args:
            backbone: returns ``map`` and the map of the stage with stride 4.
            dilations: of the three 3x3 convolutions side by side, in places of ``map``.
            norm: of the head, as Detectron2 calls it.
            ignore_value: label of pixels that do not count.
            across_processes: whether the loss counts the pixels of all processes.
            shared: see :class:`WeakSegmentor`.
        """
        super().__init__(**shared)
        self.backbone = backbone
        self.head = DeepLabV3PlusHead(
            backbone.output_shape(),
            project_channels=[_LOW_CHANNELS],
            aspp_dilations=list(dilations),
            aspp_dropout=_DROPOUT,
            decoder_channels=[_CHANNELS, _CHANNELS],
            common_stride=4,
            norm=norm,
            train_size=None,
            num_classes=self.num_classes + 1,
        )
        self._loss = {"ignore": ignore_value, "across_processes": across_processes}

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the parts that ``cfg`` describes."""
        cnn = {key.lower(): value for key, value in cfg.MODEL.CNN.items()}
        return {
            **cls.shared_arguments(cfg),
            "backbone": TimmCNN(**cnn, lower_stages=(_LOW,)),
            "dilations": tuple(cfg.MODEL.CLIMS.SEGMENTATION.DILATIONS),
            "norm": cfg.MODEL.SEM_SEG_HEAD.NORM,
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "across_processes": cfg.SOLVER.GLOBAL_LOSS_STATISTICS,
        }

    def encode(self, images: Tensor) -> Features:
        """Return two maps of normalized images ``[N, 3, H, W]``."""
        return self.backbone(images)

    def maps(self, source: str, features: Features) -> Tensor:
        """Return the logits ``[N, C + 1, H / 4, W / 4]``."""
        return self.head.layers(features)

    def losses(self, batch: LabelMapBatch) -> dict[str, Tensor]:
        """Return the cross-entropy, in which background weighs as much as objects."""
        logits = self.maps("sem_seg", self.encode(self.normalize(batch.images)))
        logits = resize(logits.float(), batch.label_maps.shape[-2:])
        return {"loss_seg": balanced_cross_entropy(logits, batch.label_maps, **self._loss)}
