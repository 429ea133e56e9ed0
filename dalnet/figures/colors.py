# SPDX-License-Identifier: Apache-2.0
"""Colours of figures: a data set's own, or such that colour-blind readers can tell them apart."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2

from .colorblind import colorblind_palette
from .overlay import IGNORE_COLOR, IGNORE_LABEL

# So many classes have colours that colour-blind readers tell apart with ease (a distance above 20
# in CIELAB); the next ones get the same colours again, hatched.
_SAFE_COLORS = 11
_HATCHES = ("", "////", "....", "xxxx", "----", "oo", "||||", "++++")


@dataclass(frozen=True)
class LabelStyle:
    """How one label looks: its name, RGB in 0..255 and matplotlib's code of its hatching."""

    name: str
    color: tuple[int, ...]
    hatch: str = ""


@dataclass(frozen=True)
class Appearance:
    """How the labels and heat maps of one data set look.

    Attributes:
        class_names: C + 1 names, background first.
        class_colors: C + 1 RGB triples in 0..255, used unless ``colorblind``.
        colorblind: use colours that colour-blind readers can tell apart, hatching where these do
            not suffice, and write the names of classes on their regions.
    """

    class_names: Sequence[str]
    class_colors: Sequence[Sequence[int]]
    colorblind: bool = False

    @property
    def colormap(self) -> int:
        """OpenCV's colours for heat maps."""
        return cv2.COLORMAP_CIVIDIS if self.colorblind else cv2.COLORMAP_JET

    def styles(self, shown: Iterable[int]) -> Mapping[int, LabelStyle]:
        """Return the style of each label of a figure that shows ``shown``, in ascending order.

        Colours that are safe are few, so the labels that are shown get them, in ascending order.
        """
        styles = {}
        palette = colorblind_palette(1 + _SAFE_COLORS)
        for label in sorted(set(shown)):
            if label == IGNORE_LABEL:
                styles[label] = LabelStyle("ignored", IGNORE_COLOR)
            elif self.colorblind and label > 0:
                place = sum(other > 0 for other in styles)
                color = tuple(palette[1 + place % _SAFE_COLORS])
                hatch = _HATCHES[place // _SAFE_COLORS % len(_HATCHES)]
                styles[label] = LabelStyle(self.class_names[label], color, hatch)
            else:
                color = tuple((palette if self.colorblind else self.class_colors)[label])
                styles[label] = LabelStyle(self.class_names[label], color)
        return styles
