# SPDX-License-Identifier: Apache-2.0
"""What is drawn over an image, and what is saved."""

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from dalnet.data.palette import voc_palette
from dalnet.prediction import Prediction

NAMES = ("background", "cat", "Füchse")


@pytest.fixture
def prediction():
    """Two regions in an image of noise."""
    image = np.random.default_rng(0).integers(0, 200, (120, 160, 3), dtype=np.uint8)
    labels = np.zeros((120, 160), np.uint8)
    labels[20:60, 20:90], labels[70:110, 85:155] = 1, 2
    cam = np.zeros((120, 160), np.float32)
    cam[:60] = 1
    return Prediction(image, labels, np.zeros((3, 120, 160), np.float32), {"cat": cam}, NAMES)


def test_overlay_colors_and_names_the_classes(prediction):
    before = prediction.image.copy()
    overlay = prediction.overlay()
    assert overlay.shape == before.shape and overlay.dtype == np.uint8
    np.testing.assert_array_equal(prediction.image, before)
    near = np.pad(prediction.labels[1:] | prediction.labels[:-1], ((1, 0), (0, 0)))
    near |= np.roll(near, 1, axis=1)
    np.testing.assert_array_equal(overlay[near == 0], before[near == 0])
    change = overlay[22:30, 22:88].astype(float) - before[22:30, 22:88]
    red, green, _ = voc_palette(2)[1]
    assert change[..., 0].mean() > 0 > change[..., 1].mean() and red > green
    # The name, white on black, in the middle of each region.
    for region in (overlay[34:46, 40:70], overlay[84:96, 105:135]):
        assert (region == 255).all(-1).any() and (region == 0).all(-1).any()


def test_overlay_of_chosen_classes(prediction):
    overlay, left = prediction.overlay(["Füchse"]), np.s_[:65]
    np.testing.assert_array_equal(overlay[left], prediction.image[left])
    assert (overlay[70:110, 85:155] != prediction.image[70:110, 85:155]).any()
    with refused("classes", "'unicorn'", "cat, Füchse"):
        prediction.overlay(["unicorn"])


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 2)])
def test_overlay_of_any_size(size):
    labels = np.full(size, 2, np.uint8)
    image = np.zeros((*size, 3), np.uint8)
    overlay = Prediction(image, labels, np.zeros((3, *size)), {}, NAMES).overlay()
    assert overlay.shape == image.shape


def test_names_stay_in_the_image(prediction):
    def count_white(*region):
        labels = np.zeros_like(prediction.labels)
        labels[region] = 1
        changed = Prediction(prediction.image, labels, prediction.scores, {}, NAMES).overlay()
        return (changed == 255).all(-1).sum()

    middle = count_white(np.s_[50:70], np.s_[60:100])
    assert middle
    assert middle == count_white(np.s_[:3], np.s_[:3]) == count_white(np.s_[-3:], np.s_[-3:])


def test_names_do_not_meet(prediction):
    def count_white(*rows):
        labels = np.zeros_like(prediction.labels)
        for label, row in enumerate(rows, start=1):
            labels[row, 50:110] = label
        names = ("background", *["cat"] * len(rows))
        overlay = Prediction(prediction.image, labels, prediction.scores, {}, names).overlay()
        return (overlay == 255).all(-1).sum()

    assert 0 < 2 * count_white(60) == count_white(60, 62)


def test_cam_overlay(prediction):
    shift = prediction.cam_overlay("cat").astype(float) - prediction.image
    assert shift[:60, :, 0].mean() > shift[60:, :, 0].mean()
    assert shift[:60, :, 2].mean() < shift[60:, :, 2].mean()


def test_save(prediction, tmp_path):
    prediction.save(tmp_path / "sub" / "x.png")
    with Image.open(tmp_path / "sub" / "x.png") as mask:
        np.testing.assert_array_equal(mask, prediction.labels)
        assert mask.convert("RGB").getpixel((30, 30)) == tuple(voc_palette(2)[1])
    (tmp_path / "file").touch()
    with refused("", "x.png"):
        prediction.save(tmp_path / "file" / "x.png")
    with refused("x.jpg"):
        prediction.save(tmp_path / "x.jpg")
