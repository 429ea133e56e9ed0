# SPDX-License-Identifier: Apache-2.0
"""The classifier of collages: which tokens judge which tile, and its losses."""

import numpy as np
import pytest
import timm
import torch

from dalnet_toy_backbone.attribute_classifier import AttributeClassifier

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
    return AttributeClassifier(vit, ATTRIBUTES, num_tiles=4)


def quarters():
    tile_map = torch.zeros(1, 12, 12, dtype=torch.int64)
    tile_map[0, 5:, :4], tile_map[0, :5, 4:], tile_map[0, 5:, 4:] = 1, 2, 3
    return tile_map


def test_a_tile_is_judged_by_its_own_patches(model):
    tokens, tile_map = torch.randn(1, 145, 24), quarters()
    model.vit.forward_features = lambda images: tokens
    collage_logits, tile_logits = model.logits(torch.zeros(1, 3, 96, 96), tile_map)
    assert collage_logits.shape == (1, 12) and tile_logits.shape == (1, 4, 12)
    for number in range(4):
        places = (tile_map[0] == number).flatten().nonzero()[:, 0].tolist()
        pooled = [max(float(tokens[0, 1 + p, c]) for p in places) for c in range(24)]
        torch.testing.assert_close(tile_logits[0, number], model.patch_head(torch.tensor(pooled)))
    torch.testing.assert_close(collage_logits[0], model.cls_head(tokens[0, 0]))


def test_pixels_reach_the_vit_in_minus_one_to_one(model):
    seen = []
    model.vit.forward_features = lambda images: (seen.append(images), torch.randn(1, 145, 24))[1]
    images = torch.zeros(1, 3, 96, 96, dtype=torch.uint8)
    images[0, 1] = 255
    model.logits(images, quarters())
    assert seen[0][0].amin((1, 2)).tolist() == seen[0][0].amax((1, 2)).tolist() == [-1, 1, -1]


def test_losses_against_plain_loops(model):
    total = sum(ATTRIBUTES.values())
    collage, tiles = torch.randn(2, total).double(), torch.randn(2, 4, total).double()
    model.logits = lambda images, tile_map: (collage, tiles)
    labels = torch.stack([torch.randint(0, n, (2, 4)) for n in ATTRIBUTES.values()], -1)
    expected = dict.fromkeys(["loss_collage", *(f"loss_{name}" for name in ATTRIBUTES)], 0.0)
    for n in range(2):
        offset = 0
        for i, (name, size) in enumerate(ATTRIBUTES.items()):
            for tile in range(4):
                scores = tiles[n, tile, offset : offset + size].exp()
                probability = scores[labels[n, tile, i]] / scores.sum()
                expected[f"loss_{name}"] -= float(probability.log()) / 8
            for value in range(size):
                p = float(collage[n, offset + value].sigmoid())
                right = p if value in labels[n, :, i].tolist() else 1 - p
                expected["loss_collage"] -= 3 * float(np.log(right)) / (2 * total)
            offset += size
    losses = model({"images": None, "tile_map": None, "labels": labels})
    assert {key: float(loss) for key, loss in losses.items()} == pytest.approx(expected)


def test_every_parameter_learns(model):
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    labels = torch.stack([torch.randint(0, n, (2, 4)) for n in ATTRIBUTES.values()], -1)
    batch = {"images": images, "tile_map": quarters().expand(2, -1, -1), "labels": labels}
    sum(model(batch).values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
