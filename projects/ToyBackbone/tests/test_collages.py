# SPDX-License-Identifier: Apache-2.0
"""The collages that the toy encoder is pre-trained on: looks, labels, and batches by number."""

import itertools

import numpy as np
import pytest
import torch

from dalnet.data.datasets.toy import TOY_LOOKS
from dalnet_toy_backbone import collages as module
from dalnet_toy_backbone.collages import (
    ATTRIBUTES,
    NUM_LABELS,
    Collage,
    draw_collage,
    draw_tile,
    training_batches,
    training_looks,
    unseen_batches,
)

EMPTY = Collage(np.zeros((96, 96, 3), np.uint8), np.zeros((12, 12), int), np.zeros((4, 3), int))


def batches(seed=3, start=0):
    return training_batches(seed, batch_size=2, memory=5, initial=3, fresh=2, start=start)


def test_no_look_shares_two_attributes_with_a_class():
    looks = training_looks()
    assert len(looks) > 300
    for look in looks:
        for own in TOY_LOOKS:
            pairs = zip(vars(look).values(), vars(own).values(), strict=True)
            assert sum(a == b for a, b in pairs) <= 1
    for name, values in ATTRIBUTES.items():
        assert {getattr(look, name) for look in looks} == set(values)


def test_labels_name_the_look():
    look = training_looks()[100]
    seen = {draw_tile(np.random.default_rng(seed), 40, 56, [look])[1] for seed in range(12)}
    shown = tuple(1 + ATTRIBUTES[name].index(value) for name, value in vars(look).items())
    assert seen == {(0, 0, 0), shown}
    assert all(0 < label < n for label, n in zip(shown, NUM_LABELS.values(), strict=True))


def test_collage_of_four_labeled_tiles():
    empty = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        image, tile_map, labels = draw_collage(rng, training_looks())
        assert image.shape == (96, 96, 3) and image.dtype == np.uint8
        assert labels.shape == (4, 3) and ((labels == 0).all(1) | (labels > 0).all(1)).all()
        for number in range(4):
            rows, columns = np.nonzero(tile_map == number)
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert height * width == len(rows), "a tile is not a rectangle"
            assert min(height, width) >= 4
        empty += (labels[:, 0] == 0).sum()
    assert 0.1 < empty / 160 < 0.32


def test_any_batch_can_be_the_first():
    whole = list(itertools.islice(batches(), 5))
    for expected, batch in zip(whole[3:], batches(start=3), strict=False):
        assert expected.keys() == batch.keys() == {"images", "tile_map", "labels"}
        assert all(torch.equal(expected[key], batch[key]) for key in batch)
    assert whole[0]["images"].shape == (2, 3, 96, 96) and whole[0]["images"].dtype == torch.uint8
    assert whole[0]["tile_map"].shape == (2, 12, 12) and whole[0]["labels"].shape == (2, 4, 3)
    other = next(batches(seed=4))
    assert not torch.equal(other["images"], whole[0]["images"])


def test_a_batch_shows_the_latest_collages_or_their_flips(monkeypatch):
    drawn = []

    def draw(*args):
        drawn.append(draw_collage(*args))
        return drawn[-1]

    monkeypatch.setattr(module, "draw_collage", draw)
    batch = next(itertools.islice(batches(), 4, None))
    assert len(drawn) == 3 + 2 * 4
    for i in range(2):
        image = batch["images"][i].permute(1, 2, 0).numpy()
        found = [
            (collage, flips)
            for collage in drawn[-5:]
            for flips in [(), (0,), (1,), (0, 1)]
            if np.array_equal(np.flip(image, flips), collage.image)
        ]
        [(collage, flips)] = found
        assert np.array_equal(np.flip(batch["tile_map"][i].numpy(), flips), collage.tile_map)
        assert np.array_equal(batch["labels"][i].numpy(), collage.labels)


def test_a_resumed_run_draws_only_what_is_still_in_memory(monkeypatch):
    drawn = []
    monkeypatch.setattr(module, "draw_collage", lambda *args: drawn.append(0) or EMPTY)
    next(batches(start=100))
    assert len(drawn) == 5


def test_unseen_batches_are_the_same_each_time():
    first, second = (list(unseen_batches(0, 2, 3)) for _ in range(2))
    assert len(first) == 3 and first[0]["images"].shape == (2, 3, 96, 96)
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(("classes", "looks"), [(True, TOY_LOOKS), (False, training_looks())])
def test_unseen_batches_show_the_looks_asked_for(classes, looks):
    names = list(ATTRIBUTES)
    allowed = {tuple(1 + ATTRIBUTES[n].index(getattr(look, n)) for n in names) for look in looks}
    for batch in unseen_batches(0, 4, 2, classes):
        shown = {tuple(labels) for labels in batch["labels"].flatten(0, 1).tolist()}
        assert shown <= allowed | {(0, 0, 0)} and len(shown) > 4
