# SPDX-License-Identifier: Apache-2.0
"""DALNet whose training step takes the published way wherever ours is another."""

from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from torch import Tensor

from benchmarks.plain.cam import materialized_attention, published_multi_scale_cam
from benchmarks.plain.par import published_par, published_refine
from benchmarks.plain.patch_contrast import published_patch_contrast
from dalnet.modeling import DALNet
from dalnet.modeling.criterion import DALNetCriterion


@dataclass
class _CAMs:
    """What ``dalnet.modeling.inference.PresentCAMs`` offers, computed beforehand."""

    last: Tensor
    intermediate: Tensor


class _PublishedCriterion(DALNetCriterion):
    def contrast(self, patch_tokens: Tensor, token_labels: Tensor) -> dict[str, Tensor]:
        loss = published_patch_contrast(patch_tokens.float(), token_labels, self.ignore_value)
        return {"loss_ptc": self.weights["ptc"] * loss}


class PublishedDALNet(DALNet):
    """Six encoder passes per image for the CAMs of all classes, in single precision; attention as a
    matrix; PAR by copies, once per image and threshold; L_ptc by matrices of all pairs.

    L_reg is ours, since the published C++ filter cannot be installed from a package index.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {**super().from_config(cfg), "criterion": _PublishedCriterion(cfg)}

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        with materialized_attention(self.backbone):
            return super().forward(batched_inputs)

    def _multi_scale_cams(self, batch, images, tokens) -> _CAMs:
        def raw_cams(views: Tensor) -> tuple[Tensor, Tensor]:
            found = self.backbone(views)
            return (
                self.classifier.cam(found["patch_tokens"]),
                self.inter_classifier.cam(found["inter_tokens"]),
            )

        with torch.autocast(images.device.type, enabled=False):
            cams = published_multi_scale_cam(raw_cams, images, self.label_settings.scales)
        return _CAMs(*map(batch.present.select, cams))

    def pseudo_labels(self, pixels, cams, shown, boxes) -> Tensor:
        settings = self.label_settings
        thresholds = settings.low, settings.high, settings.ignore_value
        inputs = (pixels / 255, cams, shown, boxes)
        return published_refine(published_par, *inputs, *thresholds)
