# SPDX-License-Identifier: Apache-2.0
"""Masks of regions and words against the published figures and finite differences."""

import pytest
import torch

from codeseg.losses import word_classification
from codeseg.masks import (
    Affine,
    hard_masks,
    highlight,
    region_cosines,
    word_logits,
    word_masks,
)


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_region_masks(published):
    features, texts = published("F1__feat", grad=True), published("F1__text", grad=True)
    affine = Affine(10, -2.5)
    logits = affine(region_cosines(features, texts))
    soft = logits.sigmoid()
    own = torch.arange(3)
    hard = hard_masks(logits[own, own], published("F1__uniform")[own, own])[:, None]
    close(soft, published("F1__soft_all"))
    close(soft[own, own][:, None], published("F1__soft_pos"))
    close(hard, published("F1__pos"))
    (hard * published("F1__K")).sum().backward()
    close(features.grad, published("F1__grad_feat"))
    close(texts.grad, published("F1__grad_text"))
    close(affine.w.grad, published("F1__grad_w"))
    close(affine.b.grad, published("F1__grad_b"))


def test_a_pixel_is_drawn_with_the_probability_of_its_logit():
    torch.manual_seed(0)
    logits = torch.full((20000,), 0.7)
    share = hard_masks(logits, torch.rand(20000)).mean()
    assert float(share) == pytest.approx(float(logits[0].sigmoid()), abs=0.02)


def test_extreme_draws_have_finite_gradients():
    logits = torch.zeros(2, requires_grad=True)
    masks = hard_masks(logits, torch.tensor([0.0, 1 - 2**-24]))
    masks.sum().backward()
    assert masks.tolist() == [0, 1]
    assert logits.grad.isfinite().all()


def test_words(published):
    nouns = published("F6__noun", grad=True)
    words = published("F6__dense").transpose(0, 1)[:2]  # [B, L, d]; the same for both nouns
    affine = Affine(10, 0)
    logits = word_logits(words, nouns.view(2, 2, -1), affine)
    close(logits, published("F6__logits"))
    close(logits.softmax(dim=1)[:, 1:].transpose(0, 1).flatten(0, 1), published("F6__prob"))
    labels = published("F6__label")
    loss = word_classification(logits, labels)
    assert loss.item() == pytest.approx(float(published("F6__tseg")), abs=1e-5)
    loss.backward()
    close(nouns.grad, published("F6__grad_noun"))
    close(affine.w.grad, published("F6__grad_w"))
    close(affine.b.grad, published("F6__grad_b"))
    masks = word_masks(logits, published("F6__eos")[:2])
    close(masks.flatten(0, 1), published("F6__hmask"))
    tokens = published("F6__tokens").transpose(0, 1)  # [M, L, d]
    prompt = published("F6__bg").transpose(0, 1)
    highlighted = highlight(masks.flatten(0, 1)[..., None], tokens, prompt)
    close(highlighted.transpose(0, 1), published("F6__highlighted"))


def test_gradients():
    torch.manual_seed(0)
    affine = Affine(10, -2.5).double()
    features, nouns = torch.randn(2, 4, 2, 2).double(), torch.randn(3, 4).double()
    words, few = torch.randn(2, 5, 4).double(), torch.randn(2, 2, 4).double()

    def regions(features, nouns, w, b):
        return (w * region_cosines(features, nouns) + b).sigmoid()

    def word_probabilities(words, nouns):
        return word_masks(word_logits(words, nouns, affine), torch.tensor([3, 4]))

    inputs = (features, nouns, affine.w.detach(), affine.b.detach())
    assert torch.autograd.gradcheck(regions, [x.requires_grad_() for x in inputs])
    assert torch.autograd.gradcheck(
        word_probabilities, [words.requires_grad_(), few.requires_grad_()]
    )


def test_image_highlighting():
    # F14: where the mask is 0, the image is the prompt.
    image, prompt = torch.rand(2, 3, 4, 4), torch.rand(1, 3, 4, 4)
    mask = torch.zeros(2, 1, 4, 4)
    mask[1, :, :2] = 1
    result = highlight(mask, image, prompt)
    assert torch.equal(result[0], prompt[0])
    assert torch.equal(result[1, :, :2], image[1, :, :2])
    assert torch.equal(result[1, :, 2:], prompt[0, :, 2:])
