# SPDX-License-Identifier: Apache-2.0
"""Draws label maps and heat maps over their image, and chooses their colors.

Images are RGB, uint8 ``[H, W, 3]``. In a label map background is 0, class c of 0..C-1 is c + 1 and
255 is ignored; ``colors`` are C + 1 RGB triples in 0..255, background first. Detectron2's
``Visualizer.draw_sem_seg`` leaves ignored pixels undrawn, which a pseudo label has to show.
"""

from collections.abc import Iterable, Sequence
from itertools import cycle

import cv2
import matplotlib
import numpy as np

from dalnet.data.datasets.catalog import IGNORE_LABEL

Color = Sequence[int]  # RGB in 0..255

# What the VOC palette gives index 255; no class of it is as light.
IGNORE_COLOR = (224, 224, 192)
HEAT_WEIGHT = 0.5
HEAT_COLORMAPS = ("jet", "cividis")  # the second for color-blind readers
_OUTLINE_COLOR = (240, 240, 240)
# Each as far as possible from all before it, from black and from the color of ignored pixels, for
# whoever sees the least difference: without color blindness, or with one of its three kinds as
# simulated by Machado, Oliveira and Fernandes 2009. The least distance in CIELAB is 28 among the
# first 7 and 17 among all; with Okabe and Ito's 7 colors, or tableau-colorblind10, it is 14 or 7.
_COLORBLIND_COLORS = (
    *("#ff00ff", "#00ff00", "#006600", "#996699", "#000099", "#ff9966", "#660066"),
    *("#99ccff", "#ff0066", "#0033ff", "#003300", "#669900", "#cc9999", "#ccff99"),
    *("#330033", "#333333", "#663399", "#993366", "#99ff66", "#cc66cc", "#66ffff"),
)


def blend_labels(
    image: np.ndarray,
    label_map: np.ndarray,
    colors: Sequence[Color],
    alpha: float = 0.7,
    plain_background: bool = False,
) -> np.ndarray:
    """Return the image under its label map, uint8 ``[H, W, 3]``, with light outlines.

    Args:
        image: uint8 ``[H, W, 3]``.
        label_map: integers ``[H, W]``.
        colors: one RGB triple per label, background first.
        alpha: weight of the label's color, in 0..1.
        plain_background: leave the image as it is there; if not, the palette's black darkens it.

    Raises:
        ValueError: a label without a color.
    """
    unknown = label_map[(label_map >= len(colors)) & (label_map != IGNORE_LABEL)]
    if unknown.size:
        raise ValueError(f"label {unknown[0]} has none of the {len(colors)} colors")
    palette = np.zeros((IGNORE_LABEL + 1, 3), np.uint8)
    palette[: len(colors)] = colors
    palette[IGNORE_LABEL] = IGNORE_COLOR
    blend = cv2.addWeighted(image, 1 - alpha, palette[label_map], alpha, 0)
    if plain_background:
        blend = np.where(label_map[..., None] == 0, image, blend)
    # Dark classes (VOC's cat, sofa) would be lost against a dark background.
    edges = cv2.morphologyEx(label_map.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((2, 2)))
    blend[edges > 0] = _OUTLINE_COLOR
    return blend


def make_faint(image: np.ndarray) -> np.ndarray:
    """Return the image in gray, halfway to a uniform one, so that a heat map keeps its colors."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.cvtColor(gray // 2 + 64, cv2.COLOR_GRAY2RGB)


def draw_heat(image: np.ndarray, heat: np.ndarray, colorblind: bool = False) -> np.ndarray:
    """Return the image under a heat map, uint8 ``[H, W, 3]``.

    Args:
        image: uint8 ``[H, W, 3]``.
        heat: float ``[H, W]``; clipped to 0..1.
        colorblind: draw from blue (0) to yellow (1), not over green to red.
    """
    # The color map clips.
    colors = matplotlib.colormaps[HEAT_COLORMAPS[colorblind]](heat, bytes=True)[..., :3]
    return cv2.addWeighted(image, 1 - HEAT_WEIGHT, colors, HEAT_WEIGHT, 0)


def choose_colors(
    class_colors: Sequence[Color], labels: Sequence[int], colorblind: bool
) -> list[Color]:
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
    colors: list[Color] = [(0, 0, 0)] * len(class_colors)
    for label, color in zip(ranked, cycle(_COLORBLIND_COLORS), strict=False):
        colors[label] = tuple(bytes.fromhex(color[1:]))
    return colors


def find_labels(label_maps: Iterable[np.ndarray]) -> list[int]:
    """Return the labels that occur in label maps, in ascending order."""
    return sorted({int(label) for label_map in label_maps for label in np.unique(label_map)})


def make_legend(
    labels: Sequence[int], class_names: Sequence[str], colors: Sequence[Color]
) -> list[tuple[str, Color]]:
    """Return name and RGB of labels: 0..C, background first, or 255 for ignored."""
    ignored = ("ignored", IGNORE_COLOR)
    return [ignored if i == IGNORE_LABEL else (class_names[i], colors[i]) for i in labels]
