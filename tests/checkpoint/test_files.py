# SPDX-License-Identifier: Apache-2.0
"""Files that are no checkpoint."""

from pathlib import Path

import pytest
import torch
from helpers import refused
from safetensors.torch import save_file

import dalnet.assets
from dalnet.checkpoint import (
    Checkpointer,
    checkpoint_hash,
    find_checkpoint,
)
from dalnet.io import sha256


def load_line(path):
    Checkpointer(torch.nn.Linear(1, 1)).load(str(path))


@pytest.mark.parametrize("kept", [-8, 20, 0])
def test_cut_safetensors_are_refused(tmp_path, kept):
    path = tmp_path / "cut.safetensors"
    save_file(torch.nn.Linear(1, 1).state_dict(), path)
    load_line(path)
    path.write_bytes(path.read_bytes()[:kept])
    with refused("cut.safetensors"):
        load_line(path)


def test_files_of_no_known_format_are_refused(tmp_path):
    (tmp_path / "text.pkl").write_text("abc")
    with refused("text.pkl"):
        load_line(tmp_path / "text.pkl")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0d\nsize 9\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>Quota exceeded</html>", "web page"),
        (b"", "empty"),
    ],
)
def test_what_lies_in_the_place_of_a_checkpoint_is_named(tmp_path, content, words, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with refused(path, words):
        load_line(path)


def test_cut_file_that_begins_as_a_web_page_does_is_not_called_one(tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(b"<\0\0\0\0\0\0\0{")  # a header of 60 bytes
    with refused(path) as error:
        load_line(path)
    assert "web page" not in str(error.value)


@pytest.mark.parametrize("name", ["nan.pth", "nan.safetensors"])
def test_weights_of_a_training_that_has_diverged_are_refused(tmp_path, name):
    state = {"weight": torch.full((1, 1), torch.nan), "bias": torch.zeros(1)}
    (save_file if name.endswith("s") else torch.save)(state, tmp_path / name)
    with refused(name, "weight", "NaN"):
        load_line(tmp_path / name)


@pytest.mark.parametrize("name", ["model_0000009.pth", ""])
def test_checkpoint_that_a_run_folder_names_and_has_not(tmp_path, name):
    (tmp_path / "last_checkpoint").write_text(name)
    torch.save({}, tmp_path / "model_final.pth")
    with refused(tmp_path, repr(name), "model_final.pth"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (torch.zeros(3), "where a model's tensors belong it holds a Tensor"),
        ([torch.zeros(3)], "it holds a list"),
        (None, "it holds a NoneType"),
        ({"model": [torch.zeros(3)]}, "it holds a list"),
        ({"model": None}, "it holds a NoneType"),
        ({"model": "text"}, "it holds a str"),
        ({"model": {"weight": "text"}}, "under 'weight' it holds a str"),
        ({"model": {3: torch.zeros(3)}}, "under 3 it holds a Tensor instead of a named tensor"),
    ],
)
def test_what_is_no_models_state_is_refused(tmp_path, content, fault):
    path = tmp_path / "odd.pth"
    torch.save(content, path)
    with refused("odd.pth", fault):
        load_line(path)


def test_bare_state_dicts_are_taken(tmp_path):
    torch.save(torch.nn.Linear(1, 1).state_dict(), tmp_path / "bare.pth")
    load_line(tmp_path / "bare.pth")


def test_addresses_with_nothing_behind_them_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    for address in ("http://127.0.0.1:1/x.pth", "catalog://nothing"):
        for use in (load_line, checkpoint_hash):
            with refused("MODEL.WEIGHTS", address):
                use(address)


def test_pickled_checkpoint_is_never_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"model": Bomb()}, tmp_path / "bomb.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "bomb.pth").read_bytes()[:50])
    for name in ("bomb.pth", "cut.pth"):
        with refused(name):
            Checkpointer(torch.nn.Linear(1, 1)).load(str(tmp_path / name))
    assert not (tmp_path / "executed").exists()


def test_hash_of_a_checkpoint_with_an_address():
    path = Path(dalnet.assets.__file__).with_name("toy_vit.safetensors")
    assert checkpoint_hash(f"dalnet://{path.name}") == sha256(path)
