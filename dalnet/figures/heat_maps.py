# SPDX-License-Identifier: Apache-2.0
"""Draws Figures 3, 5 and 6: CAMs by class and by model, and similarities of patches with texts."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from matplotlib.figure import Figure

from dalnet.data import build_test_loader
from dalnet.data.datasets.catalog import class_table
from dalnet.data.image_io import read_image
from dalnet.errors import UsageError
from dalnet.evaluation.alignment import similarity_maps
from dalnet.modeling.meta_arch import WeakSegmentor

from .images import ImageResult, Record
from .layout import Cell, add_colorbar, add_legend, draw_page
from .overlay import blend_labels, choose_colors, draw_heat, find_labels, make_faint

_MAPS_PER_ROW = 4
_LEAST_SPAN = 1e-6  # of the values that all colors are given to: a flat map stays one color


def draw_cams(results: Sequence[ImageResult], split: str, colorblind: bool = False) -> Figure:
    """Return Figure 3, for ``save_figure``: image, truth and the CAM of each of its classes.

    Args:
        results: at least one image with its CAMs.
        split: the data set that the images are of.
        colorblind: use colors that color-blind readers can tell apart.

    Raises:
        UsageError: an image without a CAM.
    """
    names, class_colors = class_table(split)
    truths = [one.label_maps["truth"] for one in results if "truth" in one.label_maps]
    colors = choose_colors(class_colors, find_labels(truths), colorblind)
    rows = []
    for result in results:
        faint, truth, lead = make_faint(result.image), result.label_maps.get("truth"), []
        if truths:
            lead = [None if truth is None else (blend_labels(result.image, truth, colors), "")]
        cams = _get_cams(result).items()
        heat = [(draw_heat(faint, cam, colorblind), names[c + 1]) for c, cam in cams]
        rows += _wrap_maps([(result.image, result.name), *lead], heat)
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
    names, _ = class_table(split)
    rows = []
    for same_image in zip(*results.values(), strict=True):
        first, classes = same_image[0], same_image[0].image_classes
        if class_name is not None:
            classes = (names.index(class_name) - 1,)
        caption = f"{first.name}: {', '.join(names[c + 1] for c in classes)}"
        faint = make_faint(first.image)
        cams = [np.max([_get_cams(one)[c] for c in classes], axis=0) for one in same_image]
        rows.append(
            [(first.image, caption), *((draw_heat(faint, c, colorblind), "") for c in cams)]
        )
    figure = draw_page(rows, ["image", *results])
    add_colorbar(figure, "CAM", colorblind)
    return figure


def draw_similarities(
    cfg: CfgNode,
    model: WeakSegmentor,
    records: list[Record],
    split: str,
    stretch: bool = False,
    colorblind: bool = False,
) -> Figure:
    """Return Figure 6: the cosines of patches with the texts of classes and background.

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
        loader = build_test_loader(cfg, split, records, any_order=False)
        maps = [similarity_maps(model, record) for (record,) in loader]
    names, _ = class_table(split)
    values = np.concatenate([m.ravel() for by_label in maps for m in by_label.values()])
    ends = float(values.min()), float(values.max())
    rows = []
    for record, by_label in zip(records, maps, strict=True):
        image, heat = read_image(record["file_name"]), []
        for label, cosines in by_label.items():
            own = float(cosines.min()), float(cosines.max())
            low, high = own if stretch else ends
            scaled = (cosines - low) / max(high - low, _LEAST_SPAN)
            caption = f"{names[label]}, {own[0]:.3f} to {own[1]:.3f}"
            heat.append((draw_heat(make_faint(image), scaled, colorblind), caption))
        rows += _wrap_maps([(image, Path(record["file_name"]).stem)], heat)
    figure = draw_page(rows, ["image", "similarity"])
    title = "cosine of patch and text" + ", lowest to highest of each map" * stretch
    has_ends = not stretch and ends[1] - ends[0] > _LEAST_SPAN
    add_colorbar(figure, title, colorblind, ends if has_ends else None)
    return figure


def _get_cams(result: ImageResult) -> Mapping[int, np.ndarray]:
    if not result.cams:
        hint = "draw another figure, or name images with image-level labels"
        raise UsageError("the model gives no CAM of it", result.name, hint)
    return result.cams


def _wrap_maps(lead: Sequence[Cell], maps: Sequence[Cell]) -> list[list[Cell]]:
    """Return the rows of one image: ``lead`` and its maps, of which the fifth goes on below."""
    starts = range(0, max(len(maps), 1), _MAPS_PER_ROW)
    empty = [None] * len(lead)
    return [[*(empty if i else lead), *maps[i : i + _MAPS_PER_ROW]] for i in starts]
