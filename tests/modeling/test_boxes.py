# SPDX-License-Identifier: Apache-2.0
"""Boxes of images in padded views, for boxes and sizes of any kind."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dalnet.modeling.boxes import box_mask, token_grid_boxes

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
