# SPDX-License-Identifier: Apache-2.0
"""Grounds of the toy data set."""

import numpy as np
import pytest

from dalnet.data.datasets.toy.background import GROUNDS, draw_background


@pytest.mark.parametrize("ground", GROUNDS)
def test_grounds_vary_and_stay_in_range(ground):
    first, second = (draw_background(np.random.default_rng(i), ground, 48) for i in (0, 1))
    assert first.shape == (48, 48, 3) and first.min() >= 0 and first.max() <= 255
    assert np.abs(first - second).mean() > 2
