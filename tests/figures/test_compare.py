# SPDX-License-Identifier: Apache-2.0
"""Figure 5: one class, or the largest CAM of all."""

import dataclasses

import numpy as np

from dalnet.figures.compare import draw_comparison
from dalnet.figures.overlay import draw_heat, make_faint


def test_models_stand_side_by_side(split, result, look):
    low = np.full_like(result.cams[0], 0.3)
    both = dataclasses.replace(result, image_classes=(0, 2), cams={0: result.cams[0], 2: low})
    shown = look(draw_comparison({"a: b": [both], "c": [both]}, split))
    assert shown.titles == ["image", "a: b", "c"]
    assert shown.captions == ["beast: cat, cow", "", ""]
    expected = draw_heat(make_faint(result.image), np.maximum(result.cams[0], low))
    np.testing.assert_array_equal(shown.pictures[1], expected)
    one = look(draw_comparison({"a": [both]}, split, "cow"))
    assert one.captions[0] == "beast: cow"
    np.testing.assert_array_equal(one.pictures[1], draw_heat(make_faint(result.image), low))
