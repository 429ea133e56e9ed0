# SPDX-License-Identifier: Apache-2.0
"""Figure 4: image, truth and prediction."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from dalnet.data.datasets.catalog import class_table
from dalnet.errors import UsageError

from .colors import choose_colors, find_labels
from .images import ImageResult
from .layout import add_legend, draw_page, label_cell


def draw_segmentations(
    results: Sequence[ImageResult], split: str, colorblind: bool = False
) -> Figure:
    """Return the figure of a model's label maps; arguments as for ``draw_cams``.

    Raises:
        UsageError: an image without a prediction.
    """
    for result in results:
        if result.prediction is None:
            raise UsageError(
                f"The model labels pixels by image-level labels, and {result.name} has none; name "
                "an image that has some."
            )
    names, class_colors = class_table(split)
    truths = [result.truth for result in results if result.truth is not None]
    label_maps = [*truths, *(result.prediction for result in results)]
    colors = choose_colors(class_colors, find_labels(label_maps), colorblind)
    rows = []
    for result in results:
        shown = [result.truth, result.prediction] if truths else [result.prediction]
        cells = [label_cell(result.image, label_map, colors) for label_map in shown]
        rows.append([(result.image, result.name), *cells])
    figure = draw_page(rows, ["image", *["truth"] * bool(truths), "prediction"])
    add_legend(figure, label_maps, names, colors)
    return figure
