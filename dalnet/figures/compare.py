# SPDX-License-Identifier: Apache-2.0
"""Figure 5: CAMs of several models side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from dalnet.data.datasets.catalog import class_table

from .colors import heat_colormap
from .images import ImageResult, require_cams
from .layout import Cell, add_colorbar, draw_page
from .overlay import draw_heat, make_faint


def draw_comparison(
    results: Mapping[str, Sequence[ImageResult]],
    split: str,
    class_name: str | None = None,
    colorblind: bool = False,
) -> Figure:
    """Return the figure with each image's CAM by each model beside it.

    Args:
        results: by the name that is shown above its CAMs, what each model says of the same images.
        class_name: whose CAM, of images that are labeled so; where not given, the largest CAM of
            the classes that an image shows.
        split, colorblind: as for ``draw_cams``.

    Raises:
        UsageError: an image without a CAM.
    """
    for one in results.values():
        require_cams(one)
    names, _ = class_table(split)
    colormap = heat_colormap(colorblind)
    rows = []
    for same_image in zip(*results.values(), strict=True):
        image, name = same_image[0].image, same_image[0].name
        classes = same_image[0].image_classes
        if class_name is not None:
            classes = (names.index(class_name) - 1,)
        row: list[Cell] = [(image, f"{name}: {', '.join(names[c + 1] for c in classes)}")]
        for result in same_image:
            cam = np.max([result.cams[c] for c in classes], axis=0)
            row.append((draw_heat(make_faint(image), cam, colormap), ""))
        rows.append(row)
    figure = draw_page(rows, ["image", *results])
    add_colorbar(figure, "CAM", colormap)
    return figure
