# SPDX-License-Identifier: Apache-2.0
"""Segmentation head: dilated convolutions on the patch tokens ("LargeFOV")."""

from typing import Any

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn


@SEM_SEG_HEADS_REGISTRY.register()
class LargeFOVHead(nn.Module):
    """Two dilated 3x3 convolutions with ReLU and a 1x1 prediction layer.

    The "LargeFOV" head of DeepLab (Chen et al., ICLR 2015) with ToCo's widths. Initialized as
    Detectron2's own semantic heads: MSRA for the convolutions before a ReLU, and, as in its
    DeepLab project, a normal of deviation 0.001 and zero bias for the prediction layer.
    """

    @configurable
    def __init__(self, *, in_channels: int, conv_dim: int, dilation: int, num_classes: int) -> None:
        """Take the widths of tokens and convolutions, and C + 1 classes, background included."""
        super().__init__()
        self.conv1 = _dilated_conv(in_channels, conv_dim, dilation)
        self.conv2 = _dilated_conv(conv_dim, conv_dim, dilation)
        self.predictor = Conv2d(conv_dim, num_classes, kernel_size=1)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``cfg.MODEL.SEM_SEG_HEAD`` and the backbone's ``output_shape()``."""
        head = cfg.MODEL.SEM_SEG_HEAD
        return {
            "in_channels": input_shape["patch_tokens"].channels,
            "conv_dim": head.CONVS_DIM,
            "dilation": head.DILATION,
            "num_classes": head.NUM_CLASSES,
        }

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Map ``features["patch_tokens"] [N, D, h, w]`` to logits ``[N, C + 1, h, w]``."""
        return self.predictor(self.conv2(self.conv1(features["patch_tokens"])))


def _dilated_conv(in_channels: int, out_channels: int, dilation: int) -> Conv2d:
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        padding=dilation,
        dilation=dilation,
        activation=F.relu,
    )
    weight_init.c2_msra_fill(conv)
    return conv
