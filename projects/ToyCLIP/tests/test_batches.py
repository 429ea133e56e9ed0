# SPDX-License-Identifier: Apache-2.0
"""Batches of images and captions, each from its own number."""

import itertools

import numpy as np
import pytest
import torch

from dalnet_toyclip import batches as module
from dalnet_toyclip.batches import draw_batch, draw_images, training_batches
from dalnet_toyclip.images import draw_bank
from dalnet_toyclip.vocabulary import OTHER_WORD, num_rows


@pytest.fixture(scope="module")
def bank():
    return draw_bank(np.random.default_rng(0), 200, 4)


def batches(start=0, seed=3):
    return training_batches(seed, batch_size=6, bank_size=100, bank_life=2, sparse=4, start=start)


def test_any_batch_can_be_the_first():
    whole = list(itertools.islice(batches(), 5))
    for expected, batch in zip(whole[3:], batches(start=3), strict=False):
        assert all(torch.equal(expected[key], batch[key]) for key in batch)
    assert whole[0]["images"].shape == (6, 3, 96, 96) and whole[0]["fits"].shape == (6, 6)
    assert whole[0]["tokens"].shape[0] == 6 and whole[0]["images"].dtype == torch.uint8
    assert not torch.equal(next(batches(seed=4))["images"], whole[0]["images"])


def test_the_first_batches_show_half_of_the_patches():
    for number, batch in enumerate(itertools.islice(batches(), 5)):
        seen = batch["patches"]
        assert seen.shape == (6, 72 if number < 4 else 144)
        assert all(
            len(set(row)) == len(row) and set(row) <= set(range(144)) for row in seen.tolist()
        )
        assert len({tuple(row) for row in seen.tolist()}) == 6


def test_other_objects_are_drawn_now_and_then(monkeypatch):
    drawn = []

    def draw(rng, *sizes):
        drawn.append(sizes)
        return draw_bank(rng, *sizes)

    monkeypatch.setattr(module, "draw_bank", draw)
    list(itertools.islice(batches(), 5))
    assert drawn == 3 * [(100, 10)]


def test_each_caption_fits_its_image(bank):
    for seed in range(5):
        assert (
            draw_batch(np.random.default_rng(seed), bank, 64, sparse=True)["fits"].diagonal().all()
        )


def test_a_third_of_a_batch_shares_ground_and_color(bank):
    for seed in range(5):
        images = draw_images(np.random.default_rng(seed), bank, 96)
        alike, others = images[:32], images[32:]
        assert len({image.ground for image in alike} - {-1}) == 1
        assert len({shown[3] for image in alike for shown in image.objects}) == 1
        assert len({image.ground for image in others}) == 6
        assert len({shown[3] for image in others for shown in image.objects}) == 7


def test_few_words_are_forgotten_and_never_the_end(bank):
    tokens = draw_batch(np.random.default_rng(0), bank, 512, sparse=True)["tokens"]
    ends = tokens.argmax(dim=1)
    assert (tokens[:, 0] == num_rows() - 2).all()
    assert (tokens.gather(1, ends[:, None]) == num_rows() - 1).all()
    inside = torch.arange(tokens.shape[1]) < ends[:, None]
    forgotten = (tokens[inside] == OTHER_WORD).float().mean()
    assert 0.004 < forgotten < 0.016
