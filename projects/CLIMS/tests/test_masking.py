# SPDX-License-Identifier: Apache-2.0
"""Masked images against a loop over images and classes."""

import pytest
import torch

from clims.masking import masked_images


def enlarge(image, size):
    """Bilinear with aligned corners, place by place: ``[C, h, w]`` to ``[C, size, size]``."""
    channels, height, width = image.shape
    result = torch.zeros(channels, size, size, dtype=image.dtype)
    for i in range(size):
        for j in range(size):
            y, x = i * (height - 1) / (size - 1), j * (width - 1) / (size - 1)
            y0, x0 = min(int(y), height - 2), min(int(x), width - 2)
            b, a = y - y0, x - x0
            top = (1 - a) * image[:, y0, x0] + a * image[:, y0, x0 + 1]
            bottom = (1 - a) * image[:, y0 + 1, x0] + a * image[:, y0 + 1, x0 + 1]
            result[:, i, j] = (1 - b) * top + b * bottom
    return result


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 3, 13, 10, generator=generator, dtype=torch.float64)
    maps = torch.rand(3, 4, 4, 3, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.float64)
    return images, maps, labels


def test_every_class_of_every_image_in_order(case):
    images, maps, labels = case
    foreground, background, (image_index, class_index) = masked_images(images, maps, labels, 7)
    pairs = list(zip(image_index.tolist(), class_index.tolist(), strict=True))
    assert pairs == [(0, 0), (0, 2), (0, 3), (2, 1)]
    for k, (n, c) in enumerate(pairs):
        image, mask = enlarge(images[n], 7), enlarge(maps[n, c][None], 7)
        torch.testing.assert_close(foreground[k], mask * image)
        torch.testing.assert_close(background[k], (1 - mask) * image)


def test_gradients_reach_the_maps_of_present_classes_alone(case):
    images, maps, labels = case
    maps.requires_grad_()
    foreground, background, _ = masked_images(images, maps, labels, 7)
    weights = torch.randn_like(foreground)
    ((foreground * weights).sum() + (background * weights.flip(0)).sum()).backward()
    reached = maps.grad.flatten(2).any(dim=2)
    assert torch.equal(reached, labels.bool())
    assert torch.autograd.gradcheck(
        lambda m: masked_images(images, m, labels, 5)[:2], maps.detach().requires_grad_()
    )


@pytest.mark.parametrize("labels", [[[0, 0], [0, 0]], [[0, 1], [0, 0]]])
def test_batches_with_fewer_than_two_positives(labels):
    """The published code ends in an error here."""
    maps = torch.rand(2, 2, 4, 4, requires_grad=True)
    found = masked_images(torch.randn(2, 3, 16, 16), maps, torch.tensor(labels).float(), 8)
    count = int(torch.tensor(labels).sum())
    assert found[0].shape == found[1].shape == (count, 3, 8, 8)
    assert found[2][0].tolist() == [0] * count and found[2][1].tolist() == [1] * count
    assert found[0].requires_grad


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.float64])
def test_labels_of_any_type(case, dtype):
    images, maps, labels = case
    expected = masked_images(images, maps, labels, 7)
    found = masked_images(images, maps, labels.to(dtype), 7)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[2][1], expected[2][1])


def test_only_1_is_a_class_that_is_shown(case):
    """As in the published code, where a label of 255 or -1 says that nothing is known."""
    images, maps, labels = case
    expected = masked_images(images, maps, labels, 7)
    labels[1, 2], labels[2, 0] = 255, -1
    found = masked_images(images, maps, labels, 7)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[2][0], expected[2][0])


def test_half_precision_maps_do_not_lower_the_images(case):
    images, maps, labels = case
    foreground, _, _ = masked_images(images.float(), maps.bfloat16(), labels, 7)
    assert foreground.dtype == torch.float32
    assert masked_images(images, maps, labels, 7)[1].dtype == torch.float64
