# SPDX-License-Identifier: Apache-2.0
"""Tagged images that several tests use."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    """Ten images; seven are tagged red, blue or both, two have an empty cell, one is not named."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    lines = ["file,tags"]
    for number in range(10):
        pixels = np.random.default_rng(number).integers(0, 60, (40, 56, 3), np.uint8)
        mask = np.zeros((40, 56), np.uint8)
        tags = []
        if number % 3 != 2:
            tags.append("red")
            pixels[5:25, 5:25, 0], mask[5:25, 5:25] = 250, 2
        if number % 2:
            tags.append("blue")
            pixels[20:38, 30:50, 2], mask[20:38, 30:50] = 250, 1
        Image.fromarray(pixels).save(images / f"{number}.png")
        Image.fromarray(mask).save(masks / f"{number}.png")
        if number != 9:
            lines.append(f"{number}.png,{';'.join(tags)}")
    (tmp_path / "tags.csv").write_text("\n".join(lines))
    return tmp_path
