# SPDX-License-Identifier: Apache-2.0
"""Figure 6: how near the patches are to the text of each class and of the background."""

from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from matplotlib.figure import Figure

from dalnet.data import build_test_loader
from dalnet.data.datasets.catalog import class_table
from dalnet.data.image_io import read_image
from dalnet.evaluation.alignment import similarity_maps
from dalnet.modeling.meta_arch import WeakSegmentor

from .images import Record
from .layout import add_colorbar, draw_page, wrap_maps
from .overlay import draw_heat, make_faint

_LEAST_SPAN = 1e-6  # of the values that all colors are given to: a flat map stays one color


def draw_similarities(
    cfg: CfgNode,
    model: WeakSegmentor,
    records: list[Record],
    split: str,
    stretch: bool = False,
    colorblind: bool = False,
) -> Figure:
    """Return the figure of the cosines of patches with the texts of classes and background.

    Args:
        cfg, model: trained with alignment.
        records: images of ``split`` with image-level labels.
        stretch: give the whole range of colors to each map, which shows differences within it; if
            not, to all values of the figure, so that maps can be compared.
        split, colorblind: as for ``draw_cams``.

    Raises:
        UsageError: a model without alignment.
    """
    with inference_context(model):
        # By label (0: background), cosines [H, W] in -1..1.
        loader = build_test_loader(cfg, split, records)
        maps = [similarity_maps(model, item) for (item,) in loader]
    names, _ = class_table(split)
    values = np.concatenate([m.ravel() for by_label in maps for m in by_label.values()])
    ends = float(values.min()), float(values.max())
    rows = []
    for record, by_label in zip(records, maps, strict=True):
        image, cells = read_image(record["file_name"]), []
        for label, cosines in by_label.items():
            own = float(cosines.min()), float(cosines.max())
            low, high = own if stretch else ends
            heat = (cosines - low) / max(high - low, _LEAST_SPAN)
            caption = f"{names[label]}, {own[0]:.3f} to {own[1]:.3f}"
            cells.append((draw_heat(make_faint(image), heat, colorblind), caption))
        rows += wrap_maps([(image, Path(record["file_name"]).stem)], cells)
    figure = draw_page(rows, ["image", "similarity"])
    label = "cosine of patch and text" + ", lowest to highest of each map" * stretch
    has_ends = not stretch and ends[1] - ends[0] > _LEAST_SPAN
    add_colorbar(figure, label, colorblind, ends if has_ends else None)
    return figure
