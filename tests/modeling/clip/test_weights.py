# SPDX-License-Identifier: Apache-2.0
"""CLIP checkpoints: where they are found, and that reading them runs nothing."""

import urllib.error

import open_clip
import pytest
import torch
from helpers import refused
from torch import nn

from dalnet.io import sha256
from dalnet.modeling.clip import load_clip, weights
from dalnet.modeling.clip.weights import find_weights, read_checkpoint

TOKENS = open_clip.SimpleTokenizer(context_length=9)(["a photo of a cat", "tree"])


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


@pytest.fixture
def archive(make_clip, tmp_path):
    """A TorchScript archive as OpenAI's: half precision, and three numbers."""
    state = {key: value.half() for key, value in make_clip(quick_gelu=True).state_dict().items()}
    numbers = {"input_resolution": 32, "context_length": 9, "vocab_size": 49408}
    state.update({key: torch.tensor(value) for key, value in numbers.items()})
    torch.jit.save(torch.jit.script(Archive(state)), str(tmp_path / "ViT-B-16.pt"))
    return tmp_path / "ViT-B-16.pt"


@pytest.mark.parametrize("provider", ["open_clip", pytest.param("clip", marks=pytest.mark.extra)])
def test_openai_archive(archive, monkeypatch, provider):
    if provider == "clip":
        pytest.importorskip("clip.model")
    monkeypatch.setattr(weights, "_openai_archives", lambda: {sha256(archive)})
    expected = open_clip.load_openai_model(str(archive), "fp32", "cpu")
    clip = load_clip("ViT-B/16", str(archive), provider)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(clip.encode_text(TOKENS), expected.encode_text(TOKENS))
    torch.testing.assert_close(clip.encode_image(images), expected.encode_image(images))


@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file:UserWarning")
@pytest.mark.parametrize("provider", ["open_clip", "clip"])
def test_other_archives_are_not_opened(archive, monkeypatch, provider):
    opened = []
    monkeypatch.setattr(torch.jit, "load", lambda *args, **options: opened.append(args))
    with refused("ViT-B-16.pt"):
        load_clip("ViT-B-16-quickgelu", str(archive), provider)
    assert not opened


def test_pickles_are_not_run(tmp_path):
    class Mark:
        def __reduce__(self):
            return (tmp_path.joinpath("mark").touch, ())

    torch.save({"state_dict": {"logit_scale": Mark()}}, tmp_path / "clip.pt")
    with refused("clip.pt"):
        read_checkpoint(tmp_path / "clip.pt")
    assert not (tmp_path / "mark").exists()


def test_hashes_of_openai_archives_are_in_their_addresses():
    hashes = weights._openai_archives()
    # Every model is listed under two names.
    assert 2 * len(hashes) == len(open_clip.list_openai_models())
    assert all(len(bytes.fromhex(value)) == 32 for value in hashes)


@pytest.mark.parametrize("name", ["cut.pt", "cut.safetensors"])
def test_damaged_files(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x00" * 20)
    with refused(name):
        read_checkpoint(tmp_path / name)


def test_files_are_found_by_path(tmp_path):
    (tmp_path / "clip.pt").touch()
    assert find_weights("any", str(tmp_path / "clip.pt")) == tmp_path / "clip.pt"
    (tmp_path / "clip.bin").touch()
    for name in ("absent.pt", "clip.bin"):
        with refused("MODEL.CLIP.WEIGHTS", name):
            find_weights("any", str(tmp_path / name))


def test_download_from_either_source(monkeypatch, tmp_path):
    def refuse(*_):
        raise urllib.error.URLError("no connection")

    asked = []

    def download(url, folder):
        asked.append(url)
        assert (tmp_path / "ViT-B-16.pt.lock").exists()
        return f"{folder}/local.pt"

    monkeypatch.setattr(weights, "CLIP_CACHE", str(tmp_path))
    monkeypatch.setattr(open_clip, "download_pretrained_from_url", download)
    assert find_weights("ViT-B/16", "openai") == tmp_path / "local.pt"
    assert len(asked) == 1 and asked[0].endswith("/ViT-B-16.pt")
    with refused("MODEL.CLIP.NAME", "'ViT-Z-1'", "ViT-B-16"):
        find_weights("ViT-Z-1", "openai")

    monkeypatch.setattr(open_clip, "download_pretrained_from_url", refuse)
    monkeypatch.setattr(weights, "download_pretrained_from_hf", lambda *at: "/".join(at))
    assert find_weights("ViT-B-16", "openai").name == "open_clip_model.safetensors"

    monkeypatch.setattr(weights, "download_pretrained_from_hf", refuse)
    with refused("MODEL.CLIP.WEIGHTS", "ViT-B-16.pt", tmp_path):
        find_weights("ViT-B-16", "openai")
