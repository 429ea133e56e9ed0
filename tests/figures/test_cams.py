# SPDX-License-Identifier: Apache-2.0
"""Figures 3 and 5: which picture stands where, and what it says."""

import dataclasses

import numpy as np
import pytest

from dalnet.errors import UsageError
from dalnet.figures.cams import draw_cams, draw_comparison
from dalnet.figures.overlay import draw_heat, make_faint


@pytest.mark.parametrize("colorblind", [False, True])
def test_cams_stand_beside_image_and_truth_with_their_classes(split, result, look, colorblind):
    two = {0: result.cams[0], 2: 1 - result.cams[0]}
    plain = dataclasses.replace(result, name="two", truth=None, cams=two)
    shown = look(draw_cams([result, plain], split, colorblind))
    assert shown.titles == ["image", "truth", "CAM", "CAM"]
    assert shown.captions == ["beast", "", "cat", "", "two", "", "cat", "cow"]
    assert [picture is None for picture in shown.pictures] == [*[False] * 3, True, False, True] + [
        False
    ] * 2
    assert shown.legend == ["background", "cat"]
    assert shown.bar == (0, 1)
    expected = draw_heat(make_faint(result.image), two[2], colorblind)
    np.testing.assert_array_equal(shown.pictures[7], expected)
    np.testing.assert_array_equal(shown.pictures[0], result.image)


def test_without_masks_there_is_no_truth(split, result, look):
    six = dict.fromkeys(range(6), result.cams[0])
    shown = look(draw_cams([dataclasses.replace(result, truth=None, cams=six)], split))
    assert shown.titles == ["image", *["CAM"] * 4]
    assert shown.captions == ["beast", "cat", "dog", "cow", "hen", "", "pig", "ewe", "", ""]
    assert not shown.legend


def test_image_without_a_cam_is_named(split, result):
    with pytest.raises(UsageError, match="beast"):
        draw_cams([dataclasses.replace(result, cams={})], split)


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
