# SPDX-License-Identifier: Apache-2.0
"""The random numbers of a process go on where they were."""

import random

import numpy as np
import pytest
import torch

from dalnet.engine.generators import generator_states, preserved_generators, set_generator_states


def draw():
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1)]


def test_states_survive_a_file_that_is_read_without_unpickling(tmp_path):
    draw()
    torch.save(generator_states(), tmp_path / "states.pth")
    expected = draw()
    set_generator_states(torch.load(tmp_path / "states.pth", weights_only=True))
    assert draw() == expected


def test_what_is_drawn_in_between_does_not_matter():
    states = generator_states()
    expected = draw()
    set_generator_states(states)
    with preserved_generators():
        draw()
    assert draw() == expected
    set_generator_states(states)
    with pytest.raises(RuntimeError), preserved_generators():
        draw()
        raise RuntimeError
    assert draw() == expected
