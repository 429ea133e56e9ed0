# SPDX-License-Identifier: Apache-2.0
"""Images of two sizes and the label maps that an evaluation has dumped for them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dalnet.data.image_io import write_mask

SIZES = {"7": (6, 9), "8": (5, 4)}


@dataclass(frozen=True)
class Dumped:
    """A folder of one measurement, the records of its images, and the label maps by name."""

    folder: Path
    records: list[dict[str, Any]]
    label_maps: dict[str, np.ndarray]

    def write(self, name, label_map):
        write_mask(self.folder / "SegmentationClass" / f"{name}.png", label_map)


@pytest.fixture
def dumped(tmp_path):
    """Label maps of classes 0 to 3."""
    rng, dumped = np.random.default_rng(0), Dumped(tmp_path / "dump", [], {})
    for name, size in SIZES.items():
        path = tmp_path / f"{name}.png"
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path)
        dumped.records.append({"file_name": str(path), "image_id": int(name)})
        dumped.label_maps[name] = rng.integers(0, 4, size).astype(np.uint8)
        dumped.write(name, dumped.label_maps[name])
    return dumped
