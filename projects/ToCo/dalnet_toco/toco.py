# SPDX-License-Identifier: Apache-2.0
"""ToCo's meta-architecture: DALNet's network without texts, and class-token contrast."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from dalnet.modeling.batch import TrainingBatch
from dalnet.modeling.losses.counts import made_once
from dalnet.modeling.losses.criterion import DALNetCriterion, Loss, Tensors
from dalnet.modeling.meta_arch import DALNet
from dalnet.modeling.multi_scale import Features

from .class_token_contrast import ClassTokenContrast, ProjectionHead, class_token_contrast
from .uncertain_crops import UncertainCrops


@dataclass(frozen=True)
class ToCoBatch(TrainingBatch):
    """A batch from which the model cuts the local views itself.

    Attributes:
        global_views: further views of each image ``[N, G - 1, 3, H, W]``, float32 RGB in 0..255.
        local_source: ``images`` in other colors ``[N, 3, H, W]``, float32 RGB in 0..255.
    """

    global_views: Tensor
    local_source: Tensor


class ToCoCriterion(DALNetCriterion):
    """DALNet's losses and L_ctc."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read ``MODEL.DALNET`` and ``MODEL.TOCO``."""
        arguments = super().from_config(cfg)
        arguments["weights"]["ctc"] = float(cfg.MODEL.TOCO.CTC_WEIGHT)
        arguments["options"]["ctc"] = {"temperature": cfg.MODEL.TOCO.TEMPERATURE}
        return arguments

    def terms(self) -> dict[str, tuple[Loss, str]]:
        """Return DALNet's losses and L_ctc, with the target that each needs."""
        return {**super().terms(), "ctc": (self.class_token_contrast, "positive_views")}

    def class_token_contrast(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return L_ctc of ``student_views [N, V, K]`` against ``teacher_views [N, G, K]``.

        Of each of N images V views, G of which are global, in a space of K dimensions.
        """
        return class_token_contrast(
            outputs["teacher_views"],
            outputs["student_views"],
            targets["positive_views"],
            sample_weight=targets["image_weights"],
            across_processes=self.across_processes,
            **self.options["ctc"],
        )


@META_ARCH_REGISTRY.register()
class ToCo(DALNet):
    """Token contrast (ToCo, CVPR 2023)."""

    batch_type = ToCoBatch
    required = ("backbone.",)
    rebuilt = ()
    cam_losses = ("ptc", "ctc")

    @configurable
    def __init__(
        self, *, class_contrast: ClassTokenContrast, crops: UncertainCrops, **dalnet: Any
    ) -> None:
        """
        Args:
            class_contrast: projects class tokens by a student and by its moving average.
            crops: cuts local views where the intermediate CAM is not sure of an object.
            dalnet: see :class:`dalnet.modeling.meta_arch.DALNet`.
        """
        super().__init__(**dalnet)
        self.class_contrast = class_contrast
        self.crops = crops

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the parts that ``cfg`` describes."""
        toco, views, cam = cfg.MODEL.TOCO, cfg.INPUT.MULTI_CROP, cfg.MODEL.CAM
        arguments = super().from_config(cfg)
        width = arguments["backbone"].embed_dim
        head = ProjectionHead(width, toco.HIDDEN_DIM, toco.BOTTLENECK_DIM, toco.OUT_DIM)
        return {
            **arguments,
            "criterion": ToCoCriterion(cfg),
            "class_contrast": ClassTokenContrast(head, toco.MOMENTUM),
            "crops": UncertainCrops(
                views.LOCAL_VIEWS,
                views.LOCAL_SIZE,
                cam.LOW_THRESHOLD,
                cam.HIGH_THRESHOLD,
                toco.MAX_BACKGROUND,
            ),
        }

    def losses(self, batch: ToCoBatch) -> dict[str, Tensor]:
        """Return the losses of a training step, from top to bottom."""
        features = self.encode(self.normalize(batch.images))
        outputs = self.heads(features)
        targets, views = made_once(lambda: self.targets_and_views(batch, features, outputs))
        global_tokens = self.global_tokens(batch, features["cls_token"])  # [N, G, D]
        local_tokens = self.cls_tokens(views)  # [N, L, D]
        projected = self.class_contrast(global_tokens, local_tokens)
        outputs["teacher_views"], outputs["student_views"] = projected
        return self.criterion(outputs, targets)

    def targets_and_views(
        self, batch: ToCoBatch, features: Features, outputs: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the targets of the losses, and the local views ``[N, L, 3, S, S]``."""
        cams = self.multi_scale_cams(batch, features)
        targets = self.make_targets(batch, outputs, cams)
        valid = batch.image_classes.valid
        views, positive = self.crops(batch.local_source, cams.intermediate, valid)
        # A global view shows the image's objects.
        num_global = 1 + batch.global_views.shape[1]
        targets["positive_views"] = F.pad(positive, (num_global, 0), value=True)
        return targets, views
