# SPDX-License-Identifier: Apache-2.0
"""The collages that the toy encoder is pre-trained on: looks, labels, and batches by number."""

import itertools

import numpy as np
import pytest
import torch

from dalnet.data.datasets.toy import TOY_LOOKS
from dalnet.data.datasets.toy_collages import (
    ATTRIBUTES,
    NUM_LABELS,
    Collages,
    draw_collage,
    draw_picture,
    foreign_looks,
    new_batches,
)


def collages(seed=3):
    return Collages(seed, size=2, memory=5, initial=3, fresh=2)


def test_no_look_shares_two_attributes_with_a_class():
    looks = foreign_looks()
    assert len(looks) > 300
    for look in looks:
        for own in TOY_LOOKS:
            pairs = zip(vars(look).values(), vars(own).values(), strict=True)
            assert sum(a == b for a, b in pairs) <= 1
    for name, values in ATTRIBUTES.items():
        assert {getattr(look, name) for look in looks} == set(values)


def test_labels_name_the_look():
    look = foreign_looks()[100]
    seen = {draw_picture(np.random.default_rng(seed), 40, 56, [look])[1] for seed in range(12)}
    shown = tuple(1 + ATTRIBUTES[name].index(value) for name, value in vars(look).items())
    assert seen == {(0, 0, 0), shown}
    assert all(0 < label < n for label, n in zip(shown, NUM_LABELS.values(), strict=True))


def test_collage_of_four_labelled_pictures():
    empty = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        image, owners, labels = draw_collage(rng, foreign_looks())
        assert image.shape == (96, 96, 3) and image.dtype == np.uint8
        assert labels.shape == (4, 3) and ((labels == 0).all(1) | (labels > 0).all(1)).all()
        for number in range(4):
            rows, columns = np.nonzero(owners == number)
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert height * width == len(rows), "a quarter is not a rectangle"
            assert min(height, width) >= 4
        empty += (labels[:, 0] == 0).sum()
    assert 0.1 < empty / 160 < 0.32


def test_any_batch_can_be_the_first():
    whole = list(itertools.islice(collages(), 5))
    later = collages()
    batches = iter(later)  # as a trainer does before it knows where to go on
    later.first = 3
    for expected, batch in zip(whole[3:], batches, strict=False):
        assert expected.keys() == batch.keys() == {"images", "owners", "labels"}
        assert all(torch.equal(expected[key], batch[key]) for key in batch)
    assert later.drawn == 3 + 2 * 4
    assert whole[0]["images"].shape == (2, 3, 96, 96) and whole[0]["images"].dtype == torch.uint8
    assert whole[0]["owners"].shape == (2, 12, 12) and whole[0]["labels"].shape == (2, 4, 3)
    other = next(iter(collages(seed=4)))
    assert not torch.equal(other["images"], whole[0]["images"])


def test_a_batch_shows_the_latest_collages_or_their_mirrors():
    series = collages()
    batch = series.batch(4)
    for i in range(2):
        image = batch["images"][i].permute(1, 2, 0).numpy()
        views = {
            flips: np.flip(image, flips) if flips else image for flips in [(), (0,), (1,), (0, 1)]
        }
        found = [
            (slot, flips)
            for slot in range(5)
            for flips, view in views.items()
            if np.array_equal(view, series.images[slot])
        ]
        [(slot, flips)] = found
        owners = batch["owners"][i].numpy()
        assert np.array_equal(np.flip(owners, flips) if flips else owners, series.owners[slot])
        assert np.array_equal(batch["labels"][i].numpy(), series.labels[slot])


def test_new_batches_are_the_same_each_time():
    first, second = (list(new_batches(0, 2, 3)) for _ in range(2))
    assert len(first) == 3 and first[0]["images"].shape == (2, 3, 96, 96)
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(("classes", "looks"), [(True, TOY_LOOKS), (False, foreign_looks())])
def test_new_batches_show_the_looks_asked_for(classes, looks):
    names = list(ATTRIBUTES)
    allowed = {tuple(1 + ATTRIBUTES[n].index(getattr(look, n)) for n in names) for look in looks}
    for batch in new_batches(0, 4, 2, classes):
        shown = {tuple(labels) for labels in batch["labels"].flatten(0, 1).tolist()}
        assert shown <= allowed | {(0, 0, 0)} and len(shown) > 4
