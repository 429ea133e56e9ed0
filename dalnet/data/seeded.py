# SPDX-License-Identifier: Apache-2.0
"""Draw the views of a sample with random numbers that depend only on its place in the training.

Detectron2's transforms draw from NumPy's global generator, torchvision's from PyTorch's. Both are
seeded for each sample, so that neither the number of workers and processes nor what has been drawn
before changes a view, and a resumed training sees what an uninterrupted one would have seen.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded_generators(*key: int) -> Iterator[None]:
    """Seed Python's, NumPy's and PyTorch's generators by a key in the block; then restore them."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    words = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.default_generator.manual_seed(int(words[2]))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
