# SPDX-License-Identifier: Apache-2.0
"""Draws contact sheets, of which Figure 4 is one: image, truth, CAM, pseudo label, prediction."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from dalnet.data.datasets.catalog import class_table

from .images import ImageResult
from .layout import add_legend, draw_page
from .overlay import Color, blend_labels, choose_colors, draw_heat, find_labels

_TITLES = ("image", "truth", "CAM", "pseudo label", "prediction")


def draw_sheet(
    results: Sequence[ImageResult],
    split: str,
    headline: str = "",
    titles: Sequence[str] = _TITLES,
    colorblind: bool = False,
) -> Figure:
    """Return a contact sheet, for ``save_figure``; a column that no image can fill is left out.

    Args:
        results: at least one image with its predictions.
        split: the data set that the images are of.
        headline: of the page.
        titles: of the columns that are wanted.
        colorblind: use colors that color-blind readers can tell apart.
    """
    names, class_colors = class_table(split)
    label_maps = [one for r in results for title, one in r.label_maps.items() if title in titles]
    colors = choose_colors(class_colors, find_labels(label_maps), colorblind)
    panels = [draw_panels(result, colors, colorblind) for result in results]
    titles = [title for title in titles if any(title in one for one in panels)]
    rows = []
    for result, one in zip(results, panels, strict=True):
        classes = ", ".join(names[c + 1] for c in result.image_classes)
        captions = {"image": f"{result.name}: {classes}" if classes else result.name}
        rows.append([(one[t], captions.get(t, "")) if t in one else None for t in titles])
    figure = draw_page(rows, titles, headline)
    add_legend(figure, label_maps, names, colors)
    return figure


def draw_panels(
    result: ImageResult, colors: Sequence[Color], colorblind: bool = False
) -> dict[str, np.ndarray]:
    """Return what there is to see of an image: uint8 ``[H, W, 3]`` by title.

    Args:
        result: the image with its predictions; of its CAMs the largest is shown.
        colors: C + 1 RGB triples in 0..255, background first.
        colorblind: whether CAMs are drawn from blue to yellow, not over green to red.
    """
    panels = {"image": result.image}
    for title, label_map in result.label_maps.items():
        panels[title] = blend_labels(result.image, label_map, colors)
    if result.cams:
        cam = np.max(list(result.cams.values()), axis=0)
        panels["CAM"] = draw_heat(result.image, cam, colorblind)
    return {title: panels[title] for title in _TITLES if title in panels}
