# SPDX-License-Identifier: Apache-2.0
"""Keeps what a model says about one image: as arrays, over the image, and as a file."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dalnet.data.image_io import write_mask
from dalnet.data.palette import voc_palette
from dalnet.errors import UsageError
from dalnet.figures.fonts import find_font
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
            shown = np.where(
                np.isin(shown, label_values(self.class_names, classes, "classes")), shown, 0
            )
        colors = voc_palette(len(self.class_names))
        blend = blend_labels(self.image, shown, colors, _ALPHA, plain_background=True)
        return _draw_names(blend, shown, self.class_names)

    def cam_overlay(self, class_name: str) -> np.ndarray:
        """Return the image under the CAM of one of ``cams``, uint8 ``[H, W, 3]``."""
        return draw_heat(self.image, self.cams[class_name])

    def save(self, path: str | os.PathLike) -> None:
        """Write ``labels`` as a PNG with VOC's palette, whole or not at all.

        Raises:
            UsageError: its name does not end in .png, or it cannot be written.
        """
        if Path(path).suffix.lower() != ".png":
            raise UsageError("a label map is written as PNG", path, "name it .png")
        write_mask(Path(path), self.labels)


def label_values(
    class_names: Sequence[str], chosen: Sequence[str], parameter: str = "image_classes"
) -> list[int]:
    """Return the labels 1..C of the ``chosen`` ones of ``class_names``, each once.

    Raises:
        UsageError: ``parameter`` has a name that is not known.
    """
    values = {name: value for value, name in enumerate(class_names) if value > 0}
    for name in chosen:
        if name not in values:
            hint = f"it knows {', '.join(values)}"
            raise UsageError(f"the model knows no class {name!r}", parameter, hint)
    return [values[name] for name in dict.fromkeys(chosen)]


def _draw_names(image: np.ndarray, label_map: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Return the image with the name of each class where its region is widest."""
    height, width = label_map.shape
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    text_size = max(_MIN_TEXT, round(math.sqrt(height * width) * _TEXT_FRACTION))
    # OpenCV's own font has no letters beyond ASCII.
    font = ImageFont.truetype(find_font("".join(class_names)), text_size)
    stroke = max(1, text_size // 6)
    taken = np.zeros((height, width), bool)
    for label in np.unique(label_map[label_map > 0]):
        name = class_names[label]
        region = np.pad((label_map == label).astype(np.uint8), 1)
        depth = cv2.distanceTransform(region, cv2.DIST_L2, 3)[1:-1, 1:-1]
        deepest = np.argwhere(depth == depth.max())
        y, x = deepest[np.abs(deepest - deepest.mean(axis=0)).sum(axis=1).argmin()].tolist()
        box = draw.textbbox((x, y), name, font, "mm", stroke_width=stroke)
        left, top, right, bottom = map(round, box)
        # Back into the image, where the region lies at its edge; then below names that are there.
        dx = min(width - right, 0) - min(left, 0)
        dy = min(height - bottom, 0) - min(top, 0)
        columns = slice(max(left + dx, 0), right + dx)
        while taken[top + dy : bottom + dy, columns].any():
            dy += 1
        taken[top + dy : bottom + dy, columns] = True
        place = (x + dx, y + dy)
        draw.text(place, name, "white", font, "mm", stroke_width=stroke, stroke_fill="black")
    return np.array(canvas)
