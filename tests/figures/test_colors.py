# SPDX-License-Identifier: Apache-2.0
"""Colors of figures: the data set's own, or safe ones for the labels that occur."""

import numpy as np

from dalnet.figures.colors import choose_colors, find_labels, make_legend
from dalnet.figures.overlay import IGNORE_COLOR

OWN = [(i, i, i) for i in range(81)]


def test_labels_that_occur_get_the_first_of_the_safe_colors():
    few, first = choose_colors(OWN, [0, 9, 33, 255], True), choose_colors(OWN, [1, 2], True)
    assert few[0] == first[0] == (0, 0, 0)
    assert (few[9], few[33]) == (first[1], first[2])
    assert len(few) == len(OWN)
    assert len(set(choose_colors(OWN[:22], [], True))) == 22
    assert choose_colors(OWN, [9], False) == OWN


def test_legend_names_what_occurs():
    labels = find_labels([np.array([[2, 0]]), np.array([[255, 2]])])
    assert labels == [0, 2, 255]
    legend = make_legend(labels, ["background", "cat", "dog"], OWN)
    assert legend == [("background", OWN[0]), ("dog", OWN[2]), ("ignored", IGNORE_COLOR)]
