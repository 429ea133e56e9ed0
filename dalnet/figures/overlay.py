# SPDX-License-Identifier: Apache-2.0
"""Label maps and heat maps over their image.

Images are RGB, uint8 ``[H, W, 3]``. In a label map background is 0, class c of 0..C-1 is c + 1 and
255 is ignored; ``colors`` are C + 1 RGB triples in 0..255, background first. Detectron2's
``Visualizer.draw_sem_seg`` leaves ignored pixels undrawn, which a pseudo label has to show.
"""

from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np

from dalnet.data.datasets.catalog import IGNORE_LABEL

# What the VOC palette gives index 255; no class of it is as light.
IGNORE_COLOR = (224, 224, 192)
HEAT_WEIGHT = 0.5
_OUTLINE_COLOR = (240, 240, 240)


def blend_labels(
    image: np.ndarray,
    label_map: np.ndarray,
    colors: Sequence[Sequence[int]],
    alpha: float = 0.7,
) -> np.ndarray:
    """Return the image under its label map, with light outlines between the labels.

    A black background, as in the VOC palette, darkens the image there.

    Args:
        image: uint8 ``[H, W, 3]``.
        label_map: integers ``[H, W]``.
        colors: one RGB triple per label, background first.
        alpha: weight of the label's color, in 0..1.

    Returns:
        uint8 ``[H, W, 3]``.

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
    # Dark classes (VOC's cat, sofa) would be lost against a dark background.
    edges = cv2.morphologyEx(label_map.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((2, 2)))
    blend[edges > 0] = _OUTLINE_COLOR
    return blend


def make_faint(image: np.ndarray) -> np.ndarray:
    """Return the image in gray, halfway to a uniform one, so that a heat map keeps its colors."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.cvtColor(gray // 2 + 64, cv2.COLOR_GRAY2RGB)


def draw_heat(image: np.ndarray, heat: np.ndarray, colormap: str = "jet") -> np.ndarray:
    """Return the image under a heat map, by default from blue (0) over green to red (1).

    Args:
        image: uint8 ``[H, W, 3]``.
        heat: float ``[H, W]``; clipped to 0..1.
        colormap: one of matplotlib's.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    # The color map clips.
    colors = matplotlib.colormaps[colormap](heat, bytes=True)[..., :3]
    return cv2.addWeighted(image, 1 - HEAT_WEIGHT, colors, HEAT_WEIGHT, 0)
