# SPDX-License-Identifier: Apache-2.0
"""Contact sheets: what a row holds; truth and prediction in the same colors."""

import numpy as np

from dalnet.data.palette import voc_palette
from dalnet.figures.overlay import blend_labels, draw_heat
from dalnet.figures.sheet import draw_panels, draw_sheet

COLORS = voc_palette(7)


def test_pictures_stand_under_their_titles(result):
    panels, maps = draw_panels(result, COLORS), result.label_maps
    expected = {
        "image": result.image,
        "truth": blend_labels(result.image, maps["truth"], COLORS),
        "CAM": draw_heat(result.image, result.cams[0]),
        "pseudo label": blend_labels(result.image, maps["pseudo label"], COLORS),
        "prediction": blend_labels(result.image, maps["prediction"], COLORS),
    }
    assert list(panels) == list(expected)
    for title, panel in expected.items():
        np.testing.assert_array_equal(panels[title], panel)
    assert (draw_panels(result, COLORS, True)["CAM"] != panels["CAM"]).any()


def test_each_picture_keeps_its_column_where_rows_differ(split, result, look, without):
    rows = [
        without(result, "pseudo label", cams={}),
        without(result, "truth", "pseudo label", image_classes=()),
    ]
    shown = look(draw_sheet(rows, split, "toy"))
    assert shown.titles == ["image", "truth", "CAM", "prediction"]
    assert shown.captions == ["beast: cat", "", "", "", "beast", "", "", ""]
    filled = [panel is not None for panel in shown.panels]
    assert filled == [True, True, False, True, True, False, True, True]
    assert shown.legend == ["background", "cat", "dog"]


def test_truth_and_prediction_share_colors_and_a_legend_of_what_occurs(split, result, look):
    columns = ("image", "truth", "prediction")
    shown = look(draw_sheet([result], split, titles=columns))
    assert shown.titles == ["image", "truth", "prediction"]
    assert shown.legend == ["background", "cat", "dog"]
    for panel, title in zip(shown.panels[1:], columns[1:], strict=True):
        expected = blend_labels(result.image, result.label_maps[title], voc_palette(7))
        np.testing.assert_array_equal(panel, expected)


def test_without_masks_there_is_no_truth(split, result, look, without):
    columns = ("image", "truth", "prediction")
    shown = look(draw_sheet([without(result, "truth")], split, "", columns, colorblind=True))
    assert shown.titles == ["image", "prediction"]
