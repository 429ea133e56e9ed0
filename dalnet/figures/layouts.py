# SPDX-License-Identifier: Apache-2.0
"""The paper's Figures 3 to 6 as pages of pictures; :func:`save_figure` writes them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from dalnet.errors import UsageError

from .colors import Appearance, LabelStyle
from .grid import Cell, ColorBar, draw_grid, legend_handles
from .overlay import IGNORE_LABEL, blend_labels, draw_heat

_MAPS_PER_LINE = 4  # an image with more classes goes on below
_LEAST_SPAN = 1e-6  # of the values that all colours are given to: a flat map stays one colour
_GREY = 128  # lies under the colour bar; photographs under heat maps are drawn halfway to it
_LETTER = 0.029  # width of a letter of a region's name, as a share of the picture's width


@dataclass(frozen=True)
class Subject:
    """An image that a figure shows.

    Attributes:
        name: file name without suffix.
        photo: uint8 ``[H, W, 3]``, RGB.
        truth: integers ``[H, W]`` with 255 for ignored, or None where there is no mask.
    """

    name: str
    photo: np.ndarray
    truth: np.ndarray | None = None


def cam_figure(
    subjects: Sequence[Subject],
    cams: Sequence[Mapping[int, np.ndarray]],
    appearance: Appearance,
) -> Figure:
    """Figure 3: beside each photograph its truth, if any has one, and the CAM of each class.

    Args:
        subjects: at least one image.
        cams: of each image by label (c + 1 for class c), float ``[H, W]`` in 0..1.
        appearance: names and colours.

    Raises:
        UsageError: no images, or a label without a colour.
    """
    _check(subjects)
    truths = [subject.truth for subject in subjects if subject.truth is not None]
    labels = _LabelMaps(truths, appearance)

    def lead(subject: Subject) -> list[Cell | None]:
        return [_photo(subject), *([labels.cell(subject, subject.truth)] if truths else [])]

    def overlay(subject: Subject, label: int, cam: np.ndarray) -> Cell:
        picture = _heat(subject, cam, appearance)
        return Cell(picture, appearance.class_names[label])

    rows, columns = _heat_rows(subjects, cams, lead, overlay)
    titles = ["photo", *["truth"] * bool(truths), *["CAM"] * columns]
    bar = _color_bar("CAM", (0.0, 1.0), appearance.colormap)
    return draw_grid(rows, titles, labels.legend(), bar=bar)


def segmentation_figure(
    subjects: Sequence[Subject], predictions: Sequence[np.ndarray], appearance: Appearance
) -> Figure:
    """Figure 4: photograph, truth, if any has one, and the segmentation.

    Args:
        subjects: at least one image.
        predictions: of each image, integers ``[H, W]``.
        appearance: names and colours.

    Raises:
        UsageError: no images, or a label without a colour.
    """
    _check(subjects)
    truths = [subject.truth for subject in subjects if subject.truth is not None]
    labels = _LabelMaps([*truths, *predictions], appearance)
    rows = [
        [
            _photo(subject),
            *([labels.cell(subject, subject.truth)] if truths else []),
            labels.cell(subject, prediction),
        ]
        for subject, prediction in zip(subjects, predictions, strict=True)
    ]
    titles = ["photo", *["truth"] * bool(truths), "prediction"]
    return draw_grid(rows, titles, labels.legend())


def comparison_figure(
    subjects: Sequence[Subject],
    captions: Sequence[str],
    cams: Mapping[str, Sequence[np.ndarray]],
    appearance: Appearance,
) -> Figure:
    """Figure 5: beside each photograph its CAM by each of several models.

    Args:
        subjects: at least one image.
        captions: of each image, as the classes whose CAMs are shown.
        cams: by the model's name, for each image float ``[H, W]`` in 0..1.
        appearance: names and colours.

    Raises:
        UsageError: no images.
    """
    _check(subjects)
    rows = [
        [
            Cell(subject.photo, f"{subject.name}: {caption}"),
            *(Cell(_heat(subject, maps[i], appearance)) for maps in cams.values()),
        ]
        for i, (subject, caption) in enumerate(zip(subjects, captions, strict=True))
    ]
    bar = _color_bar("CAM", (0.0, 1.0), appearance.colormap)
    return draw_grid(rows, ["photo", *cams], bar=bar)


def similarity_figure(
    subjects: Sequence[Subject],
    similarities: Sequence[Mapping[int, np.ndarray]],
    appearance: Appearance,
    stretch: bool = False,
) -> Figure:
    """Figure 6: how near the patches are to the text of each class and of the background.

    Args:
        subjects: at least one image.
        similarities: of each image by label (0: background), float ``[H, W]`` in -1..1.
        appearance: names and colours.
        stretch: give the whole range of colours to each map, which shows differences within it;
            where not, to all values of the figure, so that maps can be compared.

    Raises:
        UsageError: no images.
    """
    _check(subjects)
    ranges = [_range(one) for maps in similarities for one in maps.values()]
    ends = min(low for low, _ in ranges), max(high for _, high in ranges)

    def overlay(subject: Subject, label: int, cosine: np.ndarray) -> Cell:
        own = _range(cosine)
        low, high = own if stretch else ends
        heat = (cosine - low) / max(high - low, _LEAST_SPAN)
        picture = _heat(subject, heat, appearance)
        caption = "{}, {:.3f} to {:.3f}".format(appearance.class_names[label], *own)
        return Cell(picture, caption)

    rows, columns = _heat_rows(subjects, similarities, lambda one: [_photo(one)], overlay)
    label = "cosine of patch and text"
    if stretch:
        label += ", from the lowest to the highest of each map"
    has_ends = not stretch and ends[1] - ends[0] > _LEAST_SPAN
    bar = _color_bar(label, ends if has_ends else None, appearance.colormap)
    return draw_grid(rows, ["photo", *["similarity"] * columns], bar=bar)


def _range(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


class _LabelMaps:
    """Label maps of one figure, in colours that depend on the labels that occur in it."""

    def __init__(self, label_maps: Sequence[np.ndarray], appearance: Appearance) -> None:
        shown = {int(label) for label_map in label_maps for label in np.unique(label_map)}
        unknown = shown - set(range(len(appearance.class_names))) - {IGNORE_LABEL}
        if unknown:
            raise UsageError(
                f"A label map contains the value {min(unknown)}, which is no class of the data "
                "set; name the split that the model was trained for."
            )
        self.styles = appearance.styles(shown)
        self.colors = [
            self.styles[i].color if i in self.styles else (0, 0, 0)
            for i in range(len(appearance.class_names))
        ]
        self.colorblind = appearance.colorblind

    def cell(self, subject: Subject, label_map: np.ndarray | None) -> Cell | None:
        """The map over its photograph."""
        if label_map is None:
            return None
        picture = blend_labels(subject.photo, label_map, self.colors)
        if not self.colorblind:
            return Cell(picture)
        return Cell(picture, decorate=lambda axes: _mark_regions(axes, label_map, self.styles))

    def legend(self) -> list:
        """Handles of the labels that occur."""
        return legend_handles(self.styles)


def _mark_regions(axes: Axes, label_map: np.ndarray, styles: Mapping[int, LabelStyle]) -> None:
    """Hatch the regions whose style asks for it, and write the names of all but background."""
    width = label_map.shape[1]
    for label in np.unique(label_map):
        if label in (0, IGNORE_LABEL):
            continue
        style, region = styles[int(label)], (label_map == label).astype(np.uint8)
        if style.hatch:
            axes.contourf(region, levels=[0.5, 1.5], colors="none", hatches=[style.hatch])
        # The centre of the largest circle inside; beyond the picture's edge is outside.
        padded = cv2.copyMakeBorder(region, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        half = min(0.5, len(style.name) * _LETTER / 2) * width
        x = np.clip(x, half - 0.5, width - half - 0.5)
        outline = [withStroke(linewidth=2, foreground="black")]
        look = {"size": 8, "color": "white", "path_effects": outline}
        axes.text(x, y, style.name, ha="center", va="center", **look)


def _heat_rows(
    subjects: Sequence[Subject],
    maps: Sequence[Mapping[int, np.ndarray]],
    lead: Callable[[Subject], list[Cell | None]],
    overlay: Callable[[Subject, int, np.ndarray], Cell],
) -> tuple[list[list[Cell | None]], int]:
    """Rows of ``lead`` cells and, behind them, one overlay a label; and the columns of overlays."""
    rows, columns = [], 0
    for subject, by_label in zip(subjects, maps, strict=True):
        cells = [overlay(subject, label, one) for label, one in by_label.items()]
        columns = max(columns, min(len(cells), _MAPS_PER_LINE))
        first = lead(subject)
        for start in range(0, max(len(cells), 1), _MAPS_PER_LINE):
            before = [None] * len(first) if start else first
            rows.append([*before, *cells[start : start + _MAPS_PER_LINE]])
    return rows, columns


def _heat(subject: Subject, heat: np.ndarray, appearance: Appearance) -> np.ndarray:
    """The heat map over a faint grey photograph: hue and lightness are then the colour bar's."""
    grey = cv2.cvtColor(subject.photo, cv2.COLOR_RGB2GRAY)
    faint = cv2.addWeighted(grey, 0.5, np.full_like(grey, _GREY), 0.5, 0)
    return draw_heat(cv2.cvtColor(faint, cv2.COLOR_GRAY2RGB), heat, appearance.colormap)


def _photo(subject: Subject) -> Cell:
    return Cell(subject.photo, subject.name)


def _color_bar(label: str, ends: tuple[float, float] | None, colormap: int) -> ColorBar:
    """The colours as they look over a grey photograph."""
    photo = np.full((1, 256, 3), _GREY, np.uint8)
    return ColorBar(draw_heat(photo, np.linspace(0, 1, 256)[None], colormap), label, ends)


def _check(subjects: Sequence[Subject]) -> None:
    if not subjects:
        raise UsageError("There are no images to draw; give --images, or a --count above 0.")
