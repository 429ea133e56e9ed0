# SPDX-License-Identifier: Apache-2.0
"""The colors of PASCAL VOC's palette masks."""

import numpy as np


def voc_palette(size: int = 256) -> list[list[int]]:
    """Return the first ``size`` colors of the VOC palette as ``[[r, g, b], ...]`` in 0..255.

    Color i spreads the bits of i over the three channels, lowest bits into the highest places
    (VOC 2012 development kit): bit 3k of i becomes bit 7 - k of red, 3k + 1 of green, 3k + 2 of
    blue.
    """
    index = np.arange(size)[:, None]
    colors = np.zeros((size, 3), dtype=np.int64)
    for place in range(8):
        bits = (index >> (3 * place + np.arange(3))) & 1
        colors |= bits << (7 - place)
    return colors.tolist()
