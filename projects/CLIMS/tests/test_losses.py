# SPDX-License-Identifier: Apache-2.0
"""The four losses against plain loops, by hand and at the edges."""

import math

import pytest
import torch
from helpers import NoCopies
from torch._subclasses.fake_tensor import FakeTensorMode

from clims.losses import (
    area,
    background_matching,
    background_suppression,
    object_matching,
    related_suppression,
)

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def rows(count, width, seed):
    return torch.randn(
        count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def test_matching_by_hand():
    similarity = torch.tensor([-0.2, 5e-5, 0.25, 0.7, 1.0], dtype=torch.float64).requires_grad_()
    loss = object_matching(similarity)
    assert loss.item() == pytest.approx(4.03275001)
    (gradient,) = torch.autograd.grad(loss, similarity)
    # Nothing outside of 1e-4..0.9999.
    assert gradient.tolist() == pytest.approx([0, 0, -0.8, -0.28571429, 0])
    loss = background_matching(similarity)
    assert loss.item() == pytest.approx(2.14043905)
    (gradient,) = torch.autograd.grad(loss, similarity)
    assert gradient.tolist() == pytest.approx([0, 0, 0.26666667, 0.66666667, 0])


def test_the_camera_ready_variant_weighs_pairs_and_clamps_less():
    similarity = torch.tensor([0.99995, 0.5, 2e-4], dtype=torch.float64)
    weights = torch.tensor([1.0, 3.0, 1.0], dtype=torch.float64)
    expected = -(math.log(0.99995) + 3 * math.log(0.5) + math.log(2e-4)) / 3
    assert object_matching(similarity, weights, clamp=False).item() == pytest.approx(expected)
    similarity = torch.tensor([-0.5, 0.5, -1.0], dtype=torch.float64)
    expected = -(math.log(1.5) + 3 * math.log(0.5) + math.log(2)) / 3
    assert background_matching(similarity, weights, clamp=False).item() == pytest.approx(expected)
    # Where the published code has NaN or infinity.
    for loss, value in ((object_matching, -0.3), (object_matching, 0.0), (background_matching, 1)):
        assert loss(torch.tensor([float(value)]), clamp=False).isfinite()


@pytest.mark.parametrize("threshold", [0.0, 0.26, 0.5, 1.0])
def test_suppression_is_a_plain_sum_over_the_pairs_above_the_threshold(threshold):
    images, texts = rows(5, 6, 0), rows(4, 6, 1)
    expected, active = 0.0, 0
    for image in images:
        for text in texts:
            cosine = (image @ text / image.norm() / text.norm()).item()
            if cosine > threshold:
                active += 1
                expected -= math.log(1 - cosine)
    assert active > 2 or threshold >= 0.5
    loss = background_suppression(images, texts, threshold)
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    # Neither a mean over the pairs nor over the phrases, and without regard for lengths.
    twice = background_suppression(
        torch.cat([images, 3 * images]), torch.cat([texts] * 2), threshold
    )
    assert twice.item() == pytest.approx(4 * expected, abs=1e-12)


def test_a_cosine_at_the_threshold_contributes_nothing():
    image = torch.tensor([[0.6, 0.8]], dtype=torch.float64).requires_grad_()
    text = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    threshold = (image @ text.T).item()
    loss = background_suppression(image, text, threshold)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, image)[0].count_nonzero() == 0
    assert background_suppression(image, text, threshold - 1e-9).item() > 0.9


def test_no_active_pair_means_no_loss_and_no_gradient():
    """Case 4 of the published figures: all cosines are below 0.26."""
    images, text = rows(2, 6, 0).requires_grad_(), rows(4, 6, 1)
    text -= 2 * text.clamp(min=0)
    images.data.abs_()
    assert torch.cosine_similarity(images[:, None], text[None], dim=2).max() < 0.26
    loss = background_suppression(images, text, 0.26)
    (gradient,) = torch.autograd.grad(loss, images)
    assert loss.item() == 0 and not gradient.any() and gradient.isfinite().all()


