# SPDX-License-Identifier: Apache-2.0
"""The small file, and the layout of OpenAI that both packages for CLIP read."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.utils.file_io import PathManager
from helpers import refused
from safetensors.torch import load_file, save_file

from dalnet.modeling.clip import load_clip
from dalnet.modeling.clip.embedding_files import read_class_embeddings
from dalnet_toyclip import handler
from dalnet_toyclip.files import export, load_small, openai_state, save_small, save_texts
from dalnet_toyclip.toy_clip import ToyCLIP
from dalnet_toyclip.vocabulary import known_ids

SENTENCES = ["a photo of moon.", "an orange checkered thing on a beach", "a zebra, two yaks"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = ToyCLIP().eval().requires_grad_(False)
    for parameter in model.parameters():  # numbers that half precision has
        parameter.copy_(parameter.half())
    return model


@pytest.fixture(scope="module")
def small(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("toyclip") / "new" / "small.safetensors"
    save_small(model, path)
    return path


def test_small_file_and_back(model, small):
    assert small.stat().st_size < 5_000_000
    state = load_small(small).towers.state_dict()
    assert all(torch.equal(state[key], v) for key, v in model.towers.state_dict().items())


def check_embeddings(clip, model):
    images = torch.randint(0, 256, (3, 3, 96, 96), dtype=torch.uint8)
    image_features = F.normalize(clip.encode_image(model.normalize(images)), dim=1)
    torch.testing.assert_close(image_features, model.encode_images(images), atol=1e-5, rtol=0)
    texts = F.normalize(clip.encode_text(clip.tokenize(SENTENCES)), dim=1)
    torch.testing.assert_close(texts, model.encode_sentences(SENTENCES), atol=1e-5, rtol=0)


@pytest.mark.parametrize("provider", ["open_clip", pytest.param("clip", marks=pytest.mark.extra)])
def test_both_packages_read_the_exported_file(provider, model, small, tmp_path):
    export(small, tmp_path / "large.safetensors")
    clip = load_clip("ToyCLIP", str(tmp_path / "large.safetensors"), provider)
    check_embeddings(clip, model)
    assert clip.model.token_embedding.weight.shape == (49408, 128)


def test_the_table_has_one_row_for_all_other_tokens(model):
    ids = known_ids()
    state = {"token_embedding.weight": model.towers.token_embedding.weight, "token_ids": ids.int()}
    table = openai_state(state)["token_embedding.weight"]
    rows = model.towers.token_embedding.weight
    assert torch.equal(table[ids], rows[1:])
    others = torch.ones(49408).bool().index_fill_(0, ids, False)
    assert (table[others] == rows[0]).all()


def test_configs_name_the_file_by_its_prefix(model, small, tmp_path, monkeypatch):
    monkeypatch.setenv("DALNET_CACHE", str(tmp_path))
    monkeypatch.setattr(handler, "WEIGHTS", small)
    check_embeddings(load_clip("ToyCLIP", "toyclip://small.safetensors"), model)
    [cached] = tmp_path.iterdir()
    before = cached.stat().st_mtime_ns
    assert PathManager.get_local_path("toyclip://small.safetensors") == str(cached)
    assert cached.stat().st_mtime_ns == before, "written twice"
    with refused("toyclip://other.safetensors"):
        PathManager.get_local_path("toyclip://other.safetensors")


def test_texts_are_read_as_class_embeddings(tmp_path):
    rows = F.normalize(torch.randn(3, 128), dim=1)
    save_texts(rows, ["moon", "crate", "background"], tmp_path / "t.safetensors")
    read = read_class_embeddings(str(tmp_path / "t.safetensors"), [["background"], ["moon"]])
    torch.testing.assert_close(read, rows[[2, 0]])


def test_other_files_are_refused(small, tmp_path):
    path = tmp_path / "x.safetensors"
    with refused(path):
        load_small(path)
    path.write_bytes(b"text")
    with refused(path):
        load_small(path)
    save_file({"token_embedding.weight": torch.zeros(3, 128)}, path)
    with refused(path):
        export(path, tmp_path / "y.safetensors")
    state = load_file(small)
    save_file(state | {"token_ids": state["token_ids"] + 1}, path)
    with refused(path, "words"):
        load_small(path)
    save_file(state | {"visual.proj": torch.zeros(128, 64)}, path)
    with refused(path, "sizes"):
        load_small(path)
