# SPDX-License-Identifier: Apache-2.0
"""Boxes of images in padded views, for boxes and sizes of any kind, and windows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dalnet.modeling.boxes import box_mask, token_grid_boxes, window_boxes

sides = st.integers(1, 60)


@st.composite
def views(draw):
    """A size, and boxes in it, which may be empty."""
    height, width = draw(sides), draw(sides)
    rows = st.tuples(st.integers(0, height), st.integers(0, height)).map(sorted)
    columns = st.tuples(st.integers(0, width), st.integers(0, width)).map(sorted)
    boxes = draw(st.lists(st.builds(lambda a, b: [*a, *b], rows, columns), min_size=1, max_size=4))
    return (height, width), torch.tensor(boxes)


@settings(max_examples=60, deadline=None)
@given(views())
def test_a_mask_is_true_in_the_box_and_nowhere_else(view):
    (height, width), boxes = view
    masks = box_mask(boxes, height, width)
    for mask, (y0, y1, x0, x1) in zip(masks, boxes.tolist(), strict=True):
        assert mask[y0:y1, x0:x1].all() and mask.sum() == (y1 - y0) * (x1 - x0)


@settings(max_examples=60, deadline=None)
@given(views(), sides, sides)
def test_a_token_belongs_to_a_box_if_the_center_of_its_patch_does(view, rows, columns):
    (height, width), boxes = view
    on_grid = token_grid_boxes(boxes, (height, width), (rows, columns))
    for (y0, y1, x0, x1), found in zip(boxes.tolist(), on_grid.tolist(), strict=True):
        # Twice the center of token i is (2 i + 1) height / rows pixels.
        wanted_rows = [
            i for i in range(rows) if 2 * y0 * rows <= (2 * i + 1) * height < 2 * y1 * rows
        ]
        wanted = [
            j for j in range(columns) if 2 * x0 * columns <= (2 * j + 1) * width < 2 * x1 * columns
        ]
        assert wanted_rows == [*range(found[0], found[1])] and wanted == [
            *range(found[2], found[3])
        ]


@pytest.mark.parametrize(
    ("size", "crop", "stride", "expected"),
    [
        # mmsegmentation's windows for a 448 x 672 image, 448 / 224.
        ((448, 672), 448, 224, [(0, 448, 0, 448), (0, 448, 224, 672)]),
        # The last one is shifted inwards.
        (
            (5, 9),
            4,
            2,
            [(0, 4, 0, 4), (0, 4, 2, 6), (0, 4, 4, 8), (0, 4, 5, 9)]
            + [(1, 5, 0, 4), (1, 5, 2, 6), (1, 5, 4, 8), (1, 5, 5, 9)],
        ),
        ((3, 2), 4, 2, [(0, 3, 0, 2)]),
        ((3, 5), 4, 3, [(0, 3, 0, 4), (0, 3, 1, 5)]),
        # A stride longer than the window leaves gaps, but for the border.
        ((1, 10), 2, 5, [(0, 1, 0, 2), (0, 1, 5, 7), (0, 1, 8, 10)]),
    ],
)
def test_windows_row_by_row(size, crop, stride, expected):
    assert window_boxes(*size, crop, stride) == expected


def test_number_of_windows():
    for side in range(1, 60):
        for crop, stride in ((7, 3), (8, 4), (5, 5)):
            boxes = window_boxes(side, 1, crop, stride)
            assert len(boxes) == max(side - crop + stride - 1, 0) // stride + 1
            assert {y for y1, y2, _, _ in boxes for y in range(y1, y2)} == set(range(side))


def test_impossible_windows():
    with pytest.raises(ValueError, match="1 or more"):
        window_boxes(4, 4, 2, 0)
