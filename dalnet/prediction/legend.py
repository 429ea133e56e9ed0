# SPDX-License-Identifier: Apache-2.0
"""Label maps over photographs for people who know only the classes' names.

Other than ``blend_labels`` alone, the background shows the photograph as it is, and a legend names
the colours. Images are RGB, uint8 ``[H, W, 3]``; names and colours have the background first.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dalnet.figures.overlay import blend_labels

_ALPHA = 0.55
_MIN_TEXT, _TEXT_SHARE = 12, 1 / 28  # pixels; of the side of a square as large as the picture
_OVERLAID_OPACITY = 0.85
_NOTHING = "nothing found"


def annotate(
    image: np.ndarray,
    label_map: np.ndarray,
    class_names: Sequence[str],
    colors: Sequence[Sequence[int]],
    keep_size: bool = False,
) -> np.ndarray:
    """Lay the classes of a label map over its photograph and name them.

    Args:
        image: uint8 ``[H, W, 3]``.
        label_map: integers ``[H, W]``, without ignored pixels.
        class_names: one per label.
        colors: one RGB triple per label.
        keep_size: lay the legend over the lower edge, for films; it is left out where it would
            cover more than half of the picture.

    Returns:
        uint8 ``[H, W, 3]`` with ``keep_size``; else with the legend below, and as wide as that
        needs.
    """
    blend = blend_labels(image, label_map, colors, _ALPHA)
    # With blend_labels' own neighbourhood: what is left dark is exactly the outlines.
    plain = cv2.erode((label_map == 0).astype(np.uint8), np.ones((2, 2))) > 0
    blend[plain] = image[plain]
    height, width = label_map.shape
    shown = [(class_names[i], tuple(colors[i])) for i in np.unique(label_map[label_map > 0])]
    text_size = max(_MIN_TEXT, round(math.sqrt(height * width) * _TEXT_SHARE))
    bar = draw_legend(shown, width, text_size)
    return _lay_over(blend, bar) if keep_size else _put_below(blend, bar)


def draw_legend(
    entries: Sequence[tuple[str, tuple[int, int, int]]], width: int, text_size: int
) -> np.ndarray:
    """Draw coloured squares and names, in as many lines as they take.

    Args:
        entries: name and RGB colour; may be empty.
        width: pixels to fill; exceeded by a name that is longer.
        text_size: pixels.

    Returns:
        uint8 ``[h, w, 3]`` on white, w at least ``width``.
    """
    font = _font(text_size)
    gap = text_size // 2
    line = text_size + gap
    places, x, y, right = [], gap, gap, width
    for name, color in entries or [(_NOTHING, None)]:
        square = 0 if color is None else line
        end = x + square + math.ceil(font.getlength(name)) + gap
        if end > width and x > gap:
            x, y, end = gap, y + line, end - x + gap
        places.append((name, color, x, x + square, y))
        x, right = end + gap, max(right, end)
    picture = Image.new("RGB", (right, y + line), "white")
    draw = ImageDraw.Draw(picture)
    for name, color, left, text_left, top in places:
        if color is not None:
            corners = (left, top, left + text_size, top + text_size)
            draw.rectangle(corners, fill=color, outline="black")
        draw.text((text_left, top + text_size / 2), name, fill="black", font=font, anchor="lm")
    return np.array(picture)


@functools.lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # The font that comes with matplotlib: OpenCV's own has no letters beyond ASCII.
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(path), size)


def _put_below(image: np.ndarray, bar: np.ndarray) -> np.ndarray:
    spare = bar.shape[1] - image.shape[1]
    wide = cv2.copyMakeBorder(image, 0, 0, 0, spare, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    return np.concatenate([wide, bar])


def _lay_over(image: np.ndarray, bar: np.ndarray) -> np.ndarray:
    height, width = bar.shape[:2]
    if width <= image.shape[1] and 2 * height <= image.shape[0]:
        below = image[-height:]
        below[...] = cv2.addWeighted(below, 1 - _OVERLAID_OPACITY, bar, _OVERLAID_OPACITY, 0)
    return image
