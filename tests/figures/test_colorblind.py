# SPDX-License-Identifier: Apache-2.0
"""The palette: how far apart its colours are for whoever tells them least."""

import cv2
import numpy as np
import pytest

from dalnet.data.palette import voc_palette
from dalnet.figures.colorblind import colorblind_palette, seen_colors
from dalnet.figures.overlay import IGNORE_COLOR


def smallest_distance(colors):
    seen = seen_colors(np.array(colors))
    distances = np.linalg.norm(seen[:, :, None] - seen[:, None], axis=3)
    return distances[:, ~np.eye(len(colors), dtype=bool)].min()


@pytest.mark.parametrize(("size", "distance"), [(11, 22), (21, 14), (81, 3)])
def test_colours_are_far_apart_for_everyone(size, distance):
    colors = colorblind_palette(size)
    assert colors[0] == [0, 0, 0]
    assert len(colors) == size
    with_ignored = [*colors, IGNORE_COLOR]
    assert smallest_distance(with_ignored) > distance
    assert smallest_distance(with_ignored) > 2 * smallest_distance([*voc_palette(size)])


def test_first_colours_do_not_depend_on_the_number():
    assert colorblind_palette(81)[:11] == colorblind_palette(11)


def test_seen_colours():
    red_green = np.array([[180, 60, 0], [110, 110, 0], [128, 128, 128]])
    normal, _, deutan, _ = seen_colors(red_green)
    lab = cv2.cvtColor(np.float32(red_green[None] / 255), cv2.COLOR_RGB2LAB)[0]
    np.testing.assert_allclose(normal, lab, atol=0.5)

    def difference(view):
        return np.linalg.norm(view[0] - view[1])

    assert difference(deutan) < 0.4 * difference(normal)
    # Grey stays grey for everyone.
    np.testing.assert_allclose(seen_colors(red_green)[:, 2, 1:], 0, atol=0.5)
