# SPDX-License-Identifier: Apache-2.0
import pytest

from dalnet.evaluation.zero_shot import window_boxes


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
