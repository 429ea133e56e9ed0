# SPDX-License-Identifier: Apache-2.0
"""CLIP's towers from files of every layout and by both packages, against OpenCLIP's own model."""

import builtins
import json
import math
from pathlib import Path

import open_clip
import pytest
import torch
from helpers import refused
from open_clip import CLIP, CustomTextCLIP
from safetensors.torch import save_file

from dalnet.modeling.clip import load_clip, towers

SENTENCES = ["a photo of a cat", "tree", "a sentence of more than the nine tokens of this tower"]
TOKENS = open_clip.SimpleTokenizer(context_length=9)(SENTENCES)
QUICK = "ViT-B-16-quickgelu"


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def file(make_clip, tmp_path):
    save_file(make_clip().state_dict(), tmp_path / "clip.safetensors")
    return str(tmp_path / "clip.safetensors")


def assert_same_embeddings(clip, model, images):
    torch.testing.assert_close(
        clip.encode_text(clip.tokenize(SENTENCES)), model.encode_text(TOKENS)
    )
    torch.testing.assert_close(clip.encode_image(images), model.encode_image(images))


def named_tensors(model):
    return dict(model.named_parameters()) | dict(model.named_buffers())


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])  # keys without and with "text."
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_openclip_layouts(make_clip, images, tmp_path, kind, suffix):
    model, path = make_clip(kind), tmp_path / f"clip.{suffix}"
    if suffix == "safetensors":
        save_file(model.state_dict(), path)
    else:  # as OpenCLIP's trainer writes it
        wrapped = {f"module.{key}": value for key, value in model.state_dict().items()}
        torch.save({"epoch": 1, "state_dict": wrapped}, path)
    clip = load_clip("ViT-B-16", str(path))
    assert_same_embeddings(clip, model, images)
    assert clip.image_size == 32


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
def test_clip_inside_a_larger_model(make_clip, images, tmp_path, kind):
    model = make_clip(kind)
    state = {f"net.clip.{key}": value for key, value in model.state_dict().items()}
    save_file({**state, "net.head.weight": torch.ones(3)}, tmp_path / "clip.safetensors")
    assert_same_embeddings(load_clip("ViT-B-16", str(tmp_path / "clip.safetensors")), model, images)


def test_weights_are_those_of_the_file_to_the_last_digit(make_clip, file):
    loaded = named_tensors(load_clip("ViT-B-16", file).model)
    for name, expected in named_tensors(make_clip()).items():
        assert loaded[name].dtype == torch.float32 and torch.equal(loaded[name], expected)


def test_resnet(make_clip, images, tmp_path):
    model = make_clip(layers=(1, 1, 1, 1))
    save_file(model.state_dict(), tmp_path / "clip.safetensors")
    assert_same_embeddings(load_clip("RN50", str(tmp_path / "clip.safetensors")), model, images)


def test_image_towers_of_another_design_are_told_by_name(make_clip, images, tmp_path, monkeypatch):
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", {})
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [])
    config = {
        "embed_dim": 32,
        "vision_cfg": {
            "layers": 1, "width": 64, "head_width": 16, "patch_size": 16, "image_size": 32
        },
        "text_cfg": {"context_length": 9, "width": 128, "heads": 2, "layers": 2},
    }  # fmt: skip
    (tmp_path / "narrow_heads.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "narrow_heads.json")
    model, path = make_clip(head_width=16), str(tmp_path / "clip.safetensors")
    save_file(model.state_dict(), path)
    assert_same_embeddings(load_clip("narrow_heads", path), model, images)
    other = load_clip("ViT-B-16", path).encode_image(images)
    assert (other - model.encode_image(images)).abs().max() > 1e-2


def test_activation_is_told_by_name_or_source(make_clip, file, images, monkeypatch):
    quick, plain = make_clip(quick_gelu=True), make_clip()
    with torch.no_grad():  # the two do differ
        assert (quick.encode_text(TOKENS) - plain.encode_text(TOKENS)).abs().max() > 1e-2
        assert (quick.encode_image(images) - plain.encode_image(images)).abs().max() > 1e-2
    assert_same_embeddings(load_clip("ViT-B-16", file), plain, images)
    assert_same_embeddings(load_clip(QUICK, file), quick, images)
    monkeypatch.setattr(towers, "find_weights", lambda name, weights: Path(file))
    assert_same_embeddings(load_clip("ViT-B/16", "openai"), quick, images)


@pytest.mark.parametrize("half, name, warned", [(1, "", 1), (0, "", 0), (1, "-quickgelu", 0)])
def test_warns_of_openai_weights_under_another_name(
    make_clip, tmp_path, caplog, half, name, warned
):
    state = make_clip().state_dict()
    if half:
        state = {key: value.half().float() for key, value in state.items()}
    save_file(state, tmp_path / "clip.safetensors")
    towers.logger.addHandler(caplog.handler)
    load_clip("ViT-B-16" + name, str(tmp_path / "clip.safetensors"))
    towers.logger.removeHandler(caplog.handler)
    assert ("-quickgelu" in caplog.text) == warned


@pytest.mark.parametrize("prefix", ["", "text."])
@pytest.mark.parametrize("provider", ["open_clip", pytest.param("clip", marks=pytest.mark.extra)])
def test_file_of_the_text_tower_alone(make_clip, images, tmp_path, prefix, provider):
    if provider == "clip":
        pytest.importorskip("clip.model")
    model = make_clip(quick_gelu=True)
    state = {
        prefix + key: value
        for key, value in model.state_dict().items()
        if not key.startswith(("visual", "logit"))
    }
    save_file(state, tmp_path / "text.safetensors")
    # The name's image tower, whose heads no file tells, is not asked for.
    clip = load_clip("ViT-H-14-quickgelu", str(tmp_path / "text.safetensors"), provider)
    torch.testing.assert_close(clip.encode_text(TOKENS), model.encode_text(TOKENS))
    with refused("MODEL.CLIP.WEIGHTS"):
        clip.encode_image(images)


def test_frozen_and_in_eval_mode_for_good(file):
    clip = load_clip("ViT-B-16", file).train()
    assert not any(module.training for module in clip.modules())
    assert not any(parameter.requires_grad for parameter in clip.parameters())


def test_gradient_reaches_the_images_and_no_parameter(make_clip, file, images):
    clip, image = load_clip("ViT-B-16", file), images.requires_grad_()
    clip.encode_image(image).square().sum().backward()
    assert all(parameter.grad is None for parameter in clip.parameters())
    model = make_clip()
    (expected,) = torch.autograd.grad(model.encode_image(image).square().sum(), image)
    assert expected.abs().max() > 0
    torch.testing.assert_close(image.grad, expected)


def test_patch_tokens(file, images):
    # Of one block: pre-norm, patches and class token, position embedding, block, as in OpenAI's.
    clip = load_clip("ViT-B-16", file)
    visual = clip.visual.double()
    patches = torch.nn.functional.unfold(images.double(), 16, stride=16).transpose(1, 2)
    tokens = patches @ visual.conv1.weight.reshape(64, -1).T
    tokens = torch.cat([visual.class_embedding.expand(2, 1, -1), tokens], dim=1)
    x = visual.ln_pre(tokens + visual.positional_embedding)
    (block,) = visual.transformer.resblocks
    query, key, value = torch.nn.functional.linear(
        block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias
    ).chunk(3, dim=-1)
    attention = (query @ key.transpose(1, 2) / math.sqrt(64)).softmax(dim=-1)
    x = x + block.attn.out_proj(attention @ value)
    x = x + block.mlp(block.ln_2(x))
    found = visual.forward_intermediates(images.double())["image_intermediates"][-1]
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), x[:, 1:])
    torch.testing.assert_close(
        clip.encode_image(images.double()), visual.ln_post(x[:, 0]) @ visual.proj
    )


