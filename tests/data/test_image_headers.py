# SPDX-License-Identifier: Apache-2.0
"""What the headers of a list of images tell."""

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from dalnet.data.image_headers import keep_readable


@pytest.fixture
def records(tmp_path):
    """Four images, of which the second is no image and the third one of 16 bits."""
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number in (0, 3):
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 3 else 1
        Image.new("RGB", (6, 4)).save(paths[number], exif=exif)
    paths[1].write_bytes(b"no image")
    Image.fromarray(np.full((4, 6), 1000, np.uint16)).save(paths[2])
    return [{"file_name": str(path)} for path in paths]


def test_images_that_cannot_be_used_are_left_out_and_named(records, caplog):
    readable = keep_readable(records, strict=False)
    assert readable.records == [records[0], records[3]]
    assert [error.where for error in readable.errors] == [r["file_name"] for r in records[1:3]]
    assert "left out 2 of 4" in caplog.text
    assert all(record["file_name"] in caplog.text for record in records[1:3])
    assert keep_readable([], strict=False) == ([], [])


def test_turned_images_are_counted(records, caplog):
    keep_readable([records[0], records[3]], strict=True)
    assert "1 of 2 images are turned upright" in caplog.text
    caplog.clear()
    keep_readable(records[:1], strict=True)
    assert not caplog.text


def test_one_sentence_where_it_has_to_end(records):
    with refused(records[1]["file_name"], "2 of 4"):
        keep_readable(records, strict=True)
    with refused(records[1]["file_name"], "2 of 2"):
        keep_readable(records[1:3], strict=False)
