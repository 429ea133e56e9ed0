# SPDX-License-Identifier: Apache-2.0
"""The losses against published figures, loops, and finite differences."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import NoCopies, in_two_processes
from torch._subclasses.fake_tensor import FakeTensorMode

from codeseg.losses import (
    area_prior,
    feature_contrast,
    info_nce,
    noun_agreement,
    pool,
    total_variation,
    word_classification,
)

LOG_SCALE = math.log(1 / 0.07)


def rand(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def unit(rows):
    return rows / rows.norm(dim=-1, keepdim=True)


def cross_entropy(logits, target):
    return math.log(sum(math.exp(float(x)) for x in logits)) - float(logits[target])


def test_noun_agreement():
    # F14: 1 minus the mean cosine.
    nouns, prompts = unit(rand(4, 6)), unit(rand(4, 6, seed=1))
    expected = 1 - sum(float(nouns[m] @ prompts[m]) for m in range(4)) / 4
    assert float(noun_agreement(nouns, prompts)) == pytest.approx(expected)


def test_info_nce_against_the_published_figures(published):
    image, text = published("F2__nce_img", grad=True), published("F2__nce_txt", grad=True)
    log_scale = torch.tensor(LOG_SCALE, requires_grad=True)
    loss = info_nce(image, text, log_scale)
    loss.backward()
    assert loss.item() == pytest.approx(float(published("F2__nce_loss")), abs=1e-5)
    torch.testing.assert_close(image.grad, published("F2__nce_grad_img"), atol=1e-5, rtol=0)
    torch.testing.assert_close(text.grad, published("F2__nce_grad_txt"), atol=1e-5, rtol=0)
    torch.testing.assert_close(log_scale.grad, published("F2__nce_grad_ls"), atol=1e-5, rtol=1e-5)


def test_info_nce_as_a_loop():
    first, second, scale = rand(3, 5), rand(3, 5, seed=1), 14.0
    cosines = unit(first) @ unit(second).T * scale
    expected = sum(cross_entropy(cosines[m], m) + cross_entropy(cosines[:, m], m) for m in range(3))
    loss = info_nce(first, second, torch.tensor(math.log(scale), dtype=torch.float64))
    assert loss.item() == pytest.approx(expected / 6)


def test_feature_contrast_against_the_published_figures(published):
    features, masks = published("F2__feat", grad=True), published("F2__mask", grad=True)
    texts = published("F2__text", grad=True)
    log_scale = torch.tensor(LOG_SCALE, requires_grad=True)
    pooled = pool(features, masks)
    torch.testing.assert_close(pooled, published("F2__pooled"), atol=1e-5, rtol=0)
    loss = feature_contrast(pooled, texts, log_scale)
    loss.backward()
    assert loss.item() == pytest.approx(float(published("F2__loss")), abs=1e-5)
    for leaf, name in ((features, "feat"), (masks, "mask"), (texts, "text")):
        torch.testing.assert_close(leaf.grad, published(f"F2__grad_{name}"), atol=1e-5, rtol=0)
    expected = published("F2__grad_logit_scale")
    torch.testing.assert_close(log_scale.grad, expected, atol=1e-5, rtol=1e-5)


def test_the_scale_is_100_at_most(published):
    log_scale = torch.tensor(5.0, requires_grad=True)
    pooled = pool(published("F2__feat"), published("F2__mask"))
    loss = feature_contrast(pooled, published("F2__text"), log_scale)
    loss.backward()
    assert loss.item() == pytest.approx(float(published("F2__loss_scale5")), abs=1e-4)
    assert float(log_scale.grad) == 0


def test_total_variation_against_the_published_figure(published):
    assert float(total_variation(published("F4__x"))) == pytest.approx(
        float(published("F4__tv")), abs=1e-5
    )


def test_total_variation_as_a_loop():
    maps = rand(2, 3, 4, 5)
    across = [maps[n, c, y, x + 1] - maps[n, c, y, x]
              for n in range(2) for c in range(3) for y in range(4) for x in range(4)]  # fmt: skip
    down = [maps[n, c, y + 1, x] - maps[n, c, y, x]
            for n in range(2) for c in range(3) for y in range(3) for x in range(5)]  # fmt: skip
    expected = sum(abs(float(d)) for d in across) / 96 + sum(abs(float(d)) for d in down) / 90
    assert float(total_variation(maps)) == pytest.approx(expected)


@pytest.mark.parametrize(("prior", "name"), [(0.25, "area025"), (0.0, "area0")])
def test_area_against_the_published_figures(published, prior, name):
    loss = area_prior(published("F4__x").sigmoid().mean(), prior)
    assert loss.item() == pytest.approx(float(published(f"F4__sig_{name}")), abs=1e-5)


def test_word_classification_as_a_loop():
    logits, labels = rand(2, 3, 4), torch.tensor([[0, 1, -1, 2], [-1, -1, 0, 0]])
    weights, total, weight = [0.5, 1, 1], 0.0, 0.0
    for b in range(2):
        for word in range(4):
            label = int(labels[b, word])
            if label >= 0:
                total += weights[label] * cross_entropy(logits[b, :, word], label)
                weight += weights[label]
    assert word_classification(logits, labels).item() == pytest.approx(total / weight)


def test_no_labeled_word():
    logits = rand(2, 3, 4).requires_grad_()
    loss = word_classification(logits, torch.full((2, 4), -1))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


LOSSES = {
    "noun_agreement": (noun_agreement, lambda: (rand(3, 4), rand(3, 4, seed=1))),
    "info_nce": (
        info_nce,
        lambda: (rand(3, 4), rand(3, 4, seed=1), torch.tensor(1.0, dtype=torch.float64)),
    ),
    "feature_contrast": (
        lambda maps, masks, *rest: feature_contrast(pool(maps, masks.sigmoid()), *rest),
        lambda: (
            rand(3, 4, 2, 2),
            rand(3, 3, 2, 2),
            rand(3, 4),
            torch.tensor(1.0, dtype=torch.float64),
        ),  # fmt: skip
    ),
    "total_variation": (total_variation, lambda: (rand(2, 2, 3, 3),)),
    "area": (lambda masks: area_prior(masks.sigmoid().mean(), 0.25), lambda: (rand(2, 1, 3, 3),)),
    "neg_area": (lambda masks: area_prior(masks.sigmoid().mean(), 0.0), lambda: (rand(2, 1, 3),)),
    "word_classification": (
        lambda logits: word_classification(logits, torch.tensor([[0, 1, -1, 2], [-1, 2, 0, 0]])),
        lambda: (rand(2, 3, 4),),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name):
    loss, inputs = LOSSES[name]
    assert torch.autograd.gradcheck(loss, [x.requires_grad_() for x in inputs()])


def test_half_precision_is_not_used():
    image, text = rand(3, 4).half(), rand(3, 4, seed=1).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = info_nce(image, text, torch.tensor(LOG_SCALE))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, info_nce(image.float(), text.float(), torch.tensor(LOG_SCALE)))


def one_process(ranks):
    """The losses of two processes' rows as those of one that has all of them."""
    regions, nouns, maps, masks = (torch.cat(parts) for parts in ranks)
    log_scale = torch.tensor(LOG_SCALE, dtype=torch.float64)
    return (
        info_nce(regions, nouns, log_scale),
        feature_contrast(pool(maps, masks), nouns, log_scale),
        area_prior(masks.mean(), 0.25),
    )


