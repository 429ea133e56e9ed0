# SPDX-License-Identifier: Apache-2.0
"""Pre-training on photographs: reading them, going on after an interruption, the saved encoder."""

import hashlib
import itertools
import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dalnet.errors import UsageError
from dalnet.modeling.backbone.vit import TimmViT
from dalnet_mae import __main__ as command
from dalnet_mae.pretrain import (
    Crops,
    Plan,
    Recipe,
    build_model,
    build_optimizer,
    build_schedule,
    pretrain,
    read_photographs,
)

SIZES = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
TINY = Recipe(
    side=32, batch=3, iterations=5, rate=0.1, decoder_width=16, decoder_heads=2, sizes=SIZES
)


@pytest.fixture
def folder(tmp_path):
    """Five photographs of 60 x 40 pixels, a broken one and a file of another kind."""
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(5):
        pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"p{i}.{'JPG' if i == 4 else 'jpg'}")
    (photos / "broken.jpg").write_bytes((photos / "p0.jpg").read_bytes()[:200])
    (photos / "notes.txt").write_text("p0")
    return photos


@pytest.fixture
def photographs(folder):
    return read_photographs(folder, None, 36)


def test_reads_and_shrinks_and_names_what_is_broken(folder, photographs):
    assert [tuple(image.shape) for image in photographs.images] == [(3, 36, 54)] * 5
    assert all(image.dtype == torch.uint8 for image in photographs.images)
    assert len(photographs.skipped) == 1 and "broken.jpg" in photographs.skipped[0]
    whole = read_photographs(folder, None, 256).images[1]
    pixels = np.array(Image.open(folder / "p1.jpg"))
    assert np.array_equal(whole.permute(1, 2, 0).numpy(), pixels), "small ones stay as they are"


def test_list_is_respected(folder, tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("p3\n\np1\nlost\n")
    taken, everything = (read_photographs(folder, file, 256) for file in (ids, None))
    expected = [everything.images[1], everything.images[3]]
    assert all(torch.equal(a, b) for a, b in zip(taken.images, expected, strict=True))
    assert len(taken.skipped) == 1 and "lost" in taken.skipped[0]
    with pytest.raises(UsageError, match="list"):
        read_photographs(folder, tmp_path / "absent.txt", 256)


def test_nothing_to_learn_from_is_refused(folder, tmp_path):
    for path in folder.glob("p*"):
        path.unlink()
    with pytest.raises(UsageError, match="no photograph to learn from: 1 unreadable"):
        read_photographs(folder, None, 256)
    with pytest.raises(UsageError, match="not a folder"):
        read_photographs(tmp_path / "absent", None, 256)


def test_every_photograph_once_before_any_twice():
    images = [torch.full((3, 40, 50), 10 * i, dtype=torch.uint8) for i in range(6)]
    crops = Crops(images, TINY, torch.device("cpu"))
    batches = list(itertools.islice(crops, 4))
    assert batches[0].shape == (3, 3, 32, 32) and batches[0].dtype == torch.float32
    red = (torch.cat(batches)[:, 0, 0, 0] * 58.395 + 123.675).round().int().tolist()
    assert sorted(red[:6]) == sorted(red[6:]) == [0, 10, 20, 30, 40, 50] and red[:6] != red[6:]
    crops.first = 3
    later = next(iter(crops))[:, 0, 0, 0] * 58.395 + 123.675
    assert later.round().int().tolist() == red[9:]


def test_rate_rises_and_falls():
    schedule = build_schedule(replace(TINY, warmup=0.2))
    for done in (0.0, 0.05, 0.15, 0.3, 0.7, 0.99):
        cosine = 0.5 * (1 + math.cos(math.pi * (done - 0.2) / 0.8))
        assert schedule(done) == pytest.approx(done / 0.2 if done < 0.2 else cosine)
    assert build_schedule(replace(TINY, warmup=0.0))(0.0) == 1


def test_biases_and_norms_do_not_decay():
    model = build_model(TINY)
    decaying, others = build_optimizer(model, TINY).param_groups
    assert decaying["weight_decay"] == 0.05 and others["weight_decay"] == 0
    assert decaying["lr"] == pytest.approx(0.1 * 3 / 256) and decaying["betas"] == (0.9, 0.95)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in others["params"]} == {
        n for n, p in model.named_parameters() if n.endswith("bias") or "norm" in n
    }
    learning = sum(p.requires_grad for p in model.parameters())
    assert len(decaying["params"]) + len(others["params"]) == learning


