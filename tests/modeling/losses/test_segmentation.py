# SPDX-License-Identifier: Apache-2.0
"""Balanced cross-entropy and dense energy against brute force."""

import math

import pytest
import torch

from dalnet.layers import bilateral_filter
from dalnet.modeling.losses import balanced_cross_entropy, dense_energy, patch_token_contrast

IGNORE = 255


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(11)


def plain_cross_entropy(logits, labels):
    values = {True: [], False: []}
    for n, y, x in torch.cartesian_prod(*map(torch.arange, labels.shape)).tolist():
        label = labels[n, y, x].item()
        if label != IGNORE:
            scores = logits[n, :, y, x].tolist()
            log_sum = math.log(sum(math.exp(s) for s in scores))
            values[label == 0].append(log_sum - scores[label])
    means = [sum(v) / len(v) if v else 0.0 for v in values.values()]
    return sum(means) / 2


CROSS_ENTROPY_LABELS = {
    "mixed": [[[0, 0, 0], [1, 2, IGNORE]], [[0, 1, 0], [0, 0, IGNORE]]],
    "background only": [[[0, 0, 0], [0, 0, IGNORE]]] * 2,
    "foreground only": [[[1, 1, 2], [2, 2, IGNORE]]] * 2,
    "ignored": [[[IGNORE] * 3] * 2] * 2,
}


@pytest.mark.parametrize("kind", CROSS_ENTROPY_LABELS)
def test_cross_entropy_is_the_mean_of_two_means(kind):
    labels = torch.tensor(CROSS_ENTROPY_LABELS[kind])
    logits = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    loss = balanced_cross_entropy(logits, labels)
    assert loss.item() == pytest.approx(plain_cross_entropy(logits, labels), rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: balanced_cross_entropy(x, labels), logits)
    loss.backward()
    assert not logits.grad[(labels == IGNORE)[:, None].expand_as(logits)].any()


def kernel(image, sigma_rgb, sigma_xy):
    """Gaussian affinities [HW, HW] of one image [3, H, W], pair by pair."""
    height, width = image.shape[-2:]
    points = [(y, x) for y in range(height) for x in range(width)]
    result = torch.empty(len(points), len(points), dtype=torch.float64)
    for i, (y, x) in enumerate(points):
        for j, (v, u) in enumerate(points):
            distance = ((y - v) ** 2 + (x - u) ** 2) / sigma_xy**2
            color = (image[:, y, x] - image[:, v, u]).square().sum().item() / sigma_rgb**2
            result[i, j] = math.exp(-(distance + color) / 2)
    return result


