# SPDX-License-Identifier: Apache-2.0
"""CNNs as backbones: strides without dilation, norms, what learns, weights of every kind."""

import pytest
import timm
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from helpers import refused
from safetensors.torch import save_file
from torch import nn

from dalnet.checkpoint import expect_checkpoint
from dalnet.config import add_dalnet_config
from dalnet.modeling.backbone.cnn import TimmCNN, create_cnn

CNN = "test_resnet"  # timm's smallest


@pytest.mark.parametrize(
    ("name", "stride", "sizes"),
    [
        ("resnet50", 16, {(512, 512): (32, 32), (321, 481): (21, 31), (375, 500): (24, 32)}),
        ("resnet18", 8, {(96, 96): (12, 12), (97, 50): (13, 7)}),
        ("tf_efficientnet_lite2", 16, {(96, 70): (6, 5)}),
    ],
)
def test_sizes_of_the_map(name, stride, sizes):
    cnn = create_cnn(name, stride, False, "MODEL.CNN.NAME").eval().to("meta")
    for size, expected in sizes.items():
        (feature_map,) = cnn(torch.zeros(1, 3, *size, device="meta"))
        assert feature_map.shape[-2:] == expected
    dilations = {m.dilation for m in cnn.modules() if isinstance(m, nn.Conv2d)}
    assert dilations == {(1, 1)}


def test_only_the_strides_of_the_last_stage_are_taken_off(classifier, weights):
    """As CLIMS builds its ResNet-50: stride 1 in the first block of layer4, without dilation."""
    model = TimmCNN(name=CNN, weights=weights).eval()
    block = classifier.layer4[0]
    block.conv1.stride = block.conv2.stride = (1, 1)
    block.downsample[0] = nn.Identity()  # pooled there: a ResNet-D
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        expected = classifier.forward_features(images)
        torch.testing.assert_close(model(images)["map"], expected)
        dilated = TimmCNN(name=CNN, weights=weights, dilate=True).eval()(images)["map"]
    assert dilated.shape == expected.shape and not torch.allclose(dilated, expected)
    assert model.output_shape()["map"].stride == 16
    assert model.output_shape()["map"].channels == expected.shape[1] == model.embed_dim


def test_a_resnet_50_as_clims_builds_it(tmp_path, randomized):
    """The stride of a ResNet v1.5 stands on its 3x3 convolution."""
    classifier = randomized(timm.create_model("resnet50"))
    save_file(classifier.state_dict(), tmp_path / "resnet50.safetensors")
    model = TimmCNN(name="resnet50", weights=str(tmp_path / "resnet50.safetensors")).eval()
    block = classifier.layer4[0]
    block.conv2.stride = block.downsample[0].stride = (1, 1)
    images = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        assert torch.equal(model(images)["map"], classifier.forward_features(images))


def statistics(model):
    return {k: v.clone() for k, v in model.state_dict().items() if "running" in k}


@pytest.mark.parametrize("norm", ["BN", "FixedBN", "SyncBN"])
def test_statistics_move_or_stay_and_the_stem_is_frozen(weights, norm):
    model = TimmCNN(name=CNN, weights=weights, norm=norm).train()
    before = statistics(model)
    model(torch.randn(4, 3, 64, 64))["map"].sum().backward()
    moved = {key for key, value in statistics(model).items() if not torch.equal(value, before[key])}
    assert moved == (set() if norm == "FixedBN" else set(before))
    without = {name for name, p in model.named_parameters() if p.grad is None}
    stem = {n for n, _ in model.named_parameters() if n.startswith(("cnn.conv1.", "cnn.bn1."))}
    assert stem and without == stem
    # Scale and shift of fixed norms learn too.
    assert model.cnn.layer4[0].bn1.weight.grad.any()


def test_the_whole_stem_can_learn(weights):
    model = TimmCNN(name=CNN, weights=weights, freeze_stem=False)
    assert all(p.requires_grad for p in model.parameters())


def test_weights_of_a_trunk_and_of_a_checkpoint(weights, tmp_path):
    model = TimmCNN(name=CNN, weights=weights)
    save_file(model.cnn.state_dict(), tmp_path / "trunk.safetensors")
    state = {f"backbone.{key}": value for key, value in model.state_dict().items()}
    torch.save({"model": {**state, "classifier.weight": torch.ones(2)}}, tmp_path / "model.pth")
    for name in ("trunk.safetensors", "model.pth"):
        other = TimmCNN(name=CNN, weights=str(tmp_path / name))
        for key, value in model.state_dict().items():
            assert torch.equal(other.state_dict()[key], value), key


def test_weights_of_a_classifier_of_other_classes(randomized, tmp_path):
    classifier = randomized(timm.create_model(CNN, num_classes=7))
    save_file(classifier.state_dict(), tmp_path / "seven.safetensors")
    model = TimmCNN(name=CNN, weights=str(tmp_path / "seven.safetensors"))
    assert torch.equal(model.cnn.conv1[0].weight, classifier.conv1[0].weight)


def test_weights_that_do_not_fit(classifier, weights, tmp_path):
    path = tmp_path / "cnn.pth"
    for key, value in (("layer4.0.conv1.weight", torch.zeros(3)), ("more", torch.zeros(1))):
        torch.save({**classifier.state_dict(), key: value}, path)
        with refused("cnn.pth", "MODEL.CNN.WEIGHTS", key):
            TimmCNN(name=CNN, weights=str(path))
    with refused("MODEL.CNN.WEIGHTS"):
        TimmCNN(name=CNN, weights=str(tmp_path / "gone.pth"))


@pytest.mark.parametrize(
    ("name", "stride"), [("no_such_net", 16), ("vit_tiny_patch16_224", 16), (CNN, 12), (CNN, 64)]
)
def test_unsuitable_networks(name, stride):
    with refused("MODEL.CNN.NAME", name, f"stride of {stride}"):
        TimmCNN(name=name, weights="", stride=stride)


def test_built_from_config(classifier, weights):
    cfg = get_cfg()
    add_dalnet_config(cfg)
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.CNN.NAME = "TimmCNN", CNN
    cfg.MODEL.CNN.WEIGHTS, cfg.MODEL.CNN.STRIDE = weights, 8
    model = build_backbone(cfg)
    assert torch.equal(model.cnn.conv1[0].weight, classifier.conv1[0].weight)
    assert model.eval()(torch.zeros(1, 3, 32, 32))["map"].shape[-1] == 4
    expect_checkpoint(cfg)
    model = build_backbone(cfg)
    assert not torch.equal(model.cnn.conv1[0].weight, classifier.conv1[0].weight)


def test_maps_of_lower_stages(classifier, weights):
    model = TimmCNN(name=CNN, weights=weights, stride=8, lower_stages=(1,)).eval()
    images = torch.randn(1, 3, 50, 64)
    with torch.no_grad():
        found = model(images)
        alone = TimmCNN(name=CNN, weights=weights, stride=8).eval()(images)
        stem = classifier.maxpool(classifier.act1(classifier.bn1(classifier.conv1(images))))
        torch.testing.assert_close(found["stage1"], classifier.layer1(stem))
    assert set(found) == {"stage1", "map"} and set(alone) == {"map"}
    assert torch.equal(found["map"], alone["map"])
    shapes = model.output_shape()
    assert {name: shape.stride for name, shape in shapes.items()} == {"stage1": 4, "map": 8}
    assert {name: shape.channels for name, shape in shapes.items()} == {
        name: value.shape[1] for name, value in found.items()
    }
