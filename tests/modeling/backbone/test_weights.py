# SPDX-License-Identifier: Apache-2.0
"""Weights of the visual encoder from files and from a hub that is not there."""

import numpy as np
import pytest
import timm
import timm.models
import torch
from helpers import refused
from safetensors.torch import save_file

from dalnet.modeling.backbone.weights import load_vit_weights

NAME = "vit_tiny_patch16_224.augreg_in21k"


def make(name=NAME, seed=0, num_classes=0, **changes):
    torch.manual_seed(seed)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    vit = timm.create_model(name, num_classes=num_classes, **{**sizes, **changes})
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter)
    return vit


def assert_loaded(vit, source):
    for key, value in vit.state_dict().items():
        torch.testing.assert_close(value, source[key], msg=key)


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt"])
def test_state_dicts_with_a_classifier(tmp_path, suffix):
    state, path = make(seed=1, num_classes=7).state_dict(), tmp_path / f"vit.{suffix}"
    if suffix == "safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state}, path)
    vit = make()
    load_vit_weights(vit, NAME, str(path))
    assert_loaded(vit, state)


def test_encoder_of_a_training_checkpoint(tmp_path):
    state = make(seed=1).state_dict()
    model = {f"backbone.vit.{key}": value for key, value in state.items()}
    others = {"classifier.conv.weight": torch.ones(1), "projections.norm.weight": torch.ones(1)}
    path = tmp_path / "model_final.pth"
    torch.save({"model": {**others, **model}, "iteration": 9, "trainer": {"iteration": 9}}, path)
    vit = make()
    load_vit_weights(vit, NAME, str(path))
    assert_loaded(vit, state)


def test_encoder_of_a_teacher(tmp_path):
    """As DINO writes them: both networks with their heads, of which the teacher is better."""
    teacher, student = (make(seed=seed).state_dict() for seed in (1, 2))
    trees = {
        name: {
            **{f"module.backbone.{key}": value for key, value in state.items()},
            "module.head.mlp.0.weight": torch.ones(1),
        }
        for name, state in (("student", student), ("teacher", teacher))
    }
    torch.save({**trees, "epoch": 3}, tmp_path / "dino.pth")
    vit = make()
    load_vit_weights(vit, NAME, str(tmp_path / "dino.pth"))
    assert_loaded(vit, teacher)


