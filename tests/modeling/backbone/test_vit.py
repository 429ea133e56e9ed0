# SPDX-License-Identifier: Apache-2.0
"""Tokens of the timm backbone, against timm itself and against loops."""

import math
import shutil

import pytest
import timm
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from helpers import refused

from dalnet.config import add_dalnet_config
from dalnet.modeling.backbone.vit import TimmViT

# One of each way in which timm's vision transformers treat prefix tokens and positions.
FAMILIES = {
    "vit_tiny_patch16_224.augreg_in21k": 1,
    "deit_tiny_distilled_patch16_224.fb_in1k": 2,  # distillation token
    "deit3_small_patch16_224.fb_in1k": 1,  # no position for the class token, layer scale
    "vit_small_patch14_reg4_dinov2.lvd142m": 5,  # registers
    "vit_small_patch14_dinov2.lvd142m": 1,
    "vit_base_patch16_clip_224.openai": 1,  # norm before the blocks
    "eva_large_patch14_196.in22k_ft_in1k": 1,  # norm after pooling, so none on the tokens
}


def sizes(patch=8, grid=4, depth=3):
    return {
        "img_size": patch * grid,
        "patch_size": patch,
        "embed_dim": 24,
        "depth": depth,
        "num_heads": 2,
    }


def make(
    name="vit_tiny_patch16_224",
    block=2,
    seed=0,
    checkpointing=False,
    pos_embed="bilinear",
    **overrides,
):
    torch.manual_seed(seed)
    vit = TimmViT(
        name=name,
        weights="",
        intermediate_block=block,
        grad_checkpointing=checkpointing,
        overrides={**sizes(), **overrides},
        pos_embed=pos_embed,
    )
    # Fresh layer scales and tokens are near zero: nothing would be seen of them.
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return vit.eval()


