# SPDX-License-Identifier: Apache-2.0
"""Figures of the published code, from a file of arrays that is not part of the repository.

CLIMS_CASES names the file, an ``.npz`` of ``case<N>_<tensor>``.
"""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clims.losses import (
    area,
    background_matching,
    background_suppression,
    object_matching,
    related_suppression,
)
from clims.masking import masked_images

CASES = os.environ.get("CLIMS_CASES", "")
pytestmark = pytest.mark.skipif(not os.path.isfile(CASES), reason="CLIMS_CASES names no file")
same = pytest.approx


def read(number):
    prefix = f"case{number}_"
    with np.load(CASES) as arrays:
        values = {k.removeprefix(prefix): arrays[k] for k in arrays if k.startswith(prefix)}
    return SimpleNamespace(**{key: torch.from_numpy(value) for key, value in values.items()})


def test_clamped_logarithms():
    case = read(1)
    for loss, name in ((object_matching, "otm"), (background_matching, "btm")):
        similarity = case.sim.flatten().requires_grad_()
        value = loss(similarity)
        assert value.item() == same(getattr(case, name).item(), abs=1e-8)
        (gradient,) = torch.autograd.grad(value, similarity)
        torch.testing.assert_close(gradient, getattr(case, f"{name}_grad").flatten())


@pytest.mark.parametrize(("threshold", "name"), [(0.26, "thr026"), (0.285, "thr0285")])
def test_thresholded_suppression(threshold, name):
    case = read(3)
    images = case.image_feat.requires_grad_()
    loss = background_suppression(images, case.text_feat, threshold)
    assert loss.item() == same(getattr(case, f"loss_{name}").item(), abs=1e-8)
    (gradient,) = torch.autograd.grad(loss, images)
    torch.testing.assert_close(gradient, getattr(case, f"grad_{name}"))


def test_masked_images():
    case = read(5)
    foreground, background, (_, classes) = masked_images(case.image, case.cam, case.labels, 8)
    torch.testing.assert_close(foreground, case.fg)
    torch.testing.assert_close(background, case.bg)
    assert torch.equal(F.one_hot(classes, 3), case.onehot)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("weights", "threshold", "suppression", "total"),
    [
        ((10, 24, 1, 0.2), 0.26, 1.96832558, 22.4540936),
        ((2, 14, 1.25, 0.2), 0.285, 1.64761717, 8.76372142),
    ],
)
def test_a_whole_step(weights, threshold, suppression, total, dtype):
    case = read(6)
    logits = case.logits.to(dtype).requires_grad_()
    maps = logits.sigmoid()
    foreground, background, (_, classes) = masked_images(case.image.to(dtype), maps, case.labels, 8)
    kernel, bias = case.W_img.to(dtype), case.b_img.to(dtype)
    features, rest = (x.flatten(1) @ kernel + bias for x in (foreground, background))
    texts = case.text_fg.to(dtype)[classes]
    similarity = F.cosine_similarity(features, texts)
    losses = (
        object_matching(similarity),
        background_matching(F.cosine_similarity(rest, texts)),
        background_suppression(features, case.text_bg.to(dtype), threshold),
        area(maps),
    )
    tolerance = {"abs": 1e-8} if dtype == torch.float64 else {"rel": 1e-5}
    expected = (case.L_OTM.item(), case.L_BTM.item(), suppression, case.L_REG.item())
    assert [loss.item() for loss in losses] == same(list(expected), **tolerance)
    loss = sum(weight * one for weight, one in zip(weights, losses, strict=True))
    assert loss.item() == same(total, **tolerance)
    (gradient,) = torch.autograd.grad(loss, logits)
    if threshold == 0.26:
        torch.testing.assert_close(
            gradient,
            case.grad_logits.to(dtype),
            rtol=1e-4 if dtype == torch.float32 else 1e-9,
            atol=1e-6,
        )


def test_the_camera_ready_losses():
    case = read(8)
    similarity, weights = case.sim.flatten(), case.weights.flatten()
    assert object_matching(similarity, weights, False).item() == same(case.otm.item())
    assert background_matching(similarity, weights, False).item() == same(case.btm.item())
    texts = torch.cat([case.text_bg_boat, case.text_bg_train])
    boat, train = case.class_index == 3, case.class_index == 18
    related = torch.stack([boat] * 5 + [train] * 4, dim=1)
    images = case.image_feat.requires_grad_()
    loss = related_suppression(images, texts, related)
    assert loss.item() == same(case.cbs.item())
    torch.testing.assert_close(torch.autograd.grad(loss, images)[0], case.cbs_grad)