def as_original_npz(vit, path):
    """Write ``vit`` in the layout of Google's ViT and AugReg files (Flax: kernels [in, out])."""
    state = {key: value.numpy() for key, value in vit.state_dict().items()}
    dim, heads = 24, 2
    arrays = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": np.zeros((dim, 7)),
        "head/bias": np.zeros(7),
    }
    for i in range(len(vit.blocks)):
        block, own = f"Transformer/encoderblock_{i}/", f"blocks.{i}."
        attention = block + "MultiHeadDotProductAttention_1/"
        for part, name in enumerate(("query", "key", "value")):
            rows = slice(part * dim, (part + 1) * dim)
            kernel = state[own + "attn.qkv.weight"][rows].T
            arrays[f"{attention}{name}/kernel"] = kernel.reshape(dim, heads, dim // heads)
            bias = state[own + "attn.qkv.bias"][rows]
            arrays[f"{attention}{name}/bias"] = bias.reshape(heads, dim // heads)
        out = state[own + "attn.proj.weight"].T
        arrays[attention + "out/kernel"] = out.reshape(heads, dim // heads, dim)
        arrays[attention + "out/bias"] = state[own + "attn.proj.bias"]
        for flax, norm in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            arrays[f"{block}{flax}/scale"] = state[f"{own}{norm}.weight"]
            arrays[f"{block}{flax}/bias"] = state[f"{own}{norm}.bias"]
        for number, layer in enumerate(("fc1", "fc2")):
            dense = f"{block}MlpBlock_3/Dense_{number}/"
            arrays[dense + "kernel"] = state[f"{own}mlp.{layer}.weight"].T
            arrays[dense + "bias"] = state[f"{own}mlp.{layer}.bias"]
    np.savez(path, **arrays)


def test_original_npz(tmp_path):
    source = make(seed=1)
    as_original_npz(source, tmp_path / "vit.npz")
    vit = make()
    load_vit_weights(vit, NAME, str(tmp_path / "vit.npz"))
    assert_loaded(vit, source.state_dict())


def test_npz_with_nan(tmp_path):
    source = make(seed=1)
    source.norm.weight.data[3] = torch.nan
    as_original_npz(source, tmp_path / "vit.npz")
    with refused("vit.npz", "norm.weight holds NaN"):
        load_vit_weights(make(), NAME, str(tmp_path / "vit.npz"))


@pytest.mark.parametrize("depth, words", [(3, "encoderblock_2"), (1, "more than the model's 1")])
def test_npz_of_another_depth(tmp_path, depth, words):
    as_original_npz(make(seed=1), tmp_path / "vit.npz")
    with refused("vit.npz", words):
        load_vit_weights(make(depth=depth), NAME, str(tmp_path / "vit.npz"))


def test_npz_that_is_none(tmp_path):
    (tmp_path / "vit.npz").write_bytes(b"PK\x03\x04 not really")
    with refused("vit.npz"):
        load_vit_weights(make(), NAME, str(tmp_path / "vit.npz"))


def test_original_dinov2_layout(tmp_path):
    name = "vit_small_patch14_reg4_dinov2"
    source = make(name, seed=1)
    state = source.state_dict()
    # The original adds a position to the class token, has none for registers, and a mask token.
    class_position = torch.randn(1, 1, 24)
    original = {**state, "mask_token": torch.zeros(1, 24)}
    original["register_tokens"] = original.pop("reg_token")
    original["cls_token"] = state["cls_token"] - class_position
    original["pos_embed"] = torch.cat([class_position, state["pos_embed"]], dim=1)
    torch.save(original, tmp_path / "dinov2.pth")
    vit = make(name)
    load_vit_weights(vit, name, str(tmp_path / "dinov2.pth"))
    assert_loaded(vit, state)


def test_position_embedding_of_another_size_is_resized_bilinearly(tmp_path):
    state = make(seed=1, img_size=16).state_dict()
    rows = torch.tensor([[1.0, 1.0], [5.0, 5.0]])
    state["pos_embed"][0, 1:] = rows.flatten()[:, None]
    save_file(state, tmp_path / "vit.safetensors")
    vit = make()
    load_vit_weights(vit, NAME, str(tmp_path / "vit.safetensors"))
    column = vit.pos_embed[0, 1:, 0].reshape(4, 4)[:, 0]
    torch.testing.assert_close(column, torch.tensor([1.0, 2.0, 4.0, 5.0]))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"depth": 3}, ("Unexpected", "blocks.2.")),
        ({"depth": 1}, ("Missing", "blocks.1.")),
        ({"embed_dim": 16}, ("cls_token", "[1, 1, 16]", "[1, 1, 24]")),
    ],
)
def test_misfit_names_file_and_keys(tmp_path, changes, words):
    save_file(make(seed=1, **changes).state_dict(), tmp_path / "other.safetensors")
    with refused("other.safetensors", *words):
        load_vit_weights(make(), NAME, str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize("suffix", ["ckpt", "pth"])
def test_unusable_path(tmp_path, suffix):
    (tmp_path / "vit.ckpt").touch()
    with refused("MODEL.VIT.WEIGHTS", f"vit.{suffix}"):
        load_vit_weights(make(), NAME, str(tmp_path / f"vit.{suffix}"))


def test_prefix_tokens_that_do_not_fit(tmp_path):
    state = make("deit_tiny_distilled_patch16_224", seed=1).state_dict()
    save_file(state, tmp_path / "distilled.safetensors")
    with refused("distilled.safetensors"):
        load_vit_weights(make(), NAME, str(tmp_path / "distilled.safetensors"))


def test_hub(monkeypatch):
    asked, state = [], make(seed=1, num_classes=7).state_dict()

    def download(*where, **_):
        asked.append(where)
        return dict(state)

    monkeypatch.setattr(timm.models, "load_state_dict_from_hf", download)
    vit = make()
    load_vit_weights(vit, NAME, "timm")
    assert asked == [(f"timm/{NAME}", "model.safetensors")]
    assert_loaded(vit, state)


def test_hub_out_of_reach(monkeypatch):
    def refuse(*_, **__):
        raise FileNotFoundError("no connection")

    monkeypatch.setattr(timm.models, "load_state_dict_from_hf", refuse)
    with refused("MODEL.VIT.WEIGHTS", "model.safetensors", f"huggingface.co/timm/{NAME}"):
        load_vit_weights(make(), NAME, "timm")
    with refused("MODEL.VIT.WEIGHTS", "vit_small_patch16_36x1_224"):
        load_vit_weights(make(), "vit_small_patch16_36x1_224", "timm")
