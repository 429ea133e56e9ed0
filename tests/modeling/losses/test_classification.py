# SPDX-License-Identifier: Apache-2.0
"""The classification loss against a loop over images and classes."""

import math

import pytest
import torch
import torch.nn.functional as F

from dalnet.modeling.losses import image_classification


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(3, 5, generator=generator, dtype=torch.float64)).requires_grad_()


LABELS = torch.tensor([[1.0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]])
KNOWN = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()


def test_unknown_pairs_count_for_nothing(logits):
    terms = []
    for row, labels, known in zip(logits.tolist(), LABELS.tolist(), KNOWN.tolist(), strict=True):
        for logit, label, is_known in zip(row, labels, known, strict=True):
            if is_known:
                terms.append(math.log1p(math.exp(-logit if label else logit)))
    loss = image_classification(logits, LABELS, KNOWN)
    assert loss.item() == pytest.approx(sum(terms) / 9, rel=1e-9)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal(gradient != 0, KNOWN)


def test_all_known_is_the_plain_loss_to_the_last_digit(logits):
    logits = logits.float()
    expected = F.multilabel_soft_margin_loss(logits, LABELS)
    assert torch.equal(image_classification(logits, LABELS), expected)
    assert torch.equal(image_classification(logits, LABELS, torch.ones_like(KNOWN)), expected)


def test_nothing_known_is_zero(logits):
    loss = image_classification(logits, LABELS, torch.zeros_like(KNOWN))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss == 0 and not gradient.any()
