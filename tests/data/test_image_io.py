# SPDX-License-Identifier: Apache-2.0
"""Photographs from disk. Masks are tested where they are evaluated."""

import numpy as np
import pytest
from PIL import Image

from dalnet.data.image_io import read_image
from dalnet.errors import UsageError


def test_images_of_all_kinds(tmp_path):
    rng = np.random.default_rng(0)
    colors = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    for mode, suffix in (("L", "png"), ("1", "png"), ("P", "gif"), ("LA", "png"), ("CMYK", "jpg")):
        path = tmp_path / f"{mode}.{suffix}"
        colors.convert(mode).save(path)
        image = read_image(str(path))
        assert image.shape == (6, 9, 3) and image.dtype == np.uint8
    exif = colors.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    colors.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(
        read_image(str(tmp_path / "turned.png")), np.rot90(np.array(colors), -1)
    )


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_deep_images_are_refused(tmp_path, kind):
    Image.fromarray(np.full((6, 9), 1000, kind)).save(tmp_path / "deep.tif")
    with pytest.raises(UsageError, match="deep.tif has more than 8 bits"):
        read_image(str(tmp_path / "deep.tif"))
