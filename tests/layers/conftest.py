# SPDX-License-Identifier: Apache-2.0
"""Pictures with the statistics the kernels meet: smooth shading, edges, fine noise."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor


@pytest.fixture
def make_pictures() -> Callable[..., Tensor]:
    """``make_pictures(n, height, width, seed)`` -> uint8 [n, 3, height, width]."""

    def make(n: int, height: int, width: int, seed: int = 0) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        coarse = torch.rand(n, 3, 4, 5, generator=rng)
        pictures = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
        regions = torch.rand(n, 1, 5, 4, generator=rng)
        edges = F.interpolate(regions, (height, width), mode="bilinear", align_corners=False) > 0.5
        pictures = pictures * 0.6 + 0.3 * edges
        pictures += 0.02 * torch.randn(n, 3, height, width, generator=rng)
        return (pictures.clamp(0, 1) * 255).round().to(torch.uint8)

    return make
