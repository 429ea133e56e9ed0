# SPDX-License-Identifier: Apache-2.0
"""The LargeFOV head through Detectron2's registry."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_sem_seg_head

from dalnet.config import add_dalnet_config
from dalnet.modeling.heads.large_fov import LargeFOVHead


@pytest.fixture
def head():
    torch.manual_seed(0)
    cfg = get_cfg()
    add_dalnet_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 6
    cfg.MODEL.SEM_SEG_HEAD.DILATION = 2
    return build_sem_seg_head(cfg, {"patch_tokens": ShapeSpec(channels=5, stride=16)})


def test_is_two_dilated_convolutions_and_a_prediction(head):
    assert isinstance(head, LargeFOVHead)
    tokens = torch.randn(2, 5, 9, 7)
    x = tokens
    for conv in (head.conv1, head.conv2):
        x = F.conv2d(x, conv.weight, conv.bias, padding=2, dilation=2).clamp(min=0)
    expected = F.conv2d(x, head.predictor.weight, head.predictor.bias)
    logits = head({"patch_tokens": tokens})
    assert logits.shape == (2, 4, 9, 7)
    torch.testing.assert_close(logits, expected)


def test_field_of_view(head):
    tokens = torch.randn(1, 5, 15, 15, requires_grad=True)
    head({"patch_tokens": tokens})[0, :, 7, 7].sum().backward()
    rows = tokens.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten().tolist()
    assert rows == [3, 5, 7, 9, 11]


def test_initialization_keeps_the_scale_of_the_tokens():
    head = LargeFOVHead(in_channels=64, conv_dim=64, dilation=1, num_classes=3)
    # MSRA: variance 2 / fan_out.
    assert head.conv1.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    assert head.predictor.weight.std().item() == pytest.approx(0.001, rel=0.3)
    assert not head.predictor.bias.any()
    assert not head.conv2.bias.any()