def test_saved_encoder_loads_for_training(photographs, tmp_path):
    plan = Plan(tmp_path / "new" / "vit.safetensors", preview=tmp_path / "preview.png")
    account = pretrain(TINY, photographs, plan)
    state = load_file(plan.output)
    backbone = TimmViT(
        name=TINY.vit,
        weights=str(plan.output),
        intermediate_block=2,
        overrides={**SIZES, "img_size": 32},
    )
    own = backbone.vit.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], state[key]) for key in own)
    fresh = build_model(TINY).vit.state_dict()
    assert not torch.equal(fresh["blocks.0.mlp.fc1.weight"], state["blocks.0.mlp.fc1.weight"])
    assert Image.open(plan.preview).size == (3 * 32, 5 * 32)

    assert json.loads((tmp_path / "new" / "vit.json").read_text()) == account
    assert account["weights_sha256"] == hashlib.sha256(plan.output.read_bytes()).hexdigest()
    assert (account["photographs"], account["iterations"]) == (5, 5)
    assert "broken.jpg" in account["skipped"][0] and 0.5 < account["final_loss"] < 2
    assert account["arguments"]["side"] == 32 and account["arguments"]["memory_side"] == 36
    lines = (tmp_path / "new" / "vit" / "metrics.json").read_text().splitlines()
    assert json.loads(lines[-1])["iteration"] == 4


def test_interrupted_run_ends_with_the_same_weights(photographs, tmp_path, interrupted_at):
    whole = pretrain(TINY, photographs, Plan(tmp_path / "whole.safetensors"))
    plan = Plan(tmp_path / "parts.safetensors", save_every=2)
    with interrupted_at(3):
        pretrain(TINY, photographs, plan)
    assert not plan.output.exists()

    done = interrupted_at.done
    torch.rand(7)
    account = pretrain(TINY, photographs, replace(plan, resume=True))
    assert done == [2, 3, 4] and account["iterations"] == 5
    assert account["weights_sha256"] == whole["weights_sha256"]

    again = pretrain(TINY, photographs, replace(plan, resume=True))
    assert done == [2, 3, 4] and again == account, "a finished run is only written again"
    with pytest.raises(UsageError, match="iterations 5"):
        pretrain(replace(TINY, iterations=6), photographs, replace(plan, resume=True))


def test_impossible_arguments_are_refused(photographs, tmp_path):
    with pytest.raises(UsageError, match="--batch is 0"):
        replace(TINY, batch=0)
    with pytest.raises(UsageError, match="--memory-side is 0"):
        read_photographs(tmp_path, None, 0)
    with pytest.raises(UsageError, match="--warmup"):
        replace(TINY, warmup=1.0)
    with pytest.raises(UsageError, match=r"\.safetensors"):
        Plan(tmp_path / "vit.pth")
    with pytest.raises(UsageError, match="multiple of the patch size, 8"):
        pretrain(replace(TINY, side=36), photographs, Plan(tmp_path / "vit.safetensors"))


def test_command_line(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "open_log", lambda folder: None)
    output = tmp_path / "vit.safetensors"
    words = f"--photos {folder} --side 32 --batch 2 --iterations 2 --decoder-width 16 --device cpu"
    sizes = [f"{key}={value}" for key, value in SIZES.items()]
    monkeypatch.setattr(
        sys, "argv", ["x", *words.split(), "--sizes", *sizes, "--output", str(output)]
    )
    command.main()
    arguments = json.loads(output.with_suffix(".json").read_text())["arguments"]
    assert (arguments["batch"], arguments["decoder_width"]) == (2, 16)
    assert arguments["sizes"] == SIZES

    monkeypatch.setattr(sys, "argv", ["x", "--photos", str(tmp_path / "absent")])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 1 and "not a folder" in capsys.readouterr().err
