# SPDX-License-Identifier: Apache-2.0
"""Alignment losses against literal transcriptions of the paper's equations."""

import math

import pytest
import torch

from dalnet.modeling.heads import AlignmentProjections
from dalnet.modeling.losses import (
    global_implicit_alignment,
    local_explicit_alignment,
    text_similarity,
)

N, P, C, D = 3, 5, 4, 6


@pytest.fixture
def batch():
    """Float64 class tokens, patch tokens, mask, texts and labels; the last image has no class."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    labels = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.float64)
    mask = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.float64)
    return {
        "cls": normal(N, D),
        "patch": normal(N, P, D),
        "mask": mask,
        "fg": normal(C, D),
        "bg": normal(1, D),
        "labels": labels,
    }


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    length = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
    return dot / length if length else 0.0


def log_argument(similarity, mode):
    return (1 + similarity) / 2 if mode == "affine" else min(max(similarity, 1e-4), 1 - 1e-4)


def plain_gia(b, cross, mode):
    cls, fg, bg, labels = (b[k].tolist() for k in ("cls", "fg", "bg", "labels"))
    total = 0.0
    for n in range(N):
        for c in range(C):
            if labels[n][c]:
                total -= math.log(log_argument(cosine(cls[n], fg[c]), mode))
        if cross:
            total -= math.log(1 - log_argument(cosine(cls[n], bg[0]), mode))
    return total / N


def plain_lea(b, cross, tau, weight, normalize, mode):
    fg, bg, labels = (b[k].tolist() for k in ("fg", "bg", "labels"))
    total = 0.0
    for n in range(N):
        image_fg = image_bg = 0.0
        object_patches = int(b["mask"][n].sum())
        for i in range(P):
            mask = b["mask"][n, i].item()
            v_fg = (b["patch"][n, i] * mask).tolist()
            v_bg = (b["patch"][n, i] * (1 - mask)).tolist()
            pos_fg = sum(cosine(v_fg, fg[c]) for c in range(C) if labels[n][c])
            neg_bg = sum(cosine(v_bg, fg[c]) for c in range(C) if labels[n][c])
            neg_fg, pos_bg = cosine(v_fg, bg[0]), cosine(v_bg, bg[0])
            if not cross:
                image_fg -= mask * math.log(log_argument(pos_fg, mode))
                continue
            p_fg = math.exp(pos_fg / tau) / (math.exp(pos_fg / tau) + math.exp(neg_fg / tau))
            p_bg = math.exp(pos_bg / tau) / (math.exp(pos_bg / tau) + math.exp(neg_bg / tau))
            if mask or normalize == "all":
                image_fg -= math.log(p_fg)
            if not mask or normalize == "all":
                image_bg -= math.log(p_bg)
        if normalize == "all":
            image_fg, image_bg = image_fg / P, image_bg / P
        else:
            image_fg = image_fg / max(object_patches, 1)
            image_bg = image_bg / max(P - object_patches, 1)
        total += image_fg + weight * image_bg
    return total / N


def gia(b, **kwargs):
    return global_implicit_alignment(b["cls"], b["fg"], b["bg"], b["labels"], **kwargs)


def lea(b, **kwargs):
    return local_explicit_alignment(b["patch"], b["mask"], b["fg"], b["bg"], b["labels"], **kwargs)


@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("mode", ["affine", "clamp"])
def test_gia_is_equation_3(batch, cross, mode):
    loss = gia(batch, cross=cross, similarity=mode)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(plain_gia(batch, cross, mode), rel=1e-12)


@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("normalize", ["all", "region"])
@pytest.mark.parametrize(("tau", "weight"), [(1.0, 0.001), (0.3, 0.7)])
@pytest.mark.parametrize("mode", ["affine", "clamp"])
def test_lea_is_equations_2_and_4_to_6(batch, cross, normalize, tau, weight, mode):
    loss = lea(
        batch,
        cross=cross,
        temperature=tau,
        bg_weight=weight,
        normalize=normalize,
        similarity=mode,
    )
    expected = plain_lea(batch, cross, tau, weight, normalize, mode)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_defaults_are_the_papers(batch):
    assert lea(batch).item() == pytest.approx(plain_lea(batch, True, 1.0, 0.001, "all", "affine"))
    assert gia(batch).item() == pytest.approx(plain_gia(batch, True, "affine"))


@pytest.mark.parametrize("cross", [True, False])
def test_gradients(batch, cross):
    inputs = [batch[k].requires_grad_() for k in ("cls", "patch", "fg", "bg")]

    def total(cls, patch, fg, bg):
        b = {**batch, "cls": cls, "patch": patch, "fg": fg, "bg": bg}
        return gia(b, cross=cross) + lea(b, cross=cross, bg_weight=0.5)

    assert torch.autograd.gradcheck(total, inputs)


def test_mask_may_be_boolean(batch):
    expected = lea(batch)
    batch["mask"] = batch["mask"] > 0
    assert lea(batch) == expected


def test_masked_out_patch_adds_log_2_and_no_gradient(batch):
    batch["mask"].zero_()
    patch = batch["patch"].requires_grad_()
    loss = lea(batch, bg_weight=0.0)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert not patch.grad.any()


def test_region_mean_of_an_empty_region_is_zero(batch):
    batch["mask"].zero_()
    assert lea(batch, bg_weight=0.0, normalize="region").item() == 0
    batch["mask"].fill_(1)
    with_background = lea(batch, bg_weight=5.0, normalize="region")
    assert with_background == lea(batch, bg_weight=0.0, normalize="region")


@pytest.mark.parametrize("mode", ["affine", "clamp"])
@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("kind", ["zero", "opposite", "background", "tiny"])
def test_extreme_tokens_stay_finite(batch, mode, cross, kind):
    text = {k: batch[k].float() for k in ("fg", "bg")}
    token = {
        "zero": torch.zeros(D),
        "opposite": -text["fg"][3],
        "background": text["bg"][0],
        "tiny": torch.full((D,), 1e-20),
    }[kind]
    cls, patch = token.repeat(N, 1).requires_grad_(), token.repeat(N, P, 1).requires_grad_()
    b = {**batch, **text, "cls": cls, "patch": patch}
    loss = gia(b, cross=cross, similarity=mode) + lea(b, cross=cross, similarity=mode)
    loss.backward()
    assert loss.isfinite()
    for gradient in (cls.grad, patch.grad):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e3
        if kind in ("zero", "tiny"):
            assert not gradient.any()


@pytest.mark.parametrize("cross", [True, False])
def test_no_view_gives_a_differentiable_zero(batch, cross):
    for key in ("cls", "patch", "mask", "labels"):
        batch[key] = batch[key][:0]
    inputs = [batch["cls"].requires_grad_(), batch["fg"].requires_grad_()]
    loss = gia(batch, cross=cross) + lea(batch, cross=cross)
    loss.backward()
    assert loss.item() == 0
    assert all(not x.grad.any() for x in inputs)


def test_batch_order_and_composition(batch):
    order = torch.tensor([2, 0, 1])
    shuffled = {k: v if k in ("fg", "bg") else v[order] for k, v in batch.items()}
    for loss in (gia, lea):
        assert loss(shuffled).item() == pytest.approx(loss(batch).item(), rel=1e-12)
        single = [
            loss({k: v if k in ("fg", "bg") else v[n : n + 1] for k, v in batch.items()})
            for n in range(N)
        ]
        assert loss(batch).item() == pytest.approx(sum(single).item() / N, rel=1e-12)


def test_float32_under_autocast(batch):
    b = {k: v.float() for k, v in batch.items()}
    expected = gia(b) + lea(b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = gia(b) + lea(b)
    assert loss.dtype == torch.float32
    assert loss == expected
    half = {k: v.bfloat16() for k, v in b.items()}
    assert gia(half).dtype == lea(half).dtype == torch.float32


def test_unknown_settings_are_refused(batch):
    with pytest.raises(ValueError, match="similarity"):
        gia(batch, similarity="cosine")
    with pytest.raises(ValueError, match="normalize"):
        lea(batch, normalize="none")


@pytest.mark.parametrize("kind", ["orthogonal", "linear"])
def test_projections_share_a_space(kind):
    projections = AlignmentProjections(7, 9, D, kind)
    assert projections.visual(torch.zeros(2, 3, 7)).shape == (2, 3, D)
    assert projections.text(torch.zeros(C, 9)).shape == (C, D)
    assert projections.text.weight.requires_grad == (kind == "linear")


@pytest.mark.parametrize("dim", [9, 12])
def test_an_orthogonal_projection_keeps_the_angles_between_texts(dim):
    texts = torch.eye(9)
    projected = AlignmentProjections(7, 9, dim).text(texts)
    torch.testing.assert_close(projected @ projected.T, texts, rtol=0, atol=1e-5)


def test_an_unknown_projection_is_refused():
    with pytest.raises(ValueError, match="text_projection 'mlp'"):
        AlignmentProjections(7, 9, D, "mlp")


def test_text_similarity_is_the_cosine_of_every_token_with_every_text(batch):
    batch["patch"][1, 2] = 0.0
    texts = torch.cat([batch["fg"], batch["bg"]])
    similarity = text_similarity(batch["patch"], texts)
    assert similarity.shape == (N, C + 1, P)
    assert similarity.dtype == torch.float64
    for n in range(N):
        for k in range(C + 1):
            for i in range(P):
                expected = cosine(batch["patch"][n, i].tolist(), texts[k].tolist())
                assert similarity[n, k, i].item() == pytest.approx(expected, abs=1e-12)


def test_text_similarity_of_half_precision_is_float32(batch):
    similarity = text_similarity(batch["patch"].half(), batch["fg"].half())
    assert similarity.dtype == torch.float32
