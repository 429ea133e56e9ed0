# SPDX-License-Identifier: Apache-2.0
"""Label maps and CAMs as colours, alone or over the photograph.

Images are RGB, uint8 ``[H, W, 3]``. In a label map background is 0, class c of 0..C-1 is c + 1 and
255 is ignored; ``colors`` are the C + 1 RGB triples in 0..255 of a data set's ``stuff_colors``.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from dalnet.data.datasets.catalog import IGNORE_LABEL
from dalnet.errors import UsageError

# What the VOC palette gives index 255; no class of it is as light.
IGNORE_COLOR = (224, 224, 192)
_OUTLINE_COLOR = (240, 240, 240)
_HEAT_WEIGHT = 0.5


def draw_label_map(
    label_map: np.ndarray,
    colors: Sequence[Sequence[int]],
    ignore_color: Sequence[int] = IGNORE_COLOR,
) -> np.ndarray:
    """Paint every label in its colour.

    Args:
        label_map: ``[H, W]`` integers.
        colors: one RGB triple per label, background first.
        ignore_color: RGB of ignored pixels.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        UsageError: a label without a colour.
    """
    label_map = np.asarray(label_map)
    known = (label_map >= 0) & (label_map < len(colors)) | (label_map == IGNORE_LABEL)
    if not known.all():
        raise UsageError(
            f"A label map contains the value {label_map[~known][0]}, but only 0 to "
            f"{len(colors) - 1} and ignore {IGNORE_LABEL} have colours; give the stuff_colors of "
            "the data set that the map belongs to."
        )
    palette = np.zeros((IGNORE_LABEL + 1, 3), np.uint8)
    palette[: len(colors)] = colors
    palette[IGNORE_LABEL] = ignore_color
    return palette[label_map]


def blend_labels(
    image: np.ndarray,
    label_map: np.ndarray,
    colors: Sequence[Sequence[int]],
    alpha: float = 0.7,
) -> np.ndarray:
    """Lay a label map over its photograph, with light outlines between the labels.

    A black background, as in the VOC palette, darkens the photograph there.

    Args:
        image: uint8 ``[H, W, 3]``.
        label_map: ``[H, W]`` integers.
        colors: one RGB triple per label, background first.
        alpha: share of the label's colour, in 0..1.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        UsageError: a label without a colour.
    """
    blend = cv2.addWeighted(image, 1 - alpha, draw_label_map(label_map, colors), alpha, 0)
    # Dark classes (VOC's cat, sofa) would be lost against a dark background.
    edges = cv2.morphologyEx(np.asarray(label_map, np.uint8), cv2.MORPH_GRADIENT, np.ones((2, 2)))
    blend[edges > 0] = _OUTLINE_COLOR
    return blend


def draw_heat(image: np.ndarray, heat: np.ndarray, colormap: int = cv2.COLORMAP_JET) -> np.ndarray:
    """Lay a heat map over its photograph, by default from blue (0) over green to red (1).

    Args:
        image: uint8 ``[H, W, 3]``.
        heat: float ``[H, W]``; clipped to 0..1.
        colormap: one of OpenCV's.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    levels = np.round(255 * np.clip(heat, 0, 1)).astype(np.uint8)
    colors = cv2.cvtColor(cv2.applyColorMap(levels, colormap), cv2.COLOR_BGR2RGB)
    return cv2.addWeighted(image, 1 - _HEAT_WEIGHT, colors, _HEAT_WEIGHT, 0)


def draw_cam(image: np.ndarray, cams: np.ndarray, present: Sequence[int]) -> np.ndarray:
    """Lay the largest CAM of the present classes over the photograph.

    Args:
        image: uint8 ``[H, W, 3]``.
        cams: float ``[C, H, W]`` in 0..1.
        present: indices 0..C-1 of the classes that the image shows; may be empty.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    return draw_heat(image, cams[list(present)].max(axis=0, initial=0.0))
