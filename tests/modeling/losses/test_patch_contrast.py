# SPDX-License-Identifier: Apache-2.0
"""Patch-token contrast against a plain sum over all pairs."""

import pytest
import torch

from dalnet.modeling.losses import patch_contrast, patch_token_contrast

IGNORE = 255


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(11)


def plain_contrast(tokens, labels):
    sums, counts = {True: 0.0, False: 0.0}, {True: 0, False: 0}
    for token, label in zip(tokens.flatten(2), labels.flatten(1), strict=True):
        for i in range(len(label)):
            for j in range(len(label)):
                if i == j or IGNORE in (label[i].item(), label[j].item()):
                    continue
                a, b = token[:, i], token[:, j]
                same = label[i].item() == label[j].item()
                sums[same] += abs((a @ b / (a.norm() * b.norm())).item())
                counts[same] += 1
    positive, negative = (sums[k] / (counts[k] + 1) for k in (True, False))
    return 0.5 * (1 - positive) + 0.5 * negative


@pytest.fixture
def token_batch():
    tokens = torch.randn(2, 4, 2, 3, dtype=torch.float64)
    labels = torch.tensor([[[0, 0, 1], [1, IGNORE, 3]], [[2, 2, 2], [0, IGNORE, 2]]])
    return tokens, labels


def test_contrast_is_the_plain_sum(token_batch):
    tokens, labels = token_batch
    loss = patch_token_contrast(tokens, labels)
    assert loss.item() == pytest.approx(plain_contrast(tokens, labels), rel=1e-12)


def test_contrast_gradient(token_batch):
    tokens, labels = token_batch
    tokens.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: patch_token_contrast(t, labels), tokens)
    patch_token_contrast(tokens, labels).backward()
    ignored = (labels == IGNORE)[:, None].expand_as(tokens)
    assert not tokens.grad[ignored].any()
    assert tokens.grad[~ignored].all()


def test_contrast_does_not_depend_on_the_tiles(token_batch, monkeypatch):
    tokens, labels = token_batch
    results = []
    for pairs in (1, 2 * 6 * 4, 1 << 20):  # tiles of one row, of 4 rows and then 2, of all rows
        monkeypatch.setattr(patch_contrast, "_PAIRS_AT_A_TIME", pairs)
        leaf = tokens.clone().requires_grad_()
        loss = patch_token_contrast(leaf, labels)
        results.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    for tiled in results[:2]:
        torch.testing.assert_close(tiled, results[2], rtol=1e-12, atol=1e-15)


def test_contrast_does_not_depend_on_order_or_mirror(token_batch):
    tokens, labels = token_batch
    expected = patch_token_contrast(tokens, labels).item()
    for t, m in ((tokens.flip(0), labels.flip(0)), (tokens.flip(-1), labels.flip(-1))):
        assert patch_token_contrast(t, m).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("label", [0, 1, IGNORE])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_contrast_of_one_kind_only(label, scale):
    tokens = (scale * torch.randn(2, 4, 3, 3)).requires_grad_()
    loss = patch_token_contrast(tokens, torch.full((2, 3, 3), label))
    loss.backward()
    assert 0 <= loss.item() <= 1
    assert tokens.grad.isfinite().all()
    if label == IGNORE:
        assert loss.item() == 0.5
        assert not tokens.grad.any()


def test_arguments_may_be_named(token_batch):
    tokens, labels = token_batch
    named = patch_token_contrast(labels=labels, tokens=tokens)
    assert named == patch_token_contrast(tokens, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert patch_token_contrast(labels=labels, tokens=tokens) == named
