# SPDX-License-Identifier: Apache-2.0
"""What is drawn for a sample comes from its key alone."""

import random

import numpy as np
import pytest
import torch

from dalnet.data.seeded import seeded_generators


def draw():
    return [random.random(), np.random.rand(), torch.rand(1).item()]


def test_a_key_decides_what_is_drawn_in_the_block_and_nothing_after_it():
    with seeded_generators(3, 8):
        expected = draw()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    with seeded_generators(3, 8):
        assert draw() == expected
    with seeded_generators(8, 3):
        assert not set(draw()) & set(expected)
    assert random.getstate() == before[0] and np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("key", [(0, 0), (2**31 - 1, 7), (2**40, 2**40)])
def test_any_seed_and_number_will_do(key):
    with seeded_generators(*key):
        draw()