def rank_inputs(rank):
    return (rand(2, 4, seed=rank), rand(2, 4, seed=10 + rank), rand(2, 4, 2, 3, seed=rank),
            rand(2, 4, 2, 3, seed=20 + rank).sigmoid())  # fmt: skip


def published_feature_contrast(rank, pooled, nouns, scale):
    """What the released code computes on one of two processes, with its transposed blocks."""
    own = [rank * 2, rank * 2 + 1]
    total = 0.0
    for m in range(2):
        all_nouns = F.normalize(torch.cat(nouns), dim=-1)
        row = scale * (F.normalize(pooled[rank][m], dim=-1) * all_nouns).sum(-1)
        column = []
        for other in (0, 1):
            for image in range(2):
                # The mask of the noun in the same place of the other process, not of this noun.
                feature = F.normalize(pooled[other][image, other * 2 + m], dim=-1)
                column.append(scale * float(feature @ F.normalize(nouns[rank][m], dim=-1)))
        total += cross_entropy(row, own[m]) + cross_entropy(torch.tensor(column), own[m])
    return total / 4


def losses_of_rank(rank):
    inputs = [x.requires_grad_() for x in rank_inputs(rank)]
    regions, nouns, maps, masks = inputs
    log_scale = torch.tensor(LOG_SCALE, dtype=torch.float64)
    losses = (
        info_nce(regions, nouns, log_scale),
        feature_contrast(pool(maps, masks), nouns, log_scale),
        area_prior(masks.mean(), 0.25),
    )
    labels = torch.tensor([[0, -1, 2], [-1, -1, -1 if rank else 1]])
    words = word_classification(rand(2, 3, 3, seed=rank), labels)
    released = feature_contrast(pool(maps, masks), nouns, log_scale, as_released=True)
    (sum(losses) / 2).backward()
    return {
        "losses": [float(x) for x in losses], "words": float(words), "released": float(released),
        "gradients": [x.grad for x in inputs],
    }  # fmt: skip


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    results = in_two_processes(losses_of_rank, tmp_path)
    ranks = list(zip(rank_inputs(0), rank_inputs(1), strict=True))
    leaves = [[x.requires_grad_() for x in parts] for parts in ranks]
    losses = one_process(leaves)
    sum(losses).backward()
    means = torch.tensor([r["losses"] for r in results]).mean(dim=0)
    torch.testing.assert_close(means, torch.stack(losses).detach().float())
    for rank in (0, 1):
        for parts, gradient in zip(leaves, results[rank]["gradients"], strict=True):
            torch.testing.assert_close(gradient, parts[rank].grad)
    labels = torch.tensor([[0, -1, 2], [-1, -1, 1], [0, -1, 2], [-1, -1, -1]])
    words = word_classification(torch.cat([rand(2, 3, 3, seed=r) for r in (0, 1)]), labels)
    assert [r["words"] for r in results] == pytest.approx([float(words)] * 2)
    with torch.no_grad():
        pooled = [pool(m, k) for m, k in zip(leaves[2], leaves[3], strict=True)]
        for rank in (0, 1):
            expected = published_feature_contrast(rank, pooled, leaves[1], 1 / 0.07)
            assert results[rank]["released"] == pytest.approx(expected)


def test_the_classification_of_words_waits_for_no_gpu():
    with FakeTensorMode(), NoCopies():
        labels = torch.empty(2, 5, dtype=torch.long, device="cuda")
        loss = word_classification(torch.empty(2, 3, 5, device="cuda"), labels)
    assert loss.is_cuda
