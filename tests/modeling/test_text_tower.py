# SPDX-License-Identifier: Apache-2.0
"""CLIP's text tower from files of every layout, against OpenCLIP's own ``encode_text``."""

import urllib.error
import zipfile

import open_clip
import pytest
import torch
from open_clip import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from safetensors.torch import save_file
from torch import nn

from dalnet.errors import UsageError
from dalnet.files import sha256
from dalnet.modeling import text_tower
from dalnet.modeling.text_tower import find_weights, load_text_tower, untrained_text_tower

TOKENS = open_clip.SimpleTokenizer(context_length=9)(["a photo of a cat", "tree", "a b c d e f"])
VISION = CLIPVisionCfg(layers=1, width=64, patch_size=16, image_size=32)


def text_config(**changes):
    return CLIPTextCfg(**{"context_length": 9, "width": 128, "heads": 2, "layers": 2, **changes})


def clip(kind=CLIP, quick_gelu=False, **changes):
    torch.manual_seed(0)
    model = kind(32, VISION, text_config(**changes), quick_gelu=quick_gelu).eval()
    for name, parameter in model.named_parameters():
        if "ln_" not in name:  # larger than the initial values, so that activations matter
            nn.init.normal_(parameter, std=0.2)
    return model


@torch.no_grad()
def assert_encodes_as(path, model, name="ViT-B-16", **options):
    torch.testing.assert_close(
        load_text_tower(path, name, **options)(TOKENS), model.encode_text(TOKENS)
    )


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])  # keys without and with "text."
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_openclip_layouts(tmp_path, kind, suffix):
    model, path = clip(kind), tmp_path / f"clip.{suffix}"
    if suffix == "safetensors":
        save_file(model.state_dict(), path)
    else:  # as OpenCLIP's trainer writes it
        wrapped = {f"module.{key}": value for key, value in model.state_dict().items()}
        torch.save({"epoch": 1, "state_dict": wrapped}, path)
    assert_encodes_as(path, model)


def test_activation_is_told_by_name_or_source(tmp_path):
    quick, plain, path = clip(quick_gelu=True), clip(), tmp_path / "clip.safetensors"
    save_file(plain.state_dict(), path)
    with torch.no_grad():  # the two do differ
        assert (quick.encode_text(TOKENS) - plain.encode_text(TOKENS)).abs().max() > 1e-2
    assert_encodes_as(path, plain)
    assert_encodes_as(path, quick, name="ViT-B-16-quickgelu")
    assert_encodes_as(path, quick, name="ViT-B/16", openai=True)


@pytest.mark.parametrize("half, name, warned", [(1, "", 1), (0, "", 0), (1, "-quickgelu", 0)])
def test_warns_of_openai_weights_under_another_name(tmp_path, caplog, half, name, warned):
    state = clip().state_dict()
    if half:
        state = {key: value.half().float() for key, value in state.items()}
    save_file(state, tmp_path / "clip.safetensors")
    text_tower.logger.addHandler(caplog.handler)
    load_text_tower(tmp_path / "clip.safetensors", "ViT-B-16" + name)
    text_tower.logger.removeHandler(caplog.handler)
    assert ("must end in -quickgelu" in caplog.text) == warned


class Archive(nn.Module):
    """Module tree that holds a state dict under its own keys, as OpenAI's archives do."""

    def __init__(self, state):
        super().__init__()
        for key, value in state.items():
            *parents, leaf = key.split(".")
            node = self
            for parent in parents:
                if not hasattr(node, parent):
                    node.add_module(parent, nn.Module())
                node = getattr(node, parent)
            node.register_buffer(leaf, value)


def save_openai_archive(path):
    state = {key: value.half() for key, value in clip(quick_gelu=True).state_dict().items()}
    numbers = {"input_resolution": 32, "context_length": 9, "vocab_size": 49408}
    state.update({key: torch.tensor(value) for key, value in numbers.items()})
    torch.jit.save(torch.jit.script(Archive(state)), str(path))


def test_openai_archive(tmp_path, monkeypatch):
    path = tmp_path / "ViT-B-16.pt"
    save_openai_archive(path)
    monkeypatch.setattr(text_tower, "_openai_archives", lambda: {sha256(path)})
    assert any(name.endswith("constants.pkl") for name in zipfile.ZipFile(path).namelist())
    assert_encodes_as(path, open_clip.load_openai_model(str(path), "fp32", "cpu"))


def test_other_archives_are_not_opened(tmp_path, monkeypatch):
    path = tmp_path / "ViT-B-16.pt"
    save_openai_archive(path)
    monkeypatch.delattr(torch.jit, "load")
    with pytest.raises(UsageError, match="ViT-B-16.pt .*cannot be read as a file of tensors"):
        load_text_tower(path, "ViT-B-16")


