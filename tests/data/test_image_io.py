# SPDX-License-Identifier: Apache-2.0
"""Images and masks from disk."""

from collections import Counter

import numpy as np
import pytest
from detectron2.utils.file_io import PathManager
from helpers import refused
from iopath.common.file_io import PathHandler
from PIL import Image

from dalnet.data.image_io import read_image, read_mask, write_mask
from dalnet.data.palette import voc_palette


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
    with refused(tmp_path / "deep.tif", "more than 8 bits"):
        read_image(str(tmp_path / "deep.tif"))


def test_damaged_exif_is_no_obstacle(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "odd.png", exif=b"Exif\x00\x00no such block")
    np.testing.assert_array_equal(read_image(str(tmp_path / "odd.png")), values)


class CountedFiles(PathHandler):
    """Files under ``counted://``, and how often each has been opened."""

    def __init__(self):
        super().__init__()
        self.opened = Counter()

    def _get_supported_prefixes(self):
        return ["counted://"]

    def _open(self, path, mode="r", buffering=-1, **kwargs):
        self.opened[path] += 1
        return open(path.removeprefix("counted://"), mode)


def test_a_file_is_opened_once(tmp_path):
    Image.new("RGB", (9, 6)).save(tmp_path / "once.png")
    files = CountedFiles()
    PathManager.register_handler(files, allow_override=True)
    path = f"counted://{tmp_path / 'once.png'}"
    assert read_image(path).shape == (6, 9, 3)
    assert files.opened == {path: 1}


def test_written_masks_are_read_again(tmp_path):
    mask = np.array([[0, 1, 2], [255, 2, 0]], dtype=np.uint8)
    path = tmp_path / "folder" / "mask.png"
    write_mask(path, mask)
    with Image.open(path) as image:
        assert (image.mode, image.getpalette()[:9]) == ("P", sum(voc_palette(3), []))
    np.testing.assert_array_equal(read_mask(str(path), (2, 3), 3), mask)


@pytest.mark.parametrize(
    ("size", "num_classes", "word"), [((3, 2), 3, "size"), ((2, 3), 2, "value 2")]
)
def test_masks_that_do_not_fit_are_named(tmp_path, size, num_classes, word):
    path = tmp_path / "mask.png"
    write_mask(path, np.array([[0, 1, 2], [255, 2, 0]], dtype=np.uint8))
    with refused(path, word):
        read_mask(str(path), size, num_classes)
    path.write_bytes(b"no image")
    with refused(path):
        read_mask(str(path), size, num_classes)
