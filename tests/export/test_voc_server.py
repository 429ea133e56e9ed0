# SPDX-License-Identifier: Apache-2.0
"""The archive for VOC's test server, read back with other tools."""

import io
import tarfile

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from dalnet.export.voc_server import VOC_FOLDER, write_voc_archive

CLASSES = ["cat", "dog", "owl"]


@pytest.mark.parametrize("name", ["results.tar", "results.tgz", "Results.TAR.GZ"])
def test_archive(dumped, tmp_path, name):
    output = tmp_path / "sub" / name
    write_voc_archive(dumped.folder, dumped.records, CLASSES, output)
    with tarfile.open(output) as archive:
        assert archive.getnames() == [f"{VOC_FOLDER}/{image}.png" for image in ("7", "8")]
        for member in archive:
            assert (member.uname, member.uid, member.mtime) == ("", 0, 0)
            picture = Image.open(io.BytesIO(archive.extractfile(member).read()))
            expected = dumped.label_maps[member.name[-5]]
            np.testing.assert_array_equal(np.asarray(picture), expected)
    with open(output, "rb") as stream:
        assert (stream.read(2) == b"\x1f\x8b") == (not name.endswith(".tar"))


def test_no_half_archive_is_left(dumped, tmp_path):
    dumped.write("8", np.full((5, 4), 4, np.uint8))
    with refused("8.png"):
        write_voc_archive(dumped.folder, dumped.records, CLASSES, tmp_path / "out" / "results.tar")
    assert not list((tmp_path / "out").iterdir())


def test_other_suffixes_are_refused(dumped, tmp_path):
    with refused("results.zip"):
        write_voc_archive(dumped.folder, dumped.records, CLASSES, tmp_path / "results.zip")
