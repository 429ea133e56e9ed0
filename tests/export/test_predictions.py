# SPDX-License-Identifier: Apache-2.0
"""Dumped label maps are read back with their images, or what is wrong is named."""

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from dalnet.export.predictions import read_predictions

CLASSES = ["cat", "dog", "owl"]


def test_every_image_comes_with_its_label_map(dumped):
    found = list(read_predictions(dumped.folder, dumped.records[::-1], CLASSES))
    assert [record["image_id"] for *_, record in found] == [7, 8]
    for file, label_map, record in found:
        assert file.name == f"{record['image_id']}.png"
        np.testing.assert_array_equal(label_map, dumped.label_maps[file.stem])


@pytest.mark.parametrize(
    ("spoil", "where", "words"),
    [
        (lambda folder: (folder / "7.png").unlink(), "", ["1 image(s)", "0 are not", "is 7"]),
        (lambda folder: (folder / "9.png").touch(), "", ["0 image(s)", "1 are not", "is 9"]),
        (lambda folder: (folder / "8.png").write_bytes(b"x"), "8.png", []),
        (
            lambda folder: Image.fromarray(np.zeros((6, 6), np.uint8)).save(folder / "8.png"),
            "8.png",
            [(6, 6)],
        ),
        (
            lambda folder: Image.fromarray(np.full((5, 4), 255, np.uint8)).save(folder / "8.png"),
            "8.png",
            [255],
        ),
        (
            lambda folder: Image.fromarray(np.full((5, 4), 4, np.uint8)).save(folder / "8.png"),
            "8.png",
            [4],
        ),
    ],
)
def test_incomplete_or_wrong_predictions_are_named(dumped, spoil, where, words):
    spoil(dumped.folder / "SegmentationClass")
    with refused(dumped.folder / "SegmentationClass" / where, *words):
        list(read_predictions(dumped.folder, dumped.records, CLASSES))


def test_another_folder_is_refused(dumped, tmp_path):
    with refused("none/SegmentationClass"):
        list(read_predictions(tmp_path / "none", dumped.records, CLASSES))


def test_turned_images_have_turned_masks(dumped, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "8.jpg"
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(path, exif=exif)
    dumped.records[1]["file_name"] = str(path)
    assert len(list(read_predictions(dumped.folder, dumped.records, CLASSES))) == 2


def test_a_missing_image_is_named(dumped, tmp_path):
    (tmp_path / "8.png").unlink()
    with refused(tmp_path / "8.png"):
        list(read_predictions(dumped.folder, dumped.records, CLASSES))


def test_label_maps_of_other_classes_are_refused(dumped, caplog):
    assert list(read_predictions(dumped.folder, dumped.records, CLASSES))
    assert "classes.txt is missing" in caplog.text
    caplog.clear()
    names = dumped.folder / "classes.txt"
    names.write_text("cat\ndog\nowl\n")
    assert list(read_predictions(dumped.folder, dumped.records, CLASSES))
    assert not caplog.text
    for text in ("cat\nowl\ndog\n", "cat\ndog\n", "cat\ndog\nowl\nfox\n"):
        names.write_text(text)
        with refused(names):
            next(read_predictions(dumped.folder, dumped.records, CLASSES))
