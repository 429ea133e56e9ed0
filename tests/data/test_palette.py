# SPDX-License-Identifier: Apache-2.0
"""VOC's palette."""

import numpy as np

from dalnet.data.palette import voc_palette


def test_palette_is_that_of_voc():
    colors = np.array(voc_palette())
    # As in the masks of the release: background, aeroplane, bicycle, person, tvmonitor, void.
    known = {0: 0, 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    for index, color in {**known, 255: (224, 224, 192)}.items():
        assert (colors[index] == color).all()
    assert len(np.unique(colors, axis=0)) == 256
