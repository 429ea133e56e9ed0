# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m dalnet_mae``."""

import hashlib
import json
import sys

import pytest
import torch
from helpers import make_noise
from PIL import Image
from safetensors.torch import load_file

from dalnet.modeling import TimmViT
from dalnet_mae import __main__ as command

SIZES = "patch_size=8 embed_dim=24 depth=2 num_heads=2"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """``run(words)`` runs the command in a folder with three images and a broken one."""
    images = tmp_path / "images"
    images.mkdir()
    for i in range(3):
        Image.fromarray(make_noise(40, 60, seed=i)).save(images / f"p{i}.png")
    (images / "broken.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)

    def run_command(words):
        monkeypatch.setattr(sys, "argv", ["x", *words.split()])
        command.main()

    return run_command


def test_weights_and_what_they_were_trained_on(run, tmp_path):
    run(
        "--images images --crop-size 32 --batch-size 2 --iterations 2 --decoder-width 16 "
        f"--device cpu --overrides {SIZES} --output new/vit.safetensors --preview new/vit.png"
    )
    weights, summary = (tmp_path / "new" / name for name in ("vit.safetensors", "vit.json"))
    summary = json.loads(summary.read_text())
    assert summary["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert summary["num_images"] == 3 and "broken.png" in summary["skipped"][0]
    assert 0.5 < summary["final_loss"] < 2
    arguments = summary["arguments"]
    assert (arguments["batch_size"], arguments["decoder_width"]) == (2, 16)
    assert arguments["overrides"]["embed_dim"] == 24 and arguments["images"] == "images"
    overrides = {**arguments["overrides"], "img_size": 32}
    vit = TimmViT(
        name=arguments["vit"], weights=str(weights), intermediate_block=2, overrides=overrides
    ).vit
    state = load_file(weights)
    assert state.keys() == vit.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in vit.state_dict().items())
    assert Image.open(tmp_path / "new" / "vit.png").size == (3 * 32, 3 * 32)
    log = (tmp_path / "new" / "vit" / "log.txt").read_text()
    assert "broken.png" in log and "loss" in log


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        ("--batch-size 0", 2, "--batch-size"),
        ("--memory-side 0", 2, "--memory-side"),
        ("--save-every 0", 2, "--save-every"),
        ("--warmup 1", 2, "--warmup"),
        ("--images absent", 1, "absent"),
        ("--images images --list absent.txt", 1, "absent.txt"),
        ("--images images --output images/p0.png/vit", 1, "p0.png"),
    ],
)
def test_what_cannot_be_is_named(run, words, status, named, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(words)
    assert stopped.value.code == status and named in capsys.readouterr().err
