# SPDX-License-Identifier: Apache-2.0
"""Colours of figures: the data set's own, or safe ones for what is shown."""

import itertools

import cv2
import numpy as np

from dalnet.data.palette import voc_palette
from dalnet.figures.colorblind import seen_colors
from dalnet.figures.colors import Appearance

NAMES = ["background", *(f"thing{i}" for i in range(1, 81))]
COLORS = voc_palette(len(NAMES))


def test_own_colours_and_names_of_what_is_shown():
    styles = Appearance(NAMES, COLORS).styles([255, 80, 0])
    assert list(styles) == [0, 80, 255]
    assert [style.name for style in styles.values()] == ["background", "thing80", "ignored"]
    assert [list(styles[i].color) for i in (0, 80)] == [COLORS[0], COLORS[80]]
    assert not any(style.hatch for style in styles.values())


def test_safe_styles_differ_for_everyone():
    styles = Appearance(NAMES, COLORS, colorblind=True).styles([*range(81), 255])
    looks = [(style.color, style.hatch) for style in styles.values()]
    assert len(set(looks)) == len(looks)
    for hatch in {hatch for _, hatch in looks}:
        same = np.array([color for color, other in looks if other == hatch])
        seen = seen_colors(same)
        for i, j in itertools.combinations(range(len(same)), 2):
            assert np.linalg.norm(seen[:, i] - seen[:, j], axis=1).min() > 20


def test_few_labels_need_no_hatching_whatever_their_numbers():
    appearance = Appearance(NAMES, COLORS, colorblind=True)
    styles = appearance.styles([0, 9, 33, 78, 255])
    assert not any(style.hatch for style in styles.values())
    first = appearance.styles([1, 2, 3])
    assert [styles[i].color for i in (9, 33, 78)] == [first[i].color for i in (1, 2, 3)]


def test_heat_map_gets_lighter_steadily_for_colour_blind_readers():
    def lightness(colorblind):
        levels = np.arange(256, dtype=np.uint8)[None]
        colors = cv2.applyColorMap(levels, Appearance(NAMES, COLORS, colorblind).colormap)
        rgb = cv2.cvtColor(colors, cv2.COLOR_BGR2RGB)[0]
        return seen_colors(rgb)[..., 0]

    assert (np.diff(lightness(True)[:, ::8], axis=1) > 0).all()
    assert not (np.diff(lightness(False)[:, ::8], axis=1) > 0).all()
