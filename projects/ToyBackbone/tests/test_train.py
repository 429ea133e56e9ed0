# SPDX-License-Identifier: Apache-2.0
"""The pre-training of the toy backbone, its command, and the weights that it left behind."""

import json
import math
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from dalnet.assets import ASSETS
from dalnet.errors import UsageError
from dalnet_toy_backbone import __main__ as command
from dalnet_toy_backbone.collages import NUM_LABELS, new_batches
from dalnet_toy_backbone.train import (
    RisingCosine,
    ToyPlan,
    ToyRecipe,
    accuracy,
    build_classifier,
    build_optimizer,
    pretrain_toy,
)

QUICK = ToyRecipe(iters=5, seed=3, batch=2, memory=5, initial=3, fresh=2, rate=0.05)


def quick_plan(folder, **changes):
    return ToyPlan(folder / "vit.safetensors", checkpoint=folder, checked=4, judged=4, **changes)


def test_shipped_weights_are_of_this_model():
    file = ASSETS / "toy_vit.safetensors"
    assert file.stat().st_size < 5_000_000
    state = load_file(file)
    build_classifier(0).vit.load_state_dict(state, strict=True)
    assert all(v.dtype == torch.float16 and v.isfinite().all() for v in state.values())


def test_rate_is_a_cosine_times_a_rise():
    schedule = RisingCosine(900, 150)
    for done in range(900):
        rise = min(1.0, (done + 1) / 150)
        expected = rise * 0.5 * (1 + math.cos(math.pi * done / 900))
        assert schedule(done / 900) == pytest.approx(expected, rel=1e-12)


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


def test_accuracy_against_plain_loops(monkeypatch):
    model, sizes = build_classifier(0), list(NUM_LABELS.values())
    batches = list(new_batches(0, 2, 2))
    answers = [torch.randn(2, 4, sum(sizes)) for _ in batches]
    for answer, batch in zip(answers, batches, strict=True):
        answer[0, 0, 5] = 99  # whatever it shows; and all of the second collage is right
        for part in range(4):
            for i, offset in enumerate((0, sizes[0], sizes[0] + sizes[1])):
                answer[1, part, offset + batch["labels"][1, part, i]] = 99
    given = iter(answers)
    monkeypatch.setattr(model, "logits", lambda images, owners: (None, next(given)))
    shares = accuracy(model, batches)
    assert model.training and list(shares) == ["shape", "texture", "palette"]
    for i, name in enumerate(shares):
        offset, right, total = sum(sizes[:i]), 0, 0
        for answer, batch in zip(answers, batches, strict=True):
            for labels, scores in zip(
                batch["labels"].flatten(0, 1), answer.flatten(0, 1), strict=True
            ):
                named = scores[offset : offset + sizes[i]].argmax()
                total += int(labels[i] > 0)
                right += int(labels[i] > 0 and named == labels[i])
        assert shares[name] == pytest.approx(100 * right / total) and right >= 4


def test_interrupted_run_ends_with_the_same_weights(tmp_path, interrupted_at):
    whole, parts = quick_plan(tmp_path / "whole"), quick_plan(tmp_path / "parts", save_every=2)
    pretrain_toy(QUICK, whole)
    with interrupted_at(3):
        pretrain_toy(QUICK, parts)
    assert not parts.output.exists()

    pretrain_toy(QUICK, replace(parts, resume=True))
    assert interrupted_at.done == [2, 3, 4]
    models = [
        torch.load(plan.folder / "model_final.pth", weights_only=True)["model"]
        for plan in (whole, parts)
    ]
    for key, value in models[0].items():
        torch.testing.assert_close(models[1][key], value, rtol=0, atol=0)
    assert parts.output.read_bytes() == whole.output.read_bytes()
    lines = (parts.folder / "metrics.json").read_text().splitlines()
    assert any("palette" in json.loads(line) for line in lines)

    with pytest.raises(UsageError, match="a run with iters 5"):
        pretrain_toy(replace(QUICK, iters=6), replace(parts, resume=True))


def test_output_is_the_vit_alone(tmp_path):
    plan = quick_plan(tmp_path)
    pretrain_toy(replace(QUICK, iters=1), plan)
    state, vit = load_file(plan.output), build_classifier(QUICK.seed).vit.state_dict()
    assert state.keys() == vit.keys()
    assert all(value.dtype == torch.float16 for value in state.values())
    trained = torch.load(plan.folder / "model_final.pth", weights_only=True)["model"]
    torch.testing.assert_close(state["cls_token"], trained["vit.cls_token"].half())
    assert not torch.equal(state["pos_embed"], vit["pos_embed"].half())


@pytest.fixture
def tool(monkeypatch):
    """The command, which only records what it would train."""
    monkeypatch.setattr(command, "calls", [], raising=False)
    monkeypatch.setattr(command, "pretrain_toy", lambda *args: command.calls.append(args))
    return command


def test_command_line(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "open_log", lambda folder: None)
    monkeypatch.setattr(sys, "argv", ["x"])
    tool.main()
    words = f"--iters 3 --seed 7 --output {tmp_path}/v.safetensors --checkpoint {tmp_path} --resume"
    monkeypatch.setattr(sys, "argv", ["x", *words.split()])
    tool.main()
    default, (recipe, plan) = tool.calls
    assert default == (ToyRecipe(), ToyPlan(ASSETS / "toy_vit.safetensors"))
    assert recipe == ToyRecipe(iters=3, seed=7) and plan.resume and plan.folder == tmp_path


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--iters", "0"], "--iters is 0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--output", "vit.pth"], "must end in .safetensors"),
        (["--checkpoint", __file__], "cannot be the folder"),
    ],
)
def test_one_sentence_for_what_cannot_be(tool, words, sentence, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", *words])
    with pytest.raises(SystemExit) as stopped:
        tool.main()
    assert stopped.value.code == 1 and not tool.calls
    assert sentence in capsys.readouterr().err
