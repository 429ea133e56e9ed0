# SPDX-License-Identifier: Apache-2.0
"""Images of the toy world for a CLIP: what they are said to show is what they show."""

import colorsys
from collections import Counter

import numpy as np
import pytest

from dalnet.data.datasets.toy.drawing import PALETTES
from dalnet_toyclip import images as module
from dalnet_toyclip.images import (
    CLASS_LOOKS,
    HELD_OUT_LOOKS,
    OTHER_LOOKS,
    draw_bank,
    draw_image,
)


@pytest.fixture(scope="module")
def bank():
    return draw_bank(np.random.default_rng(0), 400, 4)


def many_images(bank, kind, count=200, **options):
    return [draw_image(np.random.default_rng(seed), bank, kind, **options) for seed in range(count)]


def test_looks_are_of_a_class_or_in_training_or_held_out():
    groups = [set(CLASS_LOOKS), set(OTHER_LOOKS), set(HELD_OUT_LOOKS)]
    assert [len(group) for group in groups] == [10, 500, 50]
    assert len(set.union(*groups)) == 10 * 8 * 7


def test_the_bank_has_objects_of_all_classes_and_of_looks_in_training(bank):
    rows = [tuple(row) for row in bank.objects.tolist()]
    assert {row[0] for row in rows} == {-1, *range(10)}
    assert all(row[1:] == CLASS_LOOKS[row[0]] for row in rows if row[0] >= 0)
    assert {row[1:] for row in rows if row[0] < 0} <= set(OTHER_LOOKS)
    assert sum(row[0] >= 0 for row in rows) == 200 and len(rows) == 400
    assert bank.grounds.shape == (5, 4, 96, 96, 3)


def test_an_object_is_there_in_its_color(bank):
    hues = [main[0] for main, _ in PALETTES.values()]
    right = 0
    for shown, sprite in zip(bank.objects, bank.sprites, strict=True):
        covered = sprite[..., 3] == 255
        assert 150 < covered.sum() < 2000
        assert not sprite[sprite[..., 3] == 0].any(), "color where there is nothing"
        pixels = [colorsys.rgb_to_hsv(*(rgb / 255)) for rgb in sprite[covered][:, :3]]
        brightest = max(pixels, key=lambda hsv: hsv[1] * hsv[2])
        right += abs((360 * brightest[0] - hues[shown[3]] + 180) % 360 - 180) < 25
    assert right > 0.8 * len(bank.objects)


def test_kinds_of_images(bank):
    assert all(image.objects == () and image.ground >= 0 for image in many_images(bank, "empty"))
    assert all(len(image.objects) == 1 for image in many_images(bank, "single"))
    scenes = many_images(bank, "scene")
    assert {len(image.objects) for image in scenes} == {1, 2, 3}
    assert all(image.ground >= 0 and image.image.dtype == np.uint8 for image in scenes)
    masked = many_images(bank, "masked")
    alone = [image for image in masked if image.ground < 0]
    assert 70 < len(alone) < 130 and all(len(image.objects) == 1 for image in alone)
    any_kind = Counter(len(image.objects) for image in many_images(bank, None, 400))
    assert 60 < any_kind[0] < 140


def test_objects_stand_on_all_grounds_alike(bank):
    images = many_images(bank, "single", 1500)
    pairs = Counter((image.objects[0][0], image.ground) for image in images)
    assert all(pairs[number, ground] > 5 for number in range(10) for ground in range(5))


def test_ground_and_palette_asked_for(bank):
    for image in many_images(bank, "scene", 50, ground=3, palette=2):
        assert image.ground == 3 and {shown[3] for shown in image.objects} == {2}


def test_a_masked_image_shows_the_object_or_the_ground(bank, monkeypatch):
    monkeypatch.setattr(module, "_MEANS", (np.full(3, 127.5),))
    for image in many_images(bank, "masked", 60):
        distance = np.abs(image.image.astype(float) - 127.5).max(axis=2)
        gray = (distance < 40).mean()
        if image.ground < 0:  # the image fades to gray, but for the object
            assert gray > 0.5 and distance.max() > 60
        else:  # one object fades to gray
            assert (distance < 20).mean() > 0.005


def test_an_object_covers_what_is_under_it(bank):
    canvas = np.zeros((96, 96, 3), np.float32)
    coverage = module._paste(canvas, bank.sprites[0], np.array([48.0, 48.0]), 1.0)
    assert coverage.max() == 1 and coverage[0, 0] == 0
    covered = coverage[..., 0] == 1
    white = np.full((96, 96, 3), 255, np.float32)
    module._paste(white, bank.sprites[0], np.array([48.0, 48.0]), 1.0)
    np.testing.assert_array_equal(white[covered], canvas[covered])
    assert (white[coverage[..., 0] == 0] == 255).all()
    large = np.zeros((96, 96, 3), np.float32)
    zoomed = module._paste(large, bank.sprites[0], np.array([48.0, 48.0]), 1.5)
    assert zoomed.sum() == pytest.approx(2.25 * coverage.sum(), rel=0.05)
