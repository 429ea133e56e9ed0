# SPDX-License-Identifier: Apache-2.0
"""What a model says about one image: as arrays, over the image, and as a file."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dalnet.data.image_io import write_mask
from dalnet.data.palette import voc_palette
from dalnet.errors import UsageError
from dalnet.figures.overlay import blend_labels, draw_heat

_ALPHA = 0.55
_MIN_TEXT, _TEXT_FRACTION = 9, 1 / 28  # pixels; of the side of a square as large as the image


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says about one image of H x W pixels.

    Attributes:
        image: uint8 ``[H, W, 3]``, RGB.
        labels: uint8 ``[H, W]``, the arg max of ``scores``: i stands for ``class_names[i]``.
        scores: float32 ``[C + 1, H, W]``, background first: probabilities or, of a system without
            segmentation head, its CAMs beside the threshold that they have to exceed.
        cams: by class name float32 ``[H, W]`` in 0..1, before any CRF. Each is scaled to its own
            maximum: it lights up somewhere also for a class that the image does not show.
        class_names: C + 1 names, background first.
    """

    image: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    cams: dict[str, np.ndarray]
    class_names: tuple[str, ...]

    def overlay(self, classes: Sequence[str] | None = None) -> np.ndarray:
        """Return the image under its classes, in VOC's colors and named, uint8 ``[H, W, 3]``.

        Args:
            classes: those to be shown, the others as background; None for all.

        Raises:
            UsageError: an unknown class.
        """
        shown = self.labels
        if classes is not None:
            shown = np.where(np.isin(shown, label_values(self.class_names, classes)), shown, 0)
        blend = blend_labels(self.image, shown, voc_palette(len(self.class_names)), _ALPHA)
        # With blend_labels' own neighborhood: what is left dark is exactly the outlines.
        plain = cv2.erode((shown == 0).astype(np.uint8), np.ones((2, 2))) > 0
        blend[plain] = self.image[plain]
        return _draw_names(blend, shown, self.class_names)

    def cam_overlay(self, class_name: str) -> np.ndarray:
        """Return the image under the CAM of one of ``cams``, uint8 ``[H, W, 3]``."""
        return draw_heat(self.image, self.cams[class_name])

    def save(self, path: str | os.PathLike) -> None:
        """Write ``labels`` as a PNG with VOC's palette, whole or not at all.

        Raises:
            UsageError: it cannot be written.
        """
        write_mask(Path(path), self.labels)


def label_values(class_names: Sequence[str], chosen: Sequence[str]) -> list[int]:
    """Return the labels 1..C of the ``chosen`` ones of ``class_names``, background first.

    Raises:
        UsageError: a name that is not known.
    """
    values = {name: value for value, name in enumerate(class_names) if value > 0}
    unknown = next((name for name in chosen if name not in values), None)
    if unknown is not None:
        raise UsageError(f"The model knows no class {unknown!r}; it knows {', '.join(values)}.")
    return [values[name] for name in chosen]


def _draw_names(image: np.ndarray, label_map: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Write the name of each class where its region is widest."""
    height, width = label_map.shape
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    text_size = max(_MIN_TEXT, round(math.sqrt(height * width) * _TEXT_FRACTION))
    # The font that comes with matplotlib: OpenCV's own has no letters beyond ASCII.
    font_file = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    font = ImageFont.truetype(str(font_file), text_size)
    style = {"font": font, "anchor": "mm", "stroke_width": max(1, text_size // 6)}
    taken = np.zeros((height, width), bool)
    for label in np.unique(label_map[label_map > 0]):
        region = np.pad((label_map == label).astype(np.uint8), 1)
        depth = cv2.distanceTransform(region, cv2.DIST_L2, 3)[1:-1, 1:-1]
        deepest = np.argwhere(depth == depth.max())
        y, x = deepest[np.abs(deepest - deepest.mean(axis=0)).sum(axis=1).argmin()]
        left, top, right, bottom = map(round, draw.textbbox((x, y), class_names[label], **style))
        # Back into the image, where the region lies at its edge; then below names that are there.
        x_shift = min(width - right, 0) - min(left, 0)
        y_shift = min(height - bottom, 0) - min(top, 0)
        columns = slice(max(left + x_shift, 0), right + x_shift)
        while taken[top + y_shift : bottom + y_shift, columns].any():
            y_shift += 1
        taken[top + y_shift : bottom + y_shift, columns] = True
        place = (x + x_shift, y + y_shift)
        draw.text(place, class_names[label], fill="white", stroke_fill="black", **style)
    return np.array(picture)
