# SPDX-License-Identifier: Apache-2.0
"""Archives and result files for others, read back with other tools."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

from dalnet.data.palette import voc_palette
from dalnet.errors import UsageError
from dalnet.evaluation.dump import Dump
from dalnet.evaluation.export import VOC_FOLDER, write_coco_results, write_voc_archive
from dalnet.evaluation.protocol import Protocol, Row

ROW = Row("seg", Protocol.parse("ms+flip"), (1.0,))
SIZES = {"7": (6, 9), "8": (5, 4)}


@pytest.fixture
def dumped(tmp_path):
    """Photographs of two sizes, their records, and a dump of label maps of classes 0 to 3."""
    rng = np.random.default_rng(0)
    dump, records, labels = Dump(tmp_path / "dump"), [], {}
    for name, size in SIZES.items():
        photo = tmp_path / f"{name}.png"
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(photo)
        records.append({"file_name": str(photo), "image_id": int(name)})
        labels[name] = rng.integers(0, 4, size).astype(np.uint8)
        dump.write_labels(ROW, name, labels[name])
    return dump, records, labels


def test_dumped_label_maps_are_a_voc_tree(dumped):
    dump, _, labels = dumped
    dump.write_list(ROW, "val", ["8", "7"])
    folder = dump.root / "seg" / "ms+flip"
    assert (folder / "ImageSets" / "Segmentation" / "val.txt").read_text() == "7\n8\n"
    for name, expected in labels.items():
        picture = Image.open(folder / "SegmentationClass" / f"{name}.png")
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), expected)
        assert np.reshape(picture.getpalette(), (-1, 3))[:21].tolist() == voc_palette(21)


def test_dumped_cams_are_small_arrays(tmp_path):
    dump, row = Dump(tmp_path), Row("cam", Protocol.parse("ss"), (1.0,))
    cams = torch.rand(2, 5, 6)
    dump.write_cams(row, "x", (3, 8), cams)
    with np.load(tmp_path / "cam" / "ss" / "CAM" / "x.npz", allow_pickle=False) as arrays:
        assert arrays["classes"].tolist() == [3, 8]
        assert arrays["cams"].dtype == np.float16
        np.testing.assert_array_equal(arrays["cams"], cams.half().numpy())


@pytest.mark.parametrize("name", ["results.tar", "results.tgz", "Results.TAR.GZ"])
def test_voc_archive(dumped, tmp_path, name):
    dump, records, labels = dumped
    output = tmp_path / "sub" / name
    write_voc_archive(dump.folder(ROW), records, 4, output)
    with tarfile.open(output) as archive:
        assert archive.getnames() == [f"{VOC_FOLDER}/{image}.png" for image in ("7", "8")]
        for member in archive:
            assert (member.uname, member.uid, member.mtime) == ("", 0, 0)
            picture = Image.open(io.BytesIO(archive.extractfile(member).read()))
            np.testing.assert_array_equal(np.asarray(picture), labels[member.name[-5]])
    with open(output, "rb") as stream:
        assert (stream.read(2) == b"\x1f\x8b") == (not name.endswith(".tar"))


def test_coco_results(dumped, tmp_path):
    dump, records, labels = dumped
    output = tmp_path / "results.json"
    write_coco_results(dump.folder(ROW), records, [1, 5, 90], output)
    entries = json.loads(output.read_text())
    rebuilt = {name: np.zeros_like(label_map) for name, label_map in labels.items()}
    for entry in entries:
        inside = rle.decode(entry["segmentation"])
        assert inside.any()
        value = [1, 5, 90].index(entry["category_id"]) + 1
        rebuilt[str(entry["image_id"])][inside > 0] = value
    for name, label_map in labels.items():
        np.testing.assert_array_equal(rebuilt[name], label_map)

    for name, size in SIZES.items():
        dump.write_labels(ROW, name, np.zeros(size, np.uint8))
    write_coco_results(dump.folder(ROW), records, [1, 5, 90], output)
    assert json.loads(output.read_text()) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "7.png").unlink(), r"lacks 1 image.* the first is 7"),
        (lambda folder: (folder / "9.png").touch(), r"has 1 picture.* of no image .* is 9"),
        (lambda folder: (folder / "8.png").write_bytes(b"x"), "8.png cannot be read"),
        (
            lambda folder: Image.fromarray(np.zeros((6, 6), np.uint8)).save(folder / "8.png"),
            r"8.png is \(6, 6\) but its photograph is \(5, 4\)",
        ),
        (
            lambda folder: Image.fromarray(np.full((5, 4), 255, np.uint8)).save(folder / "8.png"),
            "8.png contains the value 255",
        ),
        (
            lambda folder: Image.fromarray(np.full((5, 4), 4, np.uint8)).save(folder / "8.png"),
            "8.png contains the value 4",
        ),
    ],
)
def test_incomplete_or_wrong_predictions_are_named(dumped, tmp_path, spoil, message):
    dump, records, _ = dumped
    spoil(dump.folder(ROW) / "SegmentationClass")
    output = tmp_path / "out" / "results.tar"
    with pytest.raises(UsageError, match=message):
        write_voc_archive(dump.folder(ROW), records, 4, output)
    with pytest.raises(UsageError, match=message):
        write_coco_results(dump.folder(ROW), records, [1, 2, 3], output.with_suffix(".json"))
    assert not list(output.parent.glob("*")), "half an output was left"


def test_other_folders_and_suffixes_are_refused(dumped, tmp_path):
    dump, records, _ = dumped
    with pytest.raises(UsageError, match="has no folder SegmentationClass"):
        write_voc_archive(tmp_path / "none", records, 4, tmp_path / "results.tar")
    with pytest.raises(UsageError, match="is no .tar"):
        write_voc_archive(dump.folder(ROW), records, 4, tmp_path / "results.zip")


def test_turned_photographs_have_turned_masks(dumped, tmp_path):
    dump, records, labels = dumped
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "8.jpg"
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(path, exif=exif)
    records[1]["file_name"] = str(path)
    write_voc_archive(dump.folder(ROW), records, 4, tmp_path / "results.tar")
