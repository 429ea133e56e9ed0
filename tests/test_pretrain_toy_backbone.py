# SPDX-License-Identifier: Apache-2.0
"""The pre-training of the toy backbone, and the weights that it left in the package."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from dalnet.assets import ASSETS
from dalnet.data.datasets.toy import TOY_LOOKS
from dalnet.errors import UsageError

SCRIPT = Path(__file__).parents[1] / "tools" / "pretrain_toy_backbone.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("pretrain_toy_backbone", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def quick(tool, monkeypatch):
    monkeypatch.setattr(tool, "BATCH", 2)
    monkeypatch.setattr(tool, "FIRST", 3)
    monkeypatch.setattr(tool, "FRESH", 2)
    monkeypatch.setattr(tool, "MEMORY", 5)
    return tool


def test_shipped_weights_are_of_this_model(tool):
    file = ASSETS / "toy_vit.safetensors"
    assert file.stat().st_size < 5_000_000
    state = load_file(file)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **tool.ARCHITECTURE)
    vit.load_state_dict(state, strict=True)
    assert all(v.dtype == torch.float16 and v.isfinite().all() for v in state.values())


def test_no_look_shares_two_attributes_with_a_class(tool):
    looks = tool.foreign_looks()
    assert len(looks) > 300
    for look in looks:
        for own in TOY_LOOKS:
            pairs = zip(vars(look).values(), vars(own).values(), strict=True)
            assert sum(a == b for a, b in pairs) <= 1
    for i, values in enumerate(tool.ATTRIBUTES):
        assert {list(vars(look).values())[i] for look in looks} == set(values)


def test_collage_of_four_labelled_pictures(tool):
    empty = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        image, owner, labels = tool.draw_collage(rng, tool.foreign_looks())
        assert image.shape == (96, 96, 3) and image.dtype == np.uint8
        assert labels.shape == (4, 3) and ((labels == 0).all(1) | (labels > 0).all(1)).all()
        for number in range(4):
            rows, columns = np.nonzero(owner == number)
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert height * width == len(rows), "a quarter is not a rectangle"
            assert min(height, width) >= 4
        empty += (labels[:, 0] == 0).sum()
    assert 0.1 < empty / 160 < 0.32


def test_a_quarter_is_judged_by_its_own_patches(tool):
    torch.manual_seed(0)
    model = tool.AttributeClassifier()
    tokens = torch.randn(1, 145, 144)
    model.vit.forward_features = lambda images: tokens
    owners = torch.zeros(1, 12, 12, dtype=torch.int64)
    owners[0, 5:, :4], owners[0, :5, 4:], owners[0, 5:, 4:] = 1, 2, 3
    of_collage, of_parts = model(torch.zeros(1, 3, 96, 96), owners)
    for number in range(4):
        places = (owners[0] == number).flatten().nonzero()[:, 0].tolist()
        pooled = [max(float(tokens[0, 1 + p, c]) for p in places) for c in range(144)]
        torch.testing.assert_close(of_parts[0, number], model.patch_head(torch.tensor(pooled)))
    torch.testing.assert_close(of_collage[0], model.cls_head(tokens[0, 0]))


def test_loss_against_plain_loops(tool):
    torch.manual_seed(0)
    total = sum(tool.SIZES)
    of_collage, of_parts = torch.randn(2, total).double(), torch.randn(2, 4, total).double()
    labels = torch.stack([torch.randint(0, n, (2, 4)) for n in tool.SIZES], -1)
    expected = 0.0
    for n in range(2):
        offset = 0
        for i, size in enumerate(tool.SIZES):
            for part in range(4):
                scores = of_parts[n, part, offset : offset + size].exp()
                expected -= float((scores[labels[n, part, i]] / scores.sum()).log()) / 8
            for value in range(size):
                p = float(of_collage[n, offset + value].sigmoid())
                right = p if value in labels[n, :, i].tolist() else 1 - p
                expected -= 3 * float(np.log(right)) / (2 * total)
            offset += size
    assert float(tool.attribute_loss((of_collage, of_parts), labels)) == pytest.approx(expected)


def test_interrupted_run_ends_with_the_same_weights(quick, tmp_path):
    whole = quick.Training(seed=3, iters=5)
    losses = [whole.step() for _ in range(5)]
    first = quick.Training(seed=3, iters=5)
    for _ in range(3):
        first.step()
    first.save(tmp_path / "c.pth")
    second = quick.Training(seed=3, iters=5)
    second.restore(tmp_path / "c.pth")
    assert [second.step(), second.step()] == losses[3:]
    expected = whole.model.state_dict()
    for key, value in second.model.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)
    with pytest.raises(UsageError, match="--seed 3 --iters 5"):
        quick.Training(seed=3, iters=6).restore(tmp_path / "c.pth")


def test_export_is_the_vit_alone(quick, tmp_path):
    model = quick.AttributeClassifier()
    quick.export(model, tmp_path / "new" / "vit.safetensors")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["vit.safetensors"]
    state = load_file(tmp_path / "new" / "vit.safetensors")
    assert state.keys() == model.vit.state_dict().keys()
    torch.testing.assert_close(state["cls_token"], model.vit.cls_token.detach().half())