def test_hashes_of_openai_archives_are_in_their_addresses():
    hashes = text_tower._openai_archives()
    # Every model is listed under two names.
    assert 2 * len(hashes) == len(open_clip.list_openai_models())
    assert all(len(bytes.fromhex(value)) == 32 for value in hashes)


def test_tower_is_frozen_and_without_images(tmp_path):
    save_file(clip().state_dict(), tmp_path / "clip.safetensors")
    tower = load_text_tower(tmp_path / "clip.safetensors", "ViT-B-16")
    assert not tower.training and not any(p.requires_grad for p in tower.parameters())
    assert not any("visual" in key for key in tower.state_dict())
    assert (tower.context_length, tower.heads, tower.output_dim) == (9, 2, 32)


def test_untrained_tower_depends_on_the_seed_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = untrained_text_tower(48, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    again, other = untrained_text_tower(48, seed=0), untrained_text_tower(48, seed=1)
    tokens = open_clip.tokenize(["a photo of a cat", "a photo of a dog"])
    with torch.no_grad():
        assert torch.equal(first(tokens), again(tokens))
        assert not torch.allclose(first(tokens), other(tokens), atol=1e-2)
        assert first(tokens).shape == (2, 48)


def altered(**changes):
    state = clip().state_dict()
    return {key: value for key, value in {**state, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"token_embedding.weight": None}, "no CLIP text tower .*token_embedding.weight"),
        ({"token_embedding.weight": torch.zeros(100, 128)}, "not one of CLIP's .* 100 words"),
        ({"token_embedding.weight": torch.zeros(49408, 100)}, "not one of CLIP's .* width 100"),
        ({"cls_emb": torch.zeros(128)}, "not hold a plain CLIP text tower: .*cls_emb"),
        ({"transformer.resblocks.1.ln_1.bias": None}, "plain CLIP .*resblocks.1.ln_1.bias"),
    ],
)
def test_other_designs_are_refused(tmp_path, changes, words):
    save_file(altered(**changes), tmp_path / "clip.safetensors")
    with pytest.raises(UsageError, match=f"clip.safetensors .*{words}"):
        load_text_tower(tmp_path / "clip.safetensors", "ViT-B-16")


def test_model_names_with_another_text_design(tmp_path):
    with pytest.raises(UsageError, match="'ViT-B-16-SigLIP' is not CLIP's own"):
        load_text_tower(tmp_path / "unread.pt", "ViT-B-16-SigLIP")


def test_damaged_files(tmp_path):
    for name in ("cut.pt", "cut.safetensors"):
        (tmp_path / name).write_bytes(b"\x00" * 20)
        with pytest.raises(UsageError, match=f"{name} .MODEL.TEXT.WEIGHTS. cannot be read"):
            load_text_tower(tmp_path / name, "ViT-B-16")


def test_find_weights_in_files(tmp_path):
    (tmp_path / "clip.pt").touch()
    assert find_weights("any", str(tmp_path / "clip.pt")) == tmp_path / "clip.pt"
    (tmp_path / "clip.bin").touch()
    for name, words in (("absent.pt", "is not a file"), ("clip.bin", "must end in")):
        with pytest.raises(UsageError, match=f"MODEL.TEXT.WEIGHTS names .*{name}.* {words}"):
            find_weights("any", str(tmp_path / name))


def test_download_from_either_source(monkeypatch, tmp_path):
    def refuse(*_):
        raise urllib.error.URLError("no connection")

    asked = []

    def download(url, folder):
        asked.append(url)
        assert (tmp_path / "ViT-B-16.pt.lock").exists()
        return f"{folder}/local.pt"

    monkeypatch.setattr(text_tower, "_CLIP_CACHE", str(tmp_path))
    monkeypatch.setattr(open_clip, "download_pretrained_from_url", download)
    assert find_weights("ViT-B/16", "openai") == tmp_path / "local.pt"
    assert len(asked) == 1 and asked[0].endswith("/ViT-B-16.pt")
    with pytest.raises(UsageError, match="no CLIP named 'ViT-Z-1' .*ViT-B-16"):
        find_weights("ViT-Z-1", "openai")

    monkeypatch.setattr(open_clip, "download_pretrained_from_url", refuse)
    monkeypatch.setattr(text_tower, "download_pretrained_from_hf", lambda *at: "/".join(at))
    assert find_weights("ViT-B-16", "openai").name == "open_clip_model.safetensors"

    monkeypatch.setattr(text_tower, "download_pretrained_from_hf", refuse)
    words = f"ViT-B-16.pt .*https://.* into {tmp_path}, or set MODEL.TEXT.WEIGHTS"
    with pytest.raises(UsageError, match=words):
        find_weights("ViT-B-16", "openai")