@pytest.mark.extra
@pytest.mark.parametrize("layers", [2, (1, 1, 1, 1)])  # a ViT and a ResNet
def test_both_packages_give_the_same_embeddings(tmp_path, images, layers):
    module = pytest.importorskip("clip.model")
    torch.manual_seed(0)
    model = module.CLIP(32, 32, layers, 64, 16, 9, 49408, 128, 2, 2).float().eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    ours, theirs = (load_clip(QUICK, str(tmp_path / "clip.pt"), p) for p in ("open_clip", "clip"))
    assert isinstance(theirs.model, module.CLIP) and not isinstance(ours.model, module.CLIP)
    assert torch.equal(ours.tokenize(SENTENCES), theirs.tokenize(SENTENCES))
    gradients = []
    for clip in (ours, theirs):
        assert clip.image_size == 32
        image = images.clone().requires_grad_()
        embeddings = clip.encode_image(image)
        embeddings.square().mean().backward()
        gradients.append(image.grad)
        torch.testing.assert_close(embeddings, model.encode_image(images), atol=1e-4, rtol=1e-5)
        text = clip.encode_text(TOKENS)
        torch.testing.assert_close(text, model.encode_text(TOKENS), atol=1e-4, rtol=1e-5)
        assert all(p.grad is None and p.dtype == torch.float32 for p in clip.parameters())
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


@pytest.mark.extra
@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-H-14-quickgelu"])
def test_openai_package_has_one_activation_and_head_width(file, name):
    pytest.importorskip("clip.model")
    with refused("MODEL.CLIP.PROVIDER", "MODEL.CLIP.NAME"):
        load_clip(name, file, "clip")


def test_openai_package_that_is_not_installed(file, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **options):
        if name.split(".")[0] == "clip":
            raise ModuleNotFoundError("No module named 'clip'")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with refused("MODEL.CLIP.PROVIDER", "clip-anytorch"):
        load_clip(QUICK, file, "clip")


def test_unknown_provider(file):
    with pytest.raises(KeyError, match="openclip"):
        load_clip("ViT-B-16", file, "openclip")


@pytest.mark.parametrize(
    "key, value",
    [
        ("token_embedding.weight", None),
        ("token_embedding.weight", torch.zeros(100, 128)),
        ("ln_final.weight", torch.zeros(100)),
        ("visual.ln_post.weight", torch.zeros(100)),
        ("cls_emb", torch.zeros(128)),
        ("transformer.resblocks.1.ln_1.bias", None),
        ("visual.conv1.weight", None),
    ],
)
def test_other_designs_are_refused(make_clip, tmp_path, key, value):
    state = {**make_clip().state_dict(), key: value}
    state = {key: value for key, value in state.items() if value is not None}
    save_file(state, tmp_path / "clip.safetensors")
    with refused("clip.safetensors", key):
        load_clip("ViT-B-16", str(tmp_path / "clip.safetensors"))


def test_model_names_with_another_text_design():
    with refused("MODEL.CLIP.NAME", "ViT-B-16-SigLIP"):
        load_clip("ViT-B-16-SigLIP", "unread.pt")