def test_suppression_by_related_phrases():
    images, texts = rows(4, 6, 2), rows(5, 6, 3)
    related = torch.tensor(
        [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]], dtype=torch.bool
    )
    expected = 0.0
    for image, chosen in zip(images, related, strict=True):
        if chosen.any():
            cosines = torch.cosine_similarity(image[None], texts[chosen])
            expected += (-(1 - cosines).log()).mean()
    assert related_suppression(images, texts, related).item() == pytest.approx(expected.item())


def test_area_counts_all_classes():
    maps = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    total = sum(value for value in maps.flatten().tolist())
    assert area(maps).item() == pytest.approx(total / (2 * 3 * 4 * 5))


def test_gradients():
    similarity = torch.tensor([0.1, 0.3, 0.8], dtype=torch.float64).requires_grad_()
    weights = torch.tensor([1.0, 3.0, 1.0], dtype=torch.float64)
    for loss in (object_matching, background_matching):
        assert torch.autograd.gradcheck(loss, similarity)
        assert torch.autograd.gradcheck(lambda s, f=loss: f(s, weights, False), similarity)
    images, texts = rows(3, 5, 4).requires_grad_(), rows(4, 5, 5).requires_grad_()
    related = torch.rand(3, 4) > 0.5
    for threshold in (-0.5, 0.1, 0.4):
        assert torch.autograd.gradcheck(background_suppression, (images, texts, threshold))
    assert torch.autograd.gradcheck(
        lambda a, b: related_suppression(a, b, related), (images, texts)
    )
    maps = torch.rand(2, 3, 4, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(area, maps)


def test_without_pairs_the_losses_are_zero_and_keep_their_graph():
    empty, features = torch.zeros(0).requires_grad_(), torch.zeros(0, 6).requires_grad_()
    related = torch.zeros(0, 4, dtype=torch.bool)
    losses = [object_matching(empty), background_matching(empty)]
    losses += [background_suppression(features, torch.ones(4, 6), 0.2)]
    losses += [related_suppression(features, torch.ones(4, 6), related)]
    assert all(loss.item() == 0 and loss.requires_grad for loss in losses)


@pytest.mark.parametrize("length", [1e-3, 1.0, 50.0])
def test_an_image_that_equals_a_phrase_stays_finite(length):
    """Rounding makes some of these cosines exactly 1, and some larger."""
    texts = rows(200, 64, 6).float()
    images = (length * texts).requires_grad_()
    loss = background_suppression(images, texts, 0.26)
    assert loss.isfinite() and loss > 200 * 10
    assert torch.autograd.grad(loss, images)[0].isfinite().all()


def test_images_and_phrases_of_two_types():
    images, texts = rows(3, 6, 0), rows(4, 6, 1)
    expected = background_suppression(images, texts.float().double(), 0.26)
    found = background_suppression(images, texts.float(), 0.26)
    assert found.dtype == torch.float64 and found == expected > 0
    assert background_suppression(images.half(), texts.float(), 0.26).dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES)
def test_never_below_single_precision(dtype):
    """In half precision 0.9999 is 1, whose logarithm the background loss would take."""
    ones, features = torch.ones(3, dtype=dtype), rows(3, 6, 0).to(dtype)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    for autocast in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            losses = [object_matching(ones), background_matching(ones), area(ones.view(1, 1, 1, 3))]
            losses += [background_suppression(features, features.flip(0), 0.26)]
        assert all(loss.dtype == expected and loss.isfinite() for loss in losses)


def test_a_gpu_is_not_waited_for():
    with FakeTensorMode(), NoCopies():
        similarity = torch.empty(3, device="cuda")
        losses = object_matching(similarity), background_matching(similarity)
    assert all(loss.is_cuda for loss in losses)
