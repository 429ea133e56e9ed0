# SPDX-License-Identifier: Apache-2.0
"""The pre-training: learning rates, decay, resuming, and the preview."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.engine import SimpleTrainer
from helpers import Interrupted, refused, stopped_at
from PIL import Image

from dalnet_mae.pretrain import (
    PretrainOptions,
    build_model,
    build_optimizer,
    build_scheduler,
    draw_preview,
    pretrain,
)

OVERRIDES = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
TINY = PretrainOptions(
    crop_size=32,
    batch_size=3,
    iterations=5,
    lr=0.1,
    decoder_width=16,
    decoder_heads=2,
    overrides=OVERRIDES,
)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, (3, 36, 54), dtype=torch.uint8, generator=generator) for _ in range(5)
    ]


def logged(folder, key):
    lines = (folder / "metrics.json").read_text().splitlines()
    return [json.loads(line)[key] for line in lines if key in json.loads(line)]


@pytest.mark.parametrize("warmup", [0.0, 0.4])
def test_learning_rates_follow_the_published_schedule(images, tmp_path, warmup):
    options = replace(TINY, warmup=warmup, iterations=20)
    pretrain(options, images, tmp_path, log_every=1)
    expected = []
    for i in range(20):
        done = i / 20
        cosine = 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
        expected.append(0.1 * 3 / 256 * (done / warmup if done < warmup else cosine))
    assert logged(tmp_path, "lr") == pytest.approx(expected)


def test_schedule_at_full_length():
    scheduler = build_scheduler(PretrainOptions(iterations=1500, warmup=0.05))
    for i in range(1500):
        rise, fall = i / 75, 0.5 * (1 + math.cos(math.pi * (i - 75) / 1425))
        assert scheduler(i / 1500) == pytest.approx(rise if i < 75 else fall, abs=1e-12)


def test_biases_and_norms_do_not_decay():
    model = build_model(TINY)
    others, decaying = build_optimizer(model, TINY).param_groups
    assert decaying["weight_decay"] == 0.05 and others["weight_decay"] == 0
    assert decaying["lr"] == pytest.approx(0.1 * 3 / 256) and decaying["betas"] == (0.9, 0.95)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in others["params"]} == {
        n for n, p in model.named_parameters() if n.endswith("bias") or "norm" in n
    }
    learning = sum(p.requires_grad for p in model.parameters())
    assert len(decaying["params"]) + len(others["params"]) == learning


def test_encoder_learns(images, tmp_path):
    model, loss = pretrain(TINY, images, tmp_path / "new" / "run")
    fresh = build_model(TINY).vit.state_dict()
    key = "blocks.0.mlp.fc1.weight"
    assert not torch.equal(fresh[key], model.vit.state_dict()[key])
    assert 0.5 < loss < 2 and logged(tmp_path / "new" / "run", "iteration")[-1] == 4


def test_interrupted_run_ends_with_the_same_weights(images, tmp_path, monkeypatch):
    done = []
    whole, _ = pretrain(TINY, images, tmp_path / "whole")
    monkeypatch.setattr(SimpleTrainer, "run_step", stopped_at(3, done))
    with pytest.raises(Interrupted):
        pretrain(TINY, images, tmp_path / "parts", save_every=2)
    torch.rand(7)
    parts, loss = pretrain(TINY, images, tmp_path / "parts", resume=True)
    assert done == [0, 1, 2, 2, 3, 4]
    assert all(map(torch.equal, whole.state_dict().values(), parts.state_dict().values()))

    again, same_loss = pretrain(TINY, images, tmp_path / "parts", resume=True)
    assert len(done) == 6 and same_loss == loss, "a finished run is only read"
    assert all(map(torch.equal, whole.state_dict().values(), again.state_dict().values()))
    with refused("resume", "'iterations': 5"):
        pretrain(replace(TINY, iterations=6), images, tmp_path / "parts", resume=True)
    with refused("resume", "'num_images': 5"):
        pretrain(TINY, images[1:], tmp_path / "parts", resume=True)


def test_preview_has_an_image_a_row(tmp_path):
    images = [torch.full((3, 36, 54), 40 * i, dtype=torch.uint8) for i in range(3)]
    draw_preview(build_model(TINY), images, tmp_path / "preview.png")
    rows = np.array(Image.open(tmp_path / "preview.png")).reshape(3, 32, 3, 32, 3)
    for i, (image, masked, completed) in enumerate(rows.transpose(0, 2, 1, 3, 4)):
        assert (image == 40 * i).all()
        visible = (masked == 40 * i).all(2)
        assert visible.sum() == 4 * 8 * 8 and (masked[~visible] == [124, 116, 104]).all()
        assert (completed[visible] == 40 * i).all()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"mask_ratio": 1.0}, "0 of 16"),
        ({"decoder_width": 18}, "divisible by 4"),
        ({"decoder_heads": 3}, "divisible by num_heads"),
        ({"overrides": {**OVERRIDES, "embed_dim": 30}}, "divisible by 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(wrong, named):
    with refused("", named):
        build_model(replace(TINY, **wrong))


def test_crops_are_multiples_of_the_patch():
    with refused("crop_size", "multiple of 8"):
        build_model(replace(TINY, crop_size=36))
