# SPDX-License-Identifier: Apache-2.0
"""Photographs from disk. Masks are tested where they are evaluated."""

import numpy as np
import pytest
from PIL import Image

from dalnet.data.images import read_photo
from dalnet.errors import UsageError


def test_pictures_of_all_kinds(tmp_path):
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    for mode, suffix in (("L", "png"), ("1", "png"), ("P", "gif"), ("LA", "png"), ("CMYK", "jpg")):
        path = tmp_path / f"{mode}.{suffix}"
        colours.convert(mode).save(path)
        photo = read_photo(str(path))
        assert photo.shape == (6, 9, 3) and photo.dtype == np.uint8
    exif = colours.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    colours.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(
        read_photo(str(tmp_path / "turned.png")), np.rot90(np.array(colours), -1)
    )


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_deep_pictures_are_refused(tmp_path, kind):
    Image.fromarray(np.full((6, 9), 1000, kind)).save(tmp_path / "deep.tif")
    with pytest.raises(UsageError, match="deep.tif has more than 8 bits"):
        read_photo(str(tmp_path / "deep.tif"))
