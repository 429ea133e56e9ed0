# SPDX-License-Identifier: Apache-2.0
"""Objects of the toy data set: masks, textures and colors."""

import colorsys

import numpy as np
import pytest

from dalnet.data.datasets.toy import drawing
from dalnet.data.datasets.toy.drawing import (
    PALETTES,
    SHAPES,
    TEXTURES,
    Appearance,
    draw_object,
    jittered_color,
)


@pytest.mark.parametrize("shape", SHAPES)
def test_mask_is_where_the_object_covers_half_of_the_pixel(shape):
    """The same object on black and on white: what shines through is what it does not cover."""
    look = Appearance(shape, "dots", "red")
    drawn = []
    for ground in (0.0, 255.0):
        image = np.full((60, 60, 3), ground)
        mask = draw_object(np.random.default_rng(3), image, look, (25.0, 31.0), 18.0)
        drawn.append(image)
    coverage = 1 - (drawn[1] - drawn[0])[..., 0] / 255
    np.testing.assert_array_equal(mask, coverage > 0.499)
    assert ((coverage > 0.01) & (coverage < 0.99)).sum() > 20, "edges are not smooth"
    assert 0.15 * 36**2 < mask.sum() < 0.85 * 36**2


@pytest.mark.parametrize("shape", SHAPES)
def test_no_object_is_cut_by_its_window(shape, monkeypatch):
    look = Appearance(shape, "stripes", "red")

    def area(seed):
        image = np.zeros((120, 120, 3))
        rng = np.random.default_rng(seed)
        return draw_object(rng, image, look, (60.0, 60.0), 20.0).sum()

    areas = [area(seed) for seed in range(12)]
    monkeypatch.setattr(drawing, "_REACH", 2.5)
    assert areas == [area(seed) for seed in range(12)]


@pytest.mark.parametrize("texture", TEXTURES)
def test_textures_mix_both_colors(texture):
    y, x = np.mgrid[-3:3:0.05, -3:3:0.05]
    weight = TEXTURES[texture](x, y)
    assert weight.min() >= 0 and weight.max() <= 1
    assert (weight < 0.2).mean() > 0.1 and (weight > 0.8).mean() > 0.1


def test_colors():
    rng = np.random.default_rng(0)
    for h, s, v in ((0, 1, 1), (95, 0.65, 0.72), (200, 0.3, 0.9), (325, 0.45, 0.95), (-10, 2, 1)):
        expected = colorsys.hsv_to_rgb(h / 360 % 1, min(s, 1), v)
        np.testing.assert_allclose(jittered_color(rng, (h, s, v), 0.0), np.multiply(255, expected))
    for main, _ in PALETTES.values():
        colors = [jittered_color(rng, main) for _ in range(20)]
        assert 3 < np.std(colors, axis=0).max() < 40, "colors vary, but within their hue"
