# SPDX-License-Identifier: Apache-2.0
"""Pictures with the statistics the kernels meet: smooth shading, edges, fine noise."""

from collections.abc import Callable

import pytest
from torch import Tensor

from benchmarks.inputs import synthetic_images


@pytest.fixture
def make_pictures() -> Callable[..., Tensor]:
    """``make_pictures(n, height, width, seed)`` -> uint8 [n, 3, height, width]."""
    return synthetic_images
