# SPDX-License-Identifier: Apache-2.0
"""Figure 3: beside each image its truth and the CAM of each class of its image-level labels."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from dalnet.data.datasets.catalog import class_table

from .colors import choose_colors, find_labels, heat_colormap
from .images import ImageResult, require_cams
from .layout import add_colorbar, add_legend, draw_page, wrap_maps
from .overlay import blend_labels, draw_heat, make_faint


def draw_cams(results: Sequence[ImageResult], split: str, colorblind: bool = False) -> Figure:
    """Return the figure of a model's CAMs, for ``save_figure``.

    Args:
        results: at least one image with its CAMs.
        split: the data set that the images are of.
        colorblind: use colors that color-blind readers can tell apart.

    Raises:
        UsageError: an image without a CAM.
    """
    require_cams(results)
    names, class_colors = class_table(split)
    truths = [result.truth for result in results if result.truth is not None]
    colors = choose_colors(class_colors, find_labels(truths), colorblind)
    colormap = heat_colormap(colorblind)
    rows = []
    for result in results:
        faint = make_faint(result.image)
        maps = [(draw_heat(faint, cam, colormap), names[c + 1]) for c, cam in result.cams.items()]
        lead = [(result.image, result.name)]
        if result.truth is not None:
            lead.append((blend_labels(result.image, result.truth, colors), ""))
        elif truths:
            lead.append(None)
        rows += wrap_maps(lead, maps)
    titles = ["image", *["truth"] * bool(truths)]
    titles += ["CAM"] * (max(map(len, rows)) - len(titles))
    figure = draw_page(rows, titles)
    add_colorbar(figure, "CAM", colormap)
    add_legend(figure, truths, names, colors)
    return figure
