# SPDX-License-Identifier: Apache-2.0
"""Class-token contrast against plain loops, its head, its teacher."""

import math

import pytest
import torch

from dalnet_toco.class_token_contrast import (
    ClassTokenContrast,
    ProjectionHead,
    class_token_contrast,
)

TEMPERATURE = 0.5


def plain_contrast(targets, views, positive):
    images = []
    for teacher, student, flags in zip(
        targets.tolist(), views.tolist(), positive.tolist(), strict=True
    ):
        total = 0.0
        for t in teacher:
            e = [
                math.exp(sum(a * b for a, b in zip(t, s, strict=True)) / TEMPERATURE)
                for s in student
            ]
            rest = sum(value for value, shows in zip(e, flags, strict=True) if not shows)
            for value, shows in zip(e, flags, strict=True):
                if shows:
                    total -= math.log(value / (value + rest + 1e-4))
            total -= math.log(1 / (1 + rest + 1e-4))
        images.append(total / len(teacher) / (sum(flags) + 1e-4))
    return sum(images) / len(images)


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(3)
    targets = torch.randn(4, 2, 5, generator=rng, dtype=torch.float64)
    views = torch.randn(4, 6, 5, generator=rng, dtype=torch.float64)
    # Mixed, all positive, and none but the first two.
    positive = torch.tensor([[1, 1, 0, 1, 0, 0], [1] * 6, [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 1, 0]])
    return targets, views, positive.bool()


def test_loss_is_the_plain_sum(batch):
    assert class_token_contrast(*batch).item() == pytest.approx(plain_contrast(*batch), rel=1e-12)


def test_gradient(batch):
    targets, views, positive = batch
    views.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: class_token_contrast(targets, v, positive), views)


def test_order_of_images_and_views_does_not_matter(batch):
    targets, views, positive = batch
    expected = class_token_contrast(*batch).item()
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    for changed in (
        (targets.flip(0), views.flip(0), positive.flip(0)),
        (targets.flip(1), views[:, order], positive[:, order]),
    ):
        assert class_token_contrast(*changed).item() == pytest.approx(expected, rel=1e-12)


def test_images_without_weight_have_no_part(batch):
    targets, views, positive = batch
    expected = class_token_contrast(targets[:1], views[:1], positive[:1])
    weights = torch.zeros(len(targets))
    assert class_token_contrast(*batch, sample_weight=weights) == 0
    weights[0] = 1
    torch.testing.assert_close(class_token_contrast(*batch, sample_weight=weights), expected)


@pytest.mark.parametrize("scale", [0.0, 30.0])
@pytest.mark.parametrize("shows", [True, False])
def test_extreme_projections_stay_finite(scale, shows):
    # exp(30 * 30 * 5 / 0.5) is far beyond float32.
    targets = torch.full((1, 2, 5), scale)
    views = torch.full((1, 4, 5), scale, requires_grad=True)
    loss = class_token_contrast(targets, views, torch.full((1, 4), shows))
    loss.backward()
    assert loss.isfinite() and views.grad.isfinite().all()
    empty = class_token_contrast(targets[:0], views[:0], torch.ones(0, 4, dtype=torch.bool))
    assert empty == 0


def test_float32_under_autocast(batch):
    targets, views, positive = (x.float() if x.is_floating_point() else x for x in batch)
    expected = class_token_contrast(targets, views, positive)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(class_token_contrast(targets, views, positive), expected)


def test_head_gives_cosines_with_rows_of_length_one():
    torch.manual_seed(0)
    head = ProjectionHead(6, 16, 8, 10)
    assert all(not m.bias.any() for m in head.mlp if hasattr(m, "bias"))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    tokens = torch.randn(3, 6)
    out = head(tokens)
    bottleneck = head.mlp(tokens)
    expected = torch.cosine_similarity(bottleneck[:, None], head.rows[None], dim=2)
    torch.testing.assert_close(out, expected)


def test_teacher_follows_the_student_and_learns_nothing():
    torch.manual_seed(0)
    contrast = ClassTokenContrast(ProjectionHead(6, 16, 8, 10), 0.9)
    start = [p.clone() for p in contrast.teacher.parameters()]
    with torch.no_grad():
        for parameter in contrast.student.parameters():
            parameter.add_(1.0)
    tokens = torch.randn(2, 5, 6, requires_grad=True)
    targets, views = contrast(tokens[:, :2], tokens[:, 2:])
    # Before use: this step's targets are already the moved teacher's.
    for parameter, before in zip(contrast.teacher.parameters(), start, strict=True):
        torch.testing.assert_close(parameter, before + 0.1)
    torch.testing.assert_close(targets, contrast.teacher(tokens[:, :2]))
    torch.testing.assert_close(views, contrast.student(tokens))
    positive = torch.tensor([[True, True, True, False, False], [True, True, False, True, True]])
    class_token_contrast(targets, views, positive, TEMPERATURE).backward()
    assert all(p.grad is None and not p.requires_grad for p in contrast.teacher.parameters())
    assert all(p.grad.any() for p in contrast.student.parameters())
    assert tokens.grad.any()
