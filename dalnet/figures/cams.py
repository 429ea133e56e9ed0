# SPDX-License-Identifier: Apache-2.0
"""Figures 3 and 5: CAMs of one model by class, and of several models side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from dalnet.data.datasets.catalog import class_table
from dalnet.errors import UsageError

from .images import ImageResult
from .layout import add_colorbar, add_legend, draw_page, wrap_maps
from .overlay import blend_labels, choose_colors, draw_heat, find_labels, make_faint


def draw_cams(results: Sequence[ImageResult], split: str, colorblind: bool = False) -> Figure:
    """Return Figure 3, for ``save_figure``: image, truth and the CAM of each of its classes.

    Args:
        results: at least one image with its CAMs.
        split: the data set that the images are of.
        colorblind: use colors that color-blind readers can tell apart.

    Raises:
        UsageError: an image without a CAM.
    """
    _require_cams(results)
    names, class_colors = class_table(split)
    truths = [result.truth for result in results if result.truth is not None]
    colors = choose_colors(class_colors, find_labels(truths), colorblind)
    rows = []
    for result in results:
        faint = make_faint(result.image)
        maps = [(draw_heat(faint, cam, colorblind), names[c + 1]) for c, cam in result.cams.items()]
        lead = [(result.image, result.name)]
        if result.truth is not None:
            lead.append((blend_labels(result.image, result.truth, colors), ""))
        elif truths:
            lead.append(None)
        rows += wrap_maps(lead, maps)
    figure = draw_page(rows, ["image", *["truth"] * bool(truths), "CAM"])
    add_colorbar(figure, "CAM", colorblind)
    add_legend(figure, truths, names, colors)
    return figure


def draw_comparison(
    results: Mapping[str, Sequence[ImageResult]],
    split: str,
    class_name: str | None = None,
    colorblind: bool = False,
) -> Figure:
    """Return Figure 5, for ``save_figure``: each image and its CAM by each model.

    Args:
        results: by the name that is shown above its CAMs, what each model says of the same images.
        class_name: whose CAM, of images that are labeled so; where not given, the largest CAM of
            the classes that an image shows.
        split, colorblind: as for ``draw_cams``.

    Raises:
        UsageError: an image without a CAM.
    """
    for one in results.values():
        _require_cams(one)
    names, _ = class_table(split)
    rows = []
    for same_image in zip(*results.values(), strict=True):
        first, classes = same_image[0], same_image[0].image_classes
        if class_name is not None:
            classes = (names.index(class_name) - 1,)
        caption = f"{first.name}: {', '.join(names[c + 1] for c in classes)}"
        faint = make_faint(first.image)
        cams = [np.max([result.cams[c] for c in classes], axis=0) for result in same_image]
        heat = [(draw_heat(faint, cam, colorblind), "") for cam in cams]
        rows.append([(first.image, caption), *heat])
    figure = draw_page(rows, ["image", *results])
    add_colorbar(figure, "CAM", colorblind)
    return figure


def _require_cams(results: Sequence[ImageResult]) -> None:
    for result in results:
        if not result.cams:
            raise UsageError(
                f"The model gives no CAM of {result.name}; draw another figure, or name images "
                "with image-level labels."
            )
