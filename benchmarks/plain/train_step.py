# SPDX-License-Identifier: Apache-2.0
"""DALNet whose training step takes the published way wherever ours is another."""

import torch
from detectron2.config import CfgNode
from torch import Tensor

from benchmarks.plain.cam import materialized_attention, published_multi_scale_cam
from benchmarks.plain.par import published_par, published_refine
from benchmarks.plain.patch_contrast import published_patch_contrast
from dalnet.modeling import DALNet
from dalnet.modeling.losses.criterion import DALNetCriterion
from dalnet.modeling.meta_arch.dalnet import CAMs


class _PublishedCriterion(DALNetCriterion):
    def patch_contrast(self, outputs, targets) -> Tensor:
        tokens, labels = outputs["patch_tokens"].float(), targets["token_labels"]
        return published_patch_contrast(tokens, labels, self.ignore_value)


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

    @torch.no_grad()
    def multi_scale_cams(self, batch, features) -> CAMs:
        def raw_cams(views: Tensor) -> tuple[Tensor, Tensor]:
            found = self.backbone(views)
            return self.maps("cam", found), self.maps("cam_inter", found)

        images = self.normalize(batch.images)
        with torch.autocast(images.device.type, enabled=False):
            cams = published_multi_scale_cam(raw_cams, images, self.cam_settings.scales)
        return CAMs(*map(batch.image_classes.gather, cams))

    def pseudo_labels(self, images, cams, valid, boxes) -> Tensor:
        thresholds = self.cam_settings.label_thresholds
        return published_refine(published_par, images / 255, cams, valid, boxes, **thresholds)
