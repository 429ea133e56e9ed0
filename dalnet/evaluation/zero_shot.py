# SPDX-License-Identifier: Apache-2.0
"""Open-vocabulary segmentation of whole images by windows that slide over them."""


def window_boxes(
    height: int, width: int, crop: int, stride: int
) -> list[tuple[int, int, int, int]]:
    """Return the windows that cover an image, (y1, y2, x1, x2) in pixels, row by row.

    The last window of a row or column ends at the border, so that it may overlap more. A side that
    is shorter than ``crop`` is one window, as long as the side.

    Args:
        height, width: of the image.
        crop: side of a window.
        stride: from one window to the next.

    Raises:
        ValueError: a number below 1.
    """
    if min(height, width, crop, stride) < 1:
        raise ValueError(
            f"image {height} x {width}, window {crop} and stride {stride} must all be 1 or more"
        )
    rows, columns = _spans(height, crop, stride), _spans(width, crop, stride)
    return [(*row, *column) for row in rows for column in columns]


def _spans(side: int, crop: int, stride: int) -> list[tuple[int, int]]:
    number = max(side - crop + stride - 1, 0) // stride + 1
    ends = [min(i * stride + crop, side) for i in range(number)]
    return [(max(end - crop, 0), end) for end in ends]
