# SPDX-License-Identifier: Apache-2.0
"""Colors of labels and heat maps: a data set's own, or such that color-blind readers tell apart."""

from collections.abc import Iterable, Sequence
from itertools import cycle

import numpy as np
from PIL import ImageColor

from dalnet.data.datasets.catalog import IGNORE_LABEL

from .overlay import IGNORE_COLOR

# Each as far as possible from all before it, from black and from the color of ignored pixels, for
# whoever sees the least difference: without color blindness, or with one of its three kinds as
# simulated by Machado, Oliveira and Fernandes 2009. The least distance in CIELAB is 28 among the
# first 7 and 17 among all; with Okabe and Ito's 7 colors, or tableau-colorblind10, it is 14 or 7.
_COLORBLIND_COLORS = (
    *("#ff00ff", "#00ff00", "#006600", "#996699", "#000099", "#ff9966", "#660066"),
    *("#99ccff", "#ff0066", "#0033ff", "#003300", "#669900", "#cc9999", "#ccff99"),
    *("#330033", "#333333", "#663399", "#993366", "#99ff66", "#cc66cc", "#66ffff"),
)


def heat_colormap(colorblind: bool) -> str:
    """Return the name of matplotlib's color map for heat maps."""
    return "cividis" if colorblind else "jet"


def choose_colors(
    class_colors: Sequence[Sequence[int]], labels: Sequence[int], colorblind: bool
) -> list[Sequence[int]]:
    """Return an RGB triple in 0..255 for each of the C + 1 labels, background first.

    Args:
        class_colors: C + 1 RGB triples in 0..255: the colors where not ``colorblind``.
        labels: those that occur. They get the colors that differ most; beyond 21 classes the
            colors repeat.
        colorblind: whether color-blind readers are to tell them apart.
    """
    if not colorblind:
        return list(class_colors)
    # Sorting is stable: those that occur first, both in ascending order.
    ranked = sorted(range(1, len(class_colors)), key=lambda label: label not in labels)
    colors = [(0, 0, 0)] * len(class_colors)
    for label, color in zip(ranked, cycle(_COLORBLIND_COLORS), strict=False):
        colors[label] = ImageColor.getrgb(color)
    return colors


def find_labels(label_maps: Iterable[np.ndarray]) -> list[int]:
    """Return the labels that occur in label maps, in ascending order."""
    return sorted({int(label) for label_map in label_maps for label in np.unique(label_map)})


def make_legend(
    labels: Sequence[int], class_names: Sequence[str], colors: Sequence[Sequence[int]]
) -> list[tuple[str, Sequence[int]]]:
    """Return name and RGB of labels: 0..C, background first, or 255 for ignored."""
    ignored = ("ignored", IGNORE_COLOR)
    return [ignored if i == IGNORE_LABEL else (class_names[i], colors[i]) for i in labels]
