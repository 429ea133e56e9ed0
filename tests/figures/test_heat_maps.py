# SPDX-License-Identifier: Apache-2.0
"""Figures 3, 5 and 6: which panel stands where, and what it says; ranges of colors."""

import dataclasses

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from helpers import refused
from torch import nn

from dalnet.data.image_io import read_image
from dalnet.errors import UsageError
from dalnet.figures import heat_maps
from dalnet.figures.heat_maps import draw_cams, draw_comparison, draw_similarities
from dalnet.figures.overlay import draw_heat, make_faint

SPLIT = "voc_2012_sem_seg_val"
LOW = np.linspace(-0.5, 0.0, 2000).reshape(40, 50)
HIGH = np.linspace(0.0, 1.5, 2000).reshape(40, 50)


@pytest.mark.parametrize("colorblind", [False, True])
def test_cams_stand_beside_image_and_truth_with_their_classes(
    split, result, look, colorblind, without
):
    two = {0: result.cams[0], 2: 1 - result.cams[0]}
    plain = without(result, "truth", name="two", cams=two)
    shown = look(draw_cams([result, plain], split, colorblind))
    assert shown.titles == ["image", "truth", "CAM", "CAM"]
    assert shown.captions == ["beast", "", "cat", "", "two", "", "cat", "cow"]
    assert [panel is None for panel in shown.panels] == [*[False] * 3, True, False, True] + [
        False
    ] * 2
    assert shown.legend == ["background", "cat"]
    assert shown.bar == (0, 1)
    expected = draw_heat(make_faint(result.image), two[2], colorblind)
    np.testing.assert_array_equal(shown.panels[7], expected)
    np.testing.assert_array_equal(shown.panels[0], result.image)


def test_without_masks_there_is_no_truth(split, result, look, without):
    six = dict.fromkeys(range(6), result.cams[0])
    shown = look(draw_cams([without(result, "truth", cams=six)], split))
    assert shown.titles == ["image", *["CAM"] * 4]
    assert shown.captions == ["beast", "cat", "dog", "cow", "hen", "", "pig", "ewe", "", ""]
    assert not shown.legend


def test_image_without_a_cam_is_named(split, result):
    with refused("beast"):
        draw_cams([dataclasses.replace(result, cams={})], split)


def test_models_stand_side_by_side(split, result, look):
    low = np.full_like(result.cams[0], 0.3)
    both = dataclasses.replace(result, image_classes=(0, 2), cams={0: result.cams[0], 2: low})
    shown = look(draw_comparison({"a: b": [both], "c": [both]}, split))
    assert shown.titles == ["image", "a: b", "c"]
    assert shown.captions == ["beast: cat, cow", "", ""]
    expected = draw_heat(make_faint(result.image), np.maximum(result.cams[0], low))
    np.testing.assert_array_equal(shown.panels[1], expected)
    one = look(draw_comparison({"a": [both]}, split, "cow"))
    assert one.captions[0] == "beast: cow"
    np.testing.assert_array_equal(one.panels[1], draw_heat(make_faint(result.image), low))


@pytest.mark.parametrize("stretch", [False, True])
def test_similarities_share_one_range_or_have_each_its_own(voc_model, look, monkeypatch, stretch):
    monkeypatch.setattr(heat_maps, "similarity_maps", lambda model, item: {8: LOW, 0: HIGH / 2})
    records = DatasetCatalog.get(SPLIT)[:1]
    shown = look(draw_similarities(voc_model.cfg, nn.Module(), records, SPLIT, stretch))
    assert shown.captions == ["2007_000000", "cat, -0.500 to 0.000", "background, 0.000 to 0.750"]
    faint = make_faint(read_image(records[0]["file_name"]))
    first = np.linspace(0, 1, 2000).reshape(40, 50) if stretch else (LOW + 0.5) / 1.25
    np.testing.assert_array_equal(shown.panels[1], draw_heat(faint, first))
    if not stretch:
        assert shown.bar == (-0.5, 0.75)


def test_model_without_alignment_is_refused(voc_model):
    voc_model.cfg.MODEL.DALNET.GIA = voc_model.cfg.MODEL.DALNET.LEA = False
    with pytest.raises(UsageError, match="without alignment"):
        model = build_model(voc_model.cfg)
        draw_similarities(voc_model.cfg, model, DatasetCatalog.get(SPLIT)[:1], SPLIT)