@pytest.mark.parametrize("name, prefix", FAMILIES.items())
def test_native_grid_equals_timm(name, prefix):
    vit = make(name)
    reference = timm.create_model(name, num_classes=0, **sizes()).eval()
    reference.fc_norm = torch.nn.Identity()  # follows forward_features
    reference.load_state_dict(vit.vit.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        out = vit(images)
        tokens = reference.forward_features(images)
        (inter,) = reference.forward_intermediates(images, [1], norm=False, intermediates_only=True)
    torch.testing.assert_close(out["cls_token"], tokens[:, 0])
    grid = tokens[:, prefix:].reshape(2, 4, 4, 24).permute(0, 3, 1, 2)
    torch.testing.assert_close(out["patch_tokens"], grid)
    torch.testing.assert_close(out["inter_tokens"], inter)


def bilinear(table, height, width):
    """[h, w, D] -> [height, width, D] by the definition: pixel centers, edges repeated."""
    h, w, _ = table.shape
    out = torch.zeros(height, width, table.shape[2], dtype=table.dtype)
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
            x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
            y0, x0 = math.floor(y), math.floor(x)
            for a in (y0, min(y0 + 1, h - 1)) if y > y0 else (y0,):
                for b in (x0, min(x0 + 1, w - 1)) if x > x0 else (x0,):
                    out[i, j] += (1 - abs(y - a)) * (1 - abs(x - b)) * table[a, b]
    return out


@pytest.mark.parametrize("name", list(FAMILIES)[:4])
@pytest.mark.parametrize("grid", [(4, 4), (2, 3), (7, 5), (1, 1), (8, 2)])
def test_position_embedding_is_resized_bilinearly(name, grid):
    vit = make(name).double()
    with torch.no_grad():  # blocks that add nothing to a picture that says nothing
        for parameter in [*vit.vit.blocks.parameters(), *vit.vit.patch_embed.parameters()]:
            parameter.zero_()
        out = vit(torch.zeros(1, 3, 8 * grid[0], 8 * grid[1], dtype=torch.float64))
    table = vit.vit.pos_embed[0, -16:].detach().reshape(4, 4, 24)
    expected = bilinear(table, *grid).permute(2, 0, 1)
    torch.testing.assert_close(out["inter_tokens"][0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "size, grid", [((32, 32), (4, 4)), ((30, 37), (4, 5)), ((3, 20), (1, 3)), ((12, 11), (2, 1))]
)
def test_any_size_is_fitted_to_whole_patches(size, grid):
    vit = make()
    images = torch.randn(1, 3, *size)
    fitted = F.interpolate(images, (8 * grid[0], 8 * grid[1]), mode="bilinear")
    with torch.no_grad():
        out, expected = vit(images), vit(fitted)
    assert out["patch_tokens"].shape == (1, 24, *grid)
    for key in expected:
        torch.testing.assert_close(out[key], expected[key])


def test_images_of_a_batch_do_not_mix():
    vit = make()
    images = torch.randn(3, 3, 40, 24)
    with torch.no_grad():
        together, alone = vit(images), vit(images[1:2])
    for key, value in alone.items():
        torch.testing.assert_close(together[key][1:2], value, rtol=1e-4, atol=1e-5)


def test_checkpointing_recomputes_blocks_and_keeps_gradients():
    gradients, calls = [], []
    for checkpointing in (False, True):
        vit = make(checkpointing=checkpointing)
        count = []
        for block in vit.vit.blocks:
            block.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        torch.manual_seed(1)
        out = vit(torch.randn(1, 3, 32, 40))
        sum((value**2).sum() for value in out.values()).backward()
        gradients.append([parameter.grad for parameter in vit.parameters()])
        calls.append(len(count))
    assert calls == [3, 6]
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_takes_part(name):
    vit = make(name)
    out = vit(torch.randn(1, 3, 16, 16))
    out["patch_tokens"].sum().backward()
    assert [key for key, value in vit.named_parameters() if value.grad is None] == []


def test_autocast():
    vit = make()
    images = torch.rand(1, 3, 30, 30)
    with torch.no_grad():
        full = vit(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = vit(images)
    for key, value in full.items():
        error = (half[key].float() - value).norm() / value.norm()
        assert error < 0.05


@pytest.mark.parametrize("pos_embed", ["bilinear", "bicubic"])
def test_position_embedding_is_resized_as_asked(pos_embed):
    vit = make(pos_embed=pos_embed)
    table = vit.vit.pos_embed[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    expected = F.interpolate(table, (6, 3), mode=pos_embed, align_corners=False)
    torch.testing.assert_close(vit._position((6, 3))[:, 1:], expected.flatten(2).mT)


def test_blocks_are_dropped_in_training_alone():
    vit = make(drop_path_rate=0.5)
    images = torch.randn(4, 3, 32, 32)
    whole = vit(images)["patch_tokens"]
    torch.testing.assert_close(vit(images)["patch_tokens"], whole)
    torch.manual_seed(0)
    assert not torch.equal(vit.train()(images)["patch_tokens"], whole)


def test_built_from_config():
    cfg = get_cfg()
    add_dalnet_config(cfg)
    cfg.MODEL.VIT.NAME = "vit_small_patch14_dinov2"
    cfg.MODEL.VIT.WEIGHTS = ""
    cfg.MODEL.VIT.EMBED_DIM, cfg.MODEL.VIT.NUM_HEADS = 16, 2
    cfg.MODEL.VIT.DEPTH = cfg.MODEL.VIT.INTERMEDIATE_BLOCK = 2
    cfg.MODEL.VIT.IMG_SIZE = 28
    cfg.MODEL.VIT.GRAD_CHECKPOINTING = True
    cfg.MODEL.VIT.POS_EMBED, cfg.MODEL.VIT.DROP_PATH = "bicubic", 0.25
    vit = build_backbone(cfg)
    assert vit.pos_embed == "bicubic" and vit.vit.blocks[-1].drop_path1.drop_prob == 0.25
    assert isinstance(vit, TimmViT) and vit.grad_checkpointing and vit.intermediate_block == 2
    assert (vit.patch_size, vit.embed_dim, vit.size_divisibility) == (14, 16, 0)
    assert tuple(vit.vit.patch_embed.grid_size) == (2, 2)
    shapes = vit.output_shape()
    assert shapes["patch_tokens"].stride == shapes["inter_tokens"].stride == 14
    assert {shape.channels for shape in shapes.values()} == {16}


@pytest.mark.parametrize("block", [0, 4, -1])
def test_intermediate_block_out_of_range(block):
    with refused("MODEL.VIT.INTERMEDIATE_BLOCK", "1 to 3"):
        make(block=block)


@pytest.mark.parametrize(
    "name, overrides, words",
    [
        ("vit_enormous", {}, "vit_enormous"),
        ("vit_tiny_patch16_224.nonsense", {}, "nonsense"),
        ("vit_medium_patch16_gap_240", {}, "not a plain vision transformer with a class token"),
        ("vit_tiny_patch16_224", {"num_heads": 5}, "num_heads=5"),
        ("resnet18", {}, "resnet18"),
    ],
)
def test_unsuitable_models(name, overrides, words):
    with refused("MODEL.VIT.NAME", words):
        make(name, **overrides)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_compute_the_same():
    plain = make()
    compiled = TimmViT(
        name="vit_tiny_patch16_224",
        weights="",
        intermediate_block=2,
        compile_mode="default",
        overrides=sizes(),
    ).eval()
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    compiled.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 32, 32)
    expected, got = plain(images), compiled(images)
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=1e-4, atol=1e-4)
    for tokens in (expected, got):
        tokens["patch_tokens"].square().sum().backward()
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-3)
