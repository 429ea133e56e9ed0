# SPDX-License-Identifier: Apache-2.0
"""Batches of images and captions, each from its own number."""

import itertools

import numpy as np
import pytest
import torch

from dalnet_toyclip import batches as module
from dalnet_toyclip.batches import draw_batch, draw_collages, draw_images, training_batches
from dalnet_toyclip.images import draw_bank
from dalnet_toyclip.vocabulary import OTHER_WORD, num_rows


@pytest.fixture(scope="module")
def bank():
    return draw_bank(np.random.default_rng(0), 200, 4)


def batches(start=0, seed=3):
    return training_batches(seed, batch_size=16, bank_size=100, bank_life=2, start=start)


def test_any_batch_can_be_the_first():
    whole = list(itertools.islice(batches(), 5))
    for expected, batch in zip(whole[3:], batches(start=3), strict=False):
        assert all(torch.equal(expected[key], batch[key]) for key in batch)
    shapes = {key: tuple(value.shape) for key, value in whole[0].items()}
    length = shapes.pop("tokens")[1]
    assert 10 < length < 40 and shapes == {
        "images": (8, 3, 96, 96),
        "patches": (8, 72),
        "collages": (2, 3, 96, 96),
        "tiles": (2, 144),
        "fits": (16, 16),
    }
    assert not torch.equal(next(batches(seed=4))["images"], whole[0]["images"])


def test_other_objects_are_drawn_now_and_then(monkeypatch):
    drawn = []

    def draw(rng, *sizes):
        drawn.append(sizes)
        return draw_bank(rng, *sizes)

    monkeypatch.setattr(module, "draw_bank", draw)
    list(itertools.islice(batches(), 5))
    assert drawn == 3 * [(100, 10)]


def test_half_of_the_patches_are_seen(bank):
    seen = draw_batch(np.random.default_rng(0), bank, 32)["patches"].tolist()
    assert all(len(set(row)) == 72 and set(row) <= set(range(144)) for row in seen)
    assert len({tuple(row) for row in seen}) == 16


def test_each_caption_fits_its_image(bank):
    for seed in range(5):
        assert draw_batch(np.random.default_rng(seed), bank, 64)["fits"].diagonal().all()


def test_collages_of_four_tiles(bank):
    collages, tile_maps, tiles = draw_collages(np.random.default_rng(0), bank, 30)
    assert len(tiles) == 4 * len(collages) == 4 * len(tile_maps)
    for number, (collage, tile_map) in enumerate(zip(collages, tile_maps, strict=True)):
        assert collage.shape == (96, 96, 3) and tile_map.shape == (12, 12)
        pixels = tile_map.repeat(8, axis=0).repeat(8, axis=1)
        for i, tile in enumerate(tiles[4 * number : 4 * number + 4]):
            height, width = tile.image.shape[:2]
            np.testing.assert_array_equal(
                collage[pixels == i].reshape(height, width, 3), tile.image
            )
            assert min(height, width) >= 32 and len(tile.objects) <= 1


@pytest.mark.parametrize("kind", ["images", "tiles"])
def test_a_third_of_a_batch_shares_ground_and_color(bank, kind):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        images = draw_images(rng, bank, 96) if kind == "images" else draw_collages(rng, bank, 24)[2]
        alike, others = images[:32], images[32:]
        assert len({image.ground for image in alike} - {-1}) == 1
        assert len({shown[3] for image in alike for shown in image.objects}) == 1
        assert len({image.ground for image in others}) == 6
        assert len({shown[3] for image in others for shown in image.objects}) > 4


def test_few_words_are_forgotten_and_never_the_end(bank):
    tokens = draw_batch(np.random.default_rng(0), bank, 512)["tokens"]
    ends = tokens.argmax(dim=1)
    assert (tokens[:, 0] == num_rows() - 2).all()
    assert (tokens.gather(1, ends[:, None]) == num_rows() - 1).all()
    inside = torch.arange(tokens.shape[1]) < ends[:, None]
    forgotten = (tokens[inside] == OTHER_WORD).float().mean()
    assert 0.004 < forgotten < 0.016
