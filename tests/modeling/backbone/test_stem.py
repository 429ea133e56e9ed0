# SPDX-License-Identifier: Apache-2.0
"""A CNN as patch embedding: where its tokens come from, its statistics, its weights."""

import numpy as np
import pytest
import timm
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from helpers import refused
from safetensors.torch import save_file

from dalnet.config import add_dalnet_config
from dalnet.engine.setup import expect_checkpoint
from dalnet.modeling.backbone.stem import build_stem
from dalnet.modeling.backbone.vit import TimmViT

CNN = "test_efficientnet"  # timm's smallest
SIZES = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 2}


def hybrid(weights="", stem=CNN, vit_weights="", **overrides):
    torch.manual_seed(1)
    return TimmViT(
        name="vit_tiny_patch16_224",
        weights=vit_weights,
        intermediate_block=1,
        overrides={**SIZES, **overrides},
        stem=stem,
        stem_weights=weights,
    )


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("size", [(64, 64), (48, 112)])
def test_tokens_are_the_cnns_map(classifier, weights, stride, size):
    vit = hybrid(weights, patch_size=stride).eval()
    for block in vit.vit.blocks:  # which add nothing to what they are given
        torch.nn.init.zeros_(block.attn.proj.weight)
        torch.nn.init.zeros_(block.mlp.fc2.weight)
    torch.nn.init.zeros_(vit.vit.pos_embed)
    images = torch.randn(2, 3, *size)
    dilated = timm.create_model(CNN, output_stride=stride).eval()
    dilated.load_state_dict(classifier.state_dict())
    with torch.no_grad():
        feature_map = dilated.blocks(dilated.bn1(dilated.conv_stem(images)))
        expected = vit.vit.patch_embed.proj(feature_map)
        tokens = vit(images)["inter_tokens"]
    assert tokens.shape == (2, 24, size[0] // stride, size[1] // stride)
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)
    assert vit.patch_size == stride and vit.output_shape()["patch_tokens"].stride == stride


def test_the_same_as_timms_own_hybrid_and_any_size(weights):
    vit = hybrid(weights).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        tokens = vit.vit.forward_features(images)
        out = vit(images)
        odd = vit(torch.randn(1, 3, 70, 23))
    torch.testing.assert_close(out["cls_token"], tokens[:, 0])
    torch.testing.assert_close(out["patch_tokens"].flatten(2).mT, tokens[:, 1:])
    assert odd["patch_tokens"].shape == (1, 24, 4, 1)


def test_statistics_stay_in_training_and_images_do_not_mix(weights):
    vit = hybrid(weights).train()
    before = {key: value.clone() for key, value in vit.state_dict().items()}
    images = torch.randn(3, 3, 64, 64)
    together = vit(images)["patch_tokens"]
    together.sum().backward()
    alone = vit(images[1:2])["patch_tokens"]
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)
    after = vit.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert [key for key, value in vit.named_parameters() if value.grad is None] == []


def test_a_checkpoint_restores_it(weights):
    trained, fresh = hybrid(weights).eval(), hybrid(weights="").eval()
    fresh.load_state_dict(trained.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(fresh(images), trained(images))


def test_built_from_config(classifier, weights):
    cfg = get_cfg()
    add_dalnet_config(cfg)
    cfg.MODEL.VIT.NAME, cfg.MODEL.VIT.WEIGHTS = "vit_tiny_patch16_224", ""
    cfg.MODEL.VIT.STEM, cfg.MODEL.VIT.STEM_WEIGHTS = CNN, weights
    vit = build_backbone(cfg)
    kernel = vit.vit.patch_embed.backbone.conv_stem.weight
    assert torch.equal(kernel, classifier.conv_stem.weight)
    assert (vit.patch_size, tuple(vit.vit.patch_embed.grid_size)) == (16, (14, 14))

    expect_checkpoint(cfg)
    kernel = build_backbone(cfg).vit.patch_embed.backbone.conv_stem.weight
    assert not torch.equal(kernel, classifier.conv_stem.weight), "a checkpoint needs no file"


def test_feature_extractors_that_name_their_parts_otherwise(tmp_path):
    name = "test_byobnet"
    torch.manual_seed(0)
    classifier, path = timm.create_model(name).eval(), tmp_path / "cnn.safetensors"
    stem = build_stem(name, "", 32).eval()
    assert stem.state_dict().keys() - classifier.state_dict().keys()
    save_file(classifier.state_dict(), path)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        (feature_map,) = build_stem(name, str(path), 32).eval()(images)
        expected = classifier.stages(classifier.stem(images))
    torch.testing.assert_close(feature_map, expected)


def test_stride_does_not_depend_on_the_models_own_image_size():
    vit = hybrid(img_size=100).eval()
    with torch.no_grad():
        tokens = vit(torch.randn(1, 3, 160, 154))["patch_tokens"]
    assert vit.patch_size == 16 and tokens.shape == (1, 24, 10, 10)


def test_weights_under_other_names_in_timms_order(classifier, weights, tmp_path):
    state = classifier.state_dict()
    renamed = {f"_part{i}": value for i, value in enumerate(state.values())}
    path = tmp_path / "renamed.pth"
    torch.save(renamed, path)
    expected, got = build_stem(CNN, weights, 16), build_stem(CNN, str(path), 16)
    assert all(torch.equal(expected.state_dict()[key], v) for key, v in got.state_dict().items())

    flat = {**renamed, "_part0": renamed["_part0"].flatten()}
    for misfit in (dict(reversed(renamed.items())), {**renamed, "more": torch.zeros(1)}, flat):
        torch.save(misfit, path)
        with refused("renamed.pth", CNN) as e:
            build_stem(CNN, str(path), 16)
        assert len(str(e.value)) < 500


@pytest.mark.parametrize(
    "change", [lambda s: s.pop("bn1.bias"), lambda s: s.update({"bn1.bias": torch.zeros(7)})]
)
def test_weights_that_do_not_fit(classifier, tmp_path, change):
    state, path = classifier.state_dict(), tmp_path / "cnn.pth"
    change(state)
    torch.save(state, path)
    with refused("cnn.pth", "bn1.bias"):
        build_stem(CNN, str(path), 16)


@pytest.mark.parametrize(
    "stem, stride, words",
    [
        ("efficientnet_enormous", 16, "efficientnet_enormous"),
        ("vit_tiny_patch16_224", 16, "vit_tiny_patch16_224"),
        (CNN, 15, "stride of 15"),
    ],
)
def test_unsuitable_stems(stem, stride, words):
    with refused("MODEL.VIT.STEM", words):
        build_stem(stem, "", stride)


def test_encoder_weights_that_have_no_stem(tmp_path):
    kernels = {"embedding/kernel": np.zeros((16, 16, 3, 24)), "cls": np.zeros((1, 1, 24))}
    np.savez(tmp_path / "vit.npz", **kernels)
    for weights, where in (("timm", "MODEL.VIT.WEIGHTS"), (str(tmp_path / "vit.npz"), "vit.npz")):
        with refused(where):
            hybrid(vit_weights=weights)
    with refused("MODEL.VIT.NAME", "num_heads=5"):
        hybrid(num_heads=5)


def test_missing_files(tmp_path):
    with refused("MODEL.VIT.STEM_WEIGHTS", "gone.pth"):
        hybrid(str(tmp_path / "gone.pth"))
    with refused("MODEL.VIT.STEM_WEIGHTS", "efficientnet_lite1"):
        build_stem("efficientnet_lite1", "timm", 16)