def plain_energy(images, probs, boxes, labels, sigma_rgb, sigma_xy, shrink):
    """Value and gradient with respect to the shrunk scores; sides are multiples of ``shrink``."""
    n, k, height, width = probs.shape
    blocks = probs.view(n, k, height // shrink, shrink, width // shrink, shrink)
    small, gradients, value = blocks.mean(dim=(3, 5)), [], 0.0
    for i in range(n):
        inside = torch.zeros(height, width, dtype=torch.float64)
        y0, y1, x0, x1 = boxes[i].tolist()
        inside[y0:y1, x0:x1] = 1
        inside = inside[::shrink, ::shrink].flatten()
        scores = small[i].flatten(1)
        gate = (inside - scores.max(dim=0).values).clamp(min=0)
        gate[(labels[i, ::shrink, ::shrink] == IGNORE).flatten()] = 1
        scores = scores * inside
        affinity = kernel(images[i, :, ::shrink, ::shrink], sigma_rgb, sigma_xy / shrink)
        value -= 1e-7 / n * (gate * scores * (scores @ affinity)).sum().item()
        slope = gate * (scores @ affinity) + (gate * scores) @ affinity
        gradients.append((-1e-7 / n * inside * slope).view_as(small[i]))
    return value, torch.stack(gradients)


@pytest.fixture
def scene():
    """Images, scores, boxes and labels; the second image is padded left and below."""
    images = torch.rand(2, 3, 6, 8, dtype=torch.float64) * 60 + 100
    probs = torch.randn(2, 3, 6, 8, dtype=torch.float64).mul(2).softmax(dim=1)
    boxes = torch.tensor([[0, 6, 0, 8], [0, 4, 2, 8]])
    labels = torch.randint(0, 3, (2, 6, 8))
    labels[:, :, 3:5] = IGNORE
    labels[1, 4:] = labels[1, :, :2] = IGNORE
    return images, probs, boxes, labels


@pytest.mark.parametrize("shrink", [1, 2])
def test_energy_is_the_plain_sum(scene, shrink):
    images, probs, boxes, labels = scene
    probs.requires_grad_()
    loss = dense_energy(images, probs, boxes, labels, 15, 10, 1 / shrink, method="exact")
    value, gradient = plain_energy(images, probs.detach(), boxes, labels, 15, 10, shrink)
    assert loss.item() == pytest.approx(value, rel=1e-9)
    loss.backward()
    # Each pixel holds an equal share of its block's mean.
    spread = gradient.repeat_interleave(shrink, 2).repeat_interleave(shrink, 3) / shrink**2
    torch.testing.assert_close(probs.grad, spread, rtol=1e-9, atol=1e-20)


def test_energy_gradient_where_the_gate_is_constant(scene):
    images, probs, boxes, labels = scene
    labels = torch.full_like(labels, IGNORE)

    def scaled(p):
        return 1e7 * dense_energy(images, p, boxes, labels, method="exact")

    assert torch.autograd.gradcheck(scaled, probs.requires_grad_())


def test_lattice_is_the_default_and_keeps_the_formula(scene):
    images, probs, boxes, labels = scene
    boxes[1] = boxes[0]
    labels = torch.full_like(labels, IGNORE)
    loss = dense_energy(images, probs, boxes, labels, 15, 10, scale=1.0)
    filtered = bilateral_filter(images, probs, 15, 10, method="lattice")
    assert loss.item() == pytest.approx(-1e-7 / 2 * (probs * filtered).sum().item(), rel=1e-9)


@pytest.mark.parametrize("method", ["lattice", "exact"])
def test_a_batch_without_images_has_no_energy(scene, method):
    images, probs, boxes, labels = (x[:0] for x in scene)
    probs.requires_grad_()
    loss = dense_energy(images, probs, boxes, labels, method=method)
    loss.backward()
    assert loss.item() == 0 and probs.grad.shape == probs.shape


@pytest.mark.parametrize("method", ["lattice", "exact"])
def test_energy_does_not_depend_on_batch_or_padding(scene, method):
    images, probs, boxes, labels = scene
    together = dense_energy(images, probs, boxes, labels, method=method).item()
    single = [dense_energy(*(x[i : i + 1] for x in scene), method=method).item() for i in range(2)]
    assert together == pytest.approx(sum(single) / 2, rel=1e-6)
    probs[1, :, 4:] = probs[1, :, :, :2] = 1 / 3
    if method == "exact":  # the lattice blurs along whatever vertices the picture creates
        images[1, :, 4:] = 0
    assert dense_energy(images, probs, boxes, labels, method=method).item() == pytest.approx(
        together, rel=1e-6
    )


@pytest.mark.parametrize("method", ["lattice", "exact"])
@pytest.mark.parametrize("kind", ["ignored", "labeled", "no box", "one pixel", "odd", "certain"])
def test_energy_stays_finite(scene, method, kind):
    images, probs, boxes, labels = scene
    images, probs = images.float(), probs.float()
    if kind == "ignored":
        labels.fill_(IGNORE)
    elif kind == "labeled":
        labels.fill_(0)
    elif kind == "no box":
        boxes.zero_()
    elif kind == "one pixel":
        images, probs, labels = images[..., :1, :1], probs[..., :1, :1], labels[:, :1, :1]
    elif kind == "odd":
        images, probs, labels = images[..., :5, :7], probs[..., :5, :7], labels[:, :5, :7]
    elif kind == "certain":
        images.fill_(124.0)
        probs = torch.zeros_like(probs)
        probs[:, 1] = 1
    probs = probs.clone().requires_grad_()
    loss = dense_energy(images, probs, boxes, labels, method=method)
    loss.backward()
    assert loss.isfinite()
    assert loss.item() <= 0
    assert probs.grad.isfinite().all()


def test_all_run_in_float32_under_autocast(scene):
    images, probs, boxes, labels = scene
    images, probs = images.float(), probs.float()

    def total(logits):
        return torch.stack(
            [
                patch_token_contrast(logits, labels),
                balanced_cross_entropy(logits, labels),
                dense_energy(images, logits, boxes, labels),
            ]
        )

    expected = total(probs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(total(probs), expected)
    assert total(probs.bfloat16()).dtype == torch.float32
