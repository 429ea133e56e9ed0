# SPDX-License-Identifier: Apache-2.0
"""The training of the toy backbone, and the weights that it left in dalnet."""

import json
import math
from dataclasses import replace

import pytest
import torch
from detectron2.engine import SimpleTrainer
from helpers import Interrupted, refused, stopped_at
from safetensors.torch import load_file

from dalnet.assets import ASSETS
from dalnet_toy_backbone.collages import NUM_LABELS, unseen_batches
from dalnet_toy_backbone.train import (
    TrainOptions,
    build_classifier,
    build_optimizer,
    build_scheduler,
    evaluate,
    save_encoder,
    train,
)

QUICK = TrainOptions(iterations=5, seed=3, batch_size=2, memory=5, initial=3, fresh=2, lr=0.05)


def test_shipped_weights_are_of_this_model():
    file = ASSETS / "toy_vit.safetensors"
    assert file.stat().st_size < 5_000_000
    state = load_file(file)
    build_classifier(0).vit.load_state_dict(state, strict=True)
    assert all(v.dtype == torch.float16 and v.isfinite().all() for v in state.values())


def test_learning_rate_is_a_cosine_times_a_rise():
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1e-3)
    scheduler = build_scheduler(optimizer, TrainOptions())
    for done in range(900):
        rise = min(1.0, (done + 1) / 150)
        expected = 1e-3 * rise * 0.5 * (1 + math.cos(math.pi * done / 900))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_gradients_are_clipped_together():
    model = build_classifier(0)
    optimizer = build_optimizer(model, QUICK)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))
    assert norm == pytest.approx(1, rel=1e-3)
    [group] = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], group["betas"]) == (0.05, 0.05, (0.9, 0.98))


def test_evaluation_against_plain_loops(monkeypatch):
    model, sizes = build_classifier(0), list(NUM_LABELS.values())
    batches = list(unseen_batches(3, 2, 2, classes=True))
    answers = [torch.randn(2, 4, sum(sizes)) for _ in batches]
    for answer, batch in zip(answers, batches, strict=True):
        answer[0, 0, 5] = 99  # whatever it shows; and all of the second collage is right
        for tile in range(4):
            for i, offset in enumerate((0, sizes[0], sizes[0] + sizes[1])):
                answer[1, tile, offset + batch["labels"][1, tile, i]] = 99
    given = iter(answers)
    monkeypatch.setattr(model, "logits", lambda images, tile_map: (None, next(given)))
    result = evaluate(model, QUICK, batches=2, classes=True)
    assert model.training and list(result) == ["shape", "texture", "palette"]
    for i, name in enumerate(result):
        offset, right, total = sum(sizes[:i]), 0, 0
        for answer, batch in zip(answers, batches, strict=True):
            tiles = zip(batch["labels"].flatten(0, 1), answer.flatten(0, 1), strict=True)
            for labels, scores in tiles:
                named = scores[offset : offset + sizes[i]].argmax()
                total += int(labels[i] > 0)
                right += int(labels[i] > 0 and named == labels[i])
        assert result[name] == pytest.approx(100 * right / total) and right >= 4


@pytest.mark.slow
def test_interrupted_run_ends_with_the_same_weights(tmp_path, monkeypatch):
    folder, done = tmp_path / "parts", []
    whole = train(QUICK, tmp_path / "whole").state_dict()
    monkeypatch.setattr(SimpleTrainer, "run_step", stopped_at(3, done))
    with pytest.raises(Interrupted):
        train(QUICK, folder, save_every=2)
    parts = train(QUICK, folder, resume=True).state_dict()
    assert done == [0, 1, 2, 2, 3, 4]
    assert all(torch.equal(parts[key], value) for key, value in whole.items())
    lines = (folder / "metrics.json").read_text().splitlines()
    assert any("palette" in json.loads(line) for line in lines)
    with refused("resume", "'iterations': 5"):
        train(replace(QUICK, iterations=6), folder, resume=True)


def test_output_is_the_vit_alone(tmp_path):
    model = build_classifier(1)
    save_encoder(model, tmp_path / "new" / "vit.safetensors")
    state, vit = load_file(tmp_path / "new" / "vit.safetensors"), model.vit.state_dict()
    assert state.keys() == vit.keys()
    assert all(torch.equal(state[key], value.half()) for key, value in vit.items())
