# SPDX-License-Identifier: Apache-2.0
"""The classifier of collages: which tokens judge which part, and its losses."""

import numpy as np
import pytest
import timm
import torch

from dalnet_toy_backbone.attribute_classifier import AttributeClassifier, attribute_losses

ATTRIBUTES = {"shape": 4, "texture": 3, "palette": 5}


@pytest.fixture
def model():
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224",
        num_classes=0,
        img_size=96,
        patch_size=8,
        embed_dim=24,
        depth=1,
        num_heads=2,
    )
    return AttributeClassifier(vit, ATTRIBUTES, parts=4)


def quarters():
    owners = torch.zeros(1, 12, 12, dtype=torch.int64)
    owners[0, 5:, :4], owners[0, :5, 4:], owners[0, 5:, 4:] = 1, 2, 3
    return owners


def test_a_quarter_is_judged_by_its_own_patches(model):
    tokens, owners = torch.randn(1, 145, 24), quarters()
    model.vit.forward_features = lambda images: tokens
    of_collage, of_parts = model.logits(torch.zeros(1, 3, 96, 96), owners)
    assert of_collage.shape == (1, 12) and of_parts.shape == (1, 4, 12)
    for number in range(4):
        places = (owners[0] == number).flatten().nonzero()[:, 0].tolist()
        pooled = [max(float(tokens[0, 1 + p, c]) for p in places) for c in range(24)]
        torch.testing.assert_close(of_parts[0, number], model.patch_head(torch.tensor(pooled)))
    torch.testing.assert_close(of_collage[0], model.cls_head(tokens[0, 0]))


def test_pixels_reach_the_vit_in_minus_one_to_one(model):
    seen = []
    model.vit.forward_features = lambda images: (seen.append(images), torch.randn(1, 145, 24))[1]
    images = torch.zeros(1, 3, 96, 96, dtype=torch.uint8)
    images[0, 1] = 255
    model.logits(images, quarters())
    assert seen[0][0].amin((1, 2)).tolist() == seen[0][0].amax((1, 2)).tolist() == [-1, 1, -1]


def test_losses_against_plain_loops():
    torch.manual_seed(0)
    total = sum(ATTRIBUTES.values())
    of_collage, of_parts = torch.randn(2, total).double(), torch.randn(2, 4, total).double()
    labels = torch.stack([torch.randint(0, n, (2, 4)) for n in ATTRIBUTES.values()], -1)
    expected = dict.fromkeys(["loss_collage", *(f"loss_{name}" for name in ATTRIBUTES)], 0.0)
    for n in range(2):
        offset = 0
        for i, (name, size) in enumerate(ATTRIBUTES.items()):
            for part in range(4):
                scores = of_parts[n, part, offset : offset + size].exp()
                share = scores[labels[n, part, i]] / scores.sum()
                expected[f"loss_{name}"] -= float(share.log()) / 8
            for value in range(size):
                p = float(of_collage[n, offset + value].sigmoid())
                right = p if value in labels[n, :, i].tolist() else 1 - p
                expected["loss_collage"] -= 3 * float(np.log(right)) / (2 * total)
            offset += size
    losses = attribute_losses(of_collage, of_parts, labels, ATTRIBUTES)
    assert {key: float(loss) for key, loss in losses.items()} == pytest.approx(expected)


def test_every_parameter_learns(model):
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    labels = torch.stack([torch.randint(0, n, (2, 4)) for n in ATTRIBUTES.values()], -1)
    batch = {"images": images, "owners": quarters().expand(2, -1, -1), "labels": labels}
    sum(model(batch).values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
