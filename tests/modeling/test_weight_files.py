# SPDX-License-Identifier: Apache-2.0
"""Files from outside: addresses, damage, and objects that must not be unpickled."""

from pathlib import Path

import pytest
import torch
from detectron2.utils.file_io import PathManager
from helpers import refused
from safetensors.torch import save_file

from dalnet import assets
from dalnet.modeling.weight_files import find_part, local_file, read_state, weights_path

SUFFIXES = (".safetensors", ".pth")


class Harmful:
    """Leaves a trace when unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (self.trace, "w")


def test_objects_are_never_unpickled(tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "weights.pth"
    torch.save({"x": Harmful(str(trace))}, path)
    with refused("weights.pth", "SOME.KEY", "open") as error:
        read_state(path, "SOME.KEY")
    assert not trace.exists()
    # torch advises to allow it, which no command does.
    assert "weights_only" not in str(error.value) and "safe_globals" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\x00" * 20])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files(tmp_path, suffix, content):
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(content)
    with refused(f"cut{suffix}", "SOME.KEY"):
        read_state(path, "SOME.KEY")


def test_files_of_something_else(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with refused("list.pth", "SOME.KEY"):
        read_state(tmp_path / "list.pth", "SOME.KEY")


def test_weights_with_nan(tmp_path):
    state = {"a": torch.zeros(2), "b.weight": torch.tensor([1.0, torch.nan]), "n": torch.tensor(3)}
    torch.save({"state_dict": state}, tmp_path / "nan.pth")
    with refused("nan.pth", "SOME.KEY", "b.weight"):
        read_state(tmp_path / "nan.pth", "SOME.KEY")


def test_pointer_in_the_place_of_weights(tmp_path):
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    with refused("lfs.pth", "SOME.KEY", "git lfs pull"):
        read_state(tmp_path / "lfs.pth", "SOME.KEY")


def test_wrappings_are_taken_off(tmp_path):
    value = torch.arange(3.0)
    torch.save({"epoch": 1, "state_dict": {"module.x": value}}, tmp_path / "wrapped.pth")
    save_file({"x": value}, tmp_path / "bare.safetensors")
    for name in ("wrapped.pth", "bare.safetensors"):
        assert torch.equal(read_state(tmp_path / name, "SOME.KEY")["x"], value)


def test_several_states_in_one_file_are_joined(tmp_path):
    value = torch.arange(3.0)
    states = {"student": {"module.x": value}, "teacher": {"net": {"x": value + 1}}, "epoch": 3}
    torch.save(states, tmp_path / "joined.pth")
    joined = read_state(tmp_path / "joined.pth", "SOME.KEY")
    assert {key: item.tolist() for key, item in joined.items()} == {
        "student.x": [0, 1, 2],
        "teacher.net.x": [1, 2, 3],
    }


@pytest.mark.parametrize(
    "prefixes, chosen",
    [
        (["module.encoder."], "module.encoder."),
        (["student.", "teacher."], "teacher."),
        (["ema_model.", ""], "ema_model."),
        (["online.", "target."], "online."),
        ([""], ""),
    ],
)
def test_the_part_of_a_model_is_found_by_its_names(prefixes, chosen):
    names = ["stem.weight", "blocks.0.weight", "norm.weight"]
    state = {f"{prefix}{name}": (prefix, name) for prefix in prefixes for name in names}
    state |= {"head.norm.weight": None, "queue": None}
    found = find_part(state, names)
    assert {name: found[name] for name in names} == {name: (chosen, name) for name in names}
    assert chosen == "" or found.keys() == set(names)


def test_a_state_of_other_names_stays_as_it_is():
    state = {"visual.class_embedding": 1, "visual.proj": 2}
    assert find_part(state, ["cls_token", "pos_embed"]) == state


@pytest.mark.parametrize("name", ["vit_0.5", "vit_0.5.safetensors"])
def test_a_dot_in_a_name_is_no_suffix(name):
    assert weights_path(Path("a", name)) == Path("a/vit_0.5.safetensors")


def test_local_file(tmp_path):
    path = tmp_path / "a.pth"
    path.touch()
    assert local_file(str(path), "SOME.KEY", SUFFIXES) == path
    for name in ("b.pth", "."):
        with refused("SOME.KEY", tmp_path / name):
            local_file(str(tmp_path / name), "SOME.KEY", SUFFIXES)
    with refused("SOME.KEY", "a.pth", ".npz"):
        local_file(str(path), "SOME.KEY", (".npz",))


def test_addresses_with_nothing_behind_them(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    address = "http://127.0.0.1:1/x.pth"
    with refused("SOME.KEY", address):
        local_file(address, "SOME.KEY", SUFFIXES)


def test_package_assets(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "ASSETS", tmp_path / "assets")
    (tmp_path / "assets").mkdir()
    (tmp_path / "outside.pth").touch()
    file = tmp_path / "assets" / "small.pth"
    file.write_bytes(b"content")
    assert local_file("dalnet://small.pth", "SOME.KEY", SUFFIXES) == file
    assert PathManager.isfile("dalnet://small.pth") and PathManager.exists("dalnet://small.pth")
    assert not PathManager.exists("dalnet://absent.pth")
    with PathManager.open("dalnet://small.pth", "rb") as stream:
        assert stream.read() == b"content"
    for name in ("absent.pth", "../outside.pth"):
        with refused(f"dalnet://{name}", "dalnet://small.pth"):
            local_file(f"dalnet://{name}", "SOME.KEY", SUFFIXES)
    with refused("dalnet://new.pth"):
        PathManager.open("dalnet://new.pth", "w")
