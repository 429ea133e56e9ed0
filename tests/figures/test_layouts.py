# SPDX-License-Identifier: Apache-2.0
"""The pages of the paper's figures: which picture stands where, and what it says."""

import cv2
import numpy as np
import pytest

from dalnet.data.palette import voc_palette
from dalnet.errors import UsageError
from dalnet.figures.colors import Appearance
from dalnet.figures.layouts import (
    Subject,
    cam_figure,
    comparison_figure,
    segmentation_figure,
    similarity_figure,
)
from dalnet.figures.overlay import blend_labels, draw_heat

NAMES = ["background", *(f"thing{i}" for i in range(1, 21))]
COLORS = voc_palette(len(NAMES))
PLAIN = Appearance(NAMES, COLORS)
SAFE = Appearance(NAMES, COLORS, colorblind=True)
SIZE = (30, 40)
RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
GREY = np.repeat(cv2.cvtColor(PHOTO, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
GREY = np.round(GREY / 2 + 64).astype(np.uint8)  # as faint as the figures show it
HEAT = RNG.random(SIZE)


def label_map(label, top=0):
    labels = np.zeros(SIZE, np.int64)
    labels[10:20, 8:20], labels[:top] = label, 255
    return labels


def subject(name="beast", truth=None):
    return Subject(name, PHOTO, truth)


def pictures(figure):
    """The pictures of the grid, row by row; None for an empty cell. Without the colour bar."""
    axes = [one for one in figure.axes if not one.axison]
    return [one.images[0].get_array() if one.images else None for one in axes]


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def texts(figure):
    return [text.get_text() for text in figure.texts]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("appearance", [PLAIN, SAFE])
def test_cams_stand_beside_photo_and_truth_with_their_classes(appearance):
    subjects = [subject("one", label_map(2)), subject("two")]
    figure = cam_figure(subjects, [{2: HEAT, 5: 1 - HEAT}, {3: HEAT}], appearance)
    assert titles(figure) == ["photo", "truth", "CAM", "CAM"]
    assert texts(figure) == ["one", "thing2", "thing5", "two", "thing3", "CAM"]
    assert legend(figure) == ["background", "thing2"]
    shown = pictures(figure)
    assert [picture is None for picture in shown] == [False] * 5 + [True, False, True]
    np.testing.assert_array_equal(shown[0], PHOTO)
    np.testing.assert_array_equal(shown[2], draw_heat(GREY, HEAT, appearance.colormap))
    np.testing.assert_array_equal(shown[3], draw_heat(GREY, 1 - HEAT, appearance.colormap))
    np.testing.assert_array_equal(shown[6], shown[2])


def test_many_classes_go_on_below_and_without_masks_there_is_no_truth():
    figure = cam_figure([subject()], [dict.fromkeys(range(1, 7), HEAT)], PLAIN)
    assert titles(figure) == ["photo", *["CAM"] * 4]
    assert texts(figure) == ["beast", *NAMES[1:7], "CAM"]
    empty = [picture is None for picture in pictures(figure)]
    assert empty == [False] * 5 + [True, False, False, True, True]
    assert not figure.legends


def test_segmentations_share_colours_and_a_legend_of_what_occurs():
    truth, prediction = label_map(2, top=3), label_map(7)
    figure = segmentation_figure([subject("one", truth)], [prediction], PLAIN)
    assert titles(figure) == ["photo", "truth", "prediction"]
    assert legend(figure) == ["background", "thing2", "thing7", "ignored"]
    colors = [patch.get_facecolor()[:3] for patch in figure.legends[0].get_patches()]
    np.testing.assert_allclose(np.array(colors[:3]) * 255, [COLORS[i] for i in (0, 2, 7)])
    _, shown_truth, shown_prediction = pictures(figure)
    np.testing.assert_array_equal(shown_truth, blend_labels(PHOTO, truth, COLORS))
    np.testing.assert_array_equal(shown_prediction, blend_labels(PHOTO, prediction, COLORS))


def test_names_lie_on_the_regions_for_colour_blind_readers_only():
    labels = label_map(2, top=3)
    labels[:, 38:] = 7
    figure = segmentation_figure([subject("one", labels)], [labels], SAFE)
    for axes in figure.axes[1:]:
        names = {text.get_text(): text for text in axes.texts}
        assert set(names) == {"thing2", "thing7"}
        x, y = names["thing2"].get_position()
        assert labels[round(y), round(x)] == 2
        # Moved inwards, so that it does not run into the next picture.
        left, right = (f([t.get_window_extent() for t in axes.texts]) for f in (_left, _right))
        box = axes.get_window_extent()
        assert box.x0 <= left and right <= box.x1
    plain = segmentation_figure([subject("one", labels)], [labels], PLAIN)
    assert not any(axes.texts for axes in plain.axes)


def _left(boxes):
    return min(box.x0 for box in boxes)


def _right(boxes):
    return max(box.x1 for box in boxes)


def test_regions_are_hatched_where_colours_do_not_suffice():
    labels = np.repeat(np.arange(20)[:, None], 20, axis=1)
    one = Subject("many", np.zeros((20, 20, 3), np.uint8))
    figure = segmentation_figure([one], [labels], SAFE)
    hatched = [p for p in figure.legends[0].get_patches() if p.get_hatch()]
    assert 0 < len(hatched) < 20
    assert len(figure.axes[1].collections) == len(hatched)
    assert figure.axes[1].get_xlim() == figure.axes[0].get_xlim()
    few = segmentation_figure([one], [np.minimum(labels, 5)], SAFE)
    assert not any(p.get_hatch() for p in few.legends[0].get_patches())
    assert not few.axes[1].collections


def test_label_of_another_data_set_is_named():
    with pytest.raises(UsageError, match="value 21"):
        segmentation_figure([subject()], [label_map(21)], PLAIN)


def test_models_stand_side_by_side():
    cams = {"a: b": [HEAT, 0 * HEAT], "c": [1 - HEAT, HEAT]}
    subjects = [subject("one"), subject("two")]
    figure = comparison_figure(subjects, ["cat", "dog"], cams, PLAIN)
    assert titles(figure) == ["photo", "a: b", "c"]
    assert texts(figure)[:2] == ["one: cat", "two: dog"]
    for place, (title, i) in {1: ("a: b", 0), 2: ("c", 0), 4: ("a: b", 1), 5: ("c", 1)}.items():
        expected = draw_heat(GREY, cams[title][i])
        np.testing.assert_array_equal(pictures(figure)[place], expected)


def test_similarities_share_one_range_or_have_each_its_own():
    low, high = np.linspace(-0.5, 0.0, 1200).reshape(SIZE), np.linspace(0.0, 1.5, 1200)
    maps = [{3: low, 0: high.reshape(SIZE) / 2}]
    shared = similarity_figure([subject()], maps, PLAIN)
    assert texts(shared)[:3] == [
        "beast",
        "thing3, -0.500 to 0.000",
        "background, 0.000 to 0.750",
    ]
    _, first, second = pictures(shared)
    np.testing.assert_array_equal(first, draw_heat(GREY, (low + 0.5) / 1.25))
    np.testing.assert_array_equal(second, draw_heat(GREY, (maps[0][0] + 0.5) / 1.25))
    own = similarity_figure([subject()], maps, PLAIN, stretch=True)
    for picture in pictures(own)[1:]:
        np.testing.assert_array_equal(
            picture, draw_heat(GREY, np.linspace(0, 1, 1200).reshape(SIZE))
        )


def test_bar_of_similarities_spans_their_range():
    figure = similarity_figure([subject()], [{0: HEAT - 0.5}], PLAIN)
    (bar,) = [axes for axes in figure.axes if axes.axison]
    np.testing.assert_allclose(bar.get_xlim(), [HEAT.min() - 0.5, HEAT.max() - 0.5])
    grey = np.full((1, 2, 3), 128, np.uint8)
    ends = bar.images[0].get_array()[:, [0, -1]]
    np.testing.assert_array_equal(ends, draw_heat(grey, np.array([[0.0, 1.0]])))
    own = similarity_figure([subject()], [{0: HEAT - 0.5}], PLAIN, stretch=True)
    (bar,) = [axes for axes in own.axes if axes.axison]
    assert not len(bar.get_xticks())


@pytest.mark.filterwarnings("error")
def test_flat_map_is_one_colour():
    figure = similarity_figure([subject()], [{0: np.full(SIZE, 0.3)}], PLAIN)
    np.testing.assert_array_equal(pictures(figure)[1], draw_heat(GREY, np.zeros(SIZE)))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: cam_figure([], [], PLAIN),
        lambda: segmentation_figure([], [], PLAIN),
        lambda: comparison_figure([], [], {"a": []}, PLAIN),
        lambda: similarity_figure([], [], PLAIN),
    ],
)
def test_no_images_is_a_sentence(draw):
    with pytest.raises(UsageError, match="no images"):
        draw()
