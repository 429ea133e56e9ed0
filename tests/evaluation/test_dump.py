# SPDX-License-Identifier: Apache-2.0
"""Predictions on disk, read back with other tools."""

import numpy as np
import pytest
import torch
from PIL import Image

from dalnet.data.palette import voc_palette
from dalnet.evaluation.dump import Dump, image_name
from dalnet.evaluation.sources import make_measurements
from dalnet.modeling.meta_arch import DALNet

NAMES = ["background", "cat", "dog"]


@pytest.fixture
def measurements(tiny_cfg):
    return make_measurements(tiny_cfg, DALNet.sources, ["sem_seg", "cam"], ["ms+flip"])


def test_dumped_label_maps_are_a_voc_tree(tmp_path, measurements):
    dump, head = Dump(tmp_path, measurements, "val", NAMES), measurements[0]
    expected = np.random.default_rng(0).integers(0, 4, (6, 9)).astype(np.uint8)
    dump.write_labels(head, "7", expected)
    names = {"a/8.jpg": [1], "b/7.png": [], "9.jpg": []}
    records = [{"file_name": name, "image_labels": labels} for name, labels in names.items()]
    records[1]["unknown_labels"] = [2]
    dump.begin("settings", is_new=True)
    assert dump.lost(records, "settings") == {"8", "9"}
    assert dump.lost(records, "other settings") == {"7", "8", "9"}
    dump.write_lists(records)
    assert dump.lost(records, "settings") == {"7", "8", "9"}, "it is finished"
    assert not list(tmp_path.rglob(".*"))
    listed = [dump.folder(m) / "ImageSets/Segmentation/val.txt" for m in measurements]
    assert [path.read_text() for path in listed] == ["7\n8\n9\n", "8\n9\n"]
    assert (dump.folder(head) / "classes.txt").read_text() == "cat\ndog\n"
    picture = Image.open(tmp_path / "sem_seg/ms+flip/SegmentationClass/7.png")
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture), expected)
    assert np.reshape(picture.getpalette(), (-1, 3))[:21].tolist() == voc_palette(21)


def test_tagged_images_are_called_by_their_path():
    tagged = {"file_name": "/data/pets/cat/0.jpg", "image_id": "cat/0.jpg"}
    assert image_name(tagged) == "cat/0"
    voc = {"file_name": "/data/JPEGImages/2007_000033.jpg", "image_id": "2007_000033"}
    assert image_name(voc) == "2007_000033"
    coco = {"file_name": "/data/val2014/COCO_val2014_000000000042.jpg", "image_id": 42}
    assert image_name(coco) == "COCO_val2014_000000000042"
    assert image_name({"file_name": "/data/pets/0.jpg", "image_id": "0.jpg"}) == "0"


def test_dumped_cams_are_small_arrays(tmp_path, measurements):
    cams = torch.rand(2, 5, 6)
    Dump(tmp_path, measurements, "val", NAMES).write_cams(measurements[1], "x", cams, (3, 8))
    with np.load(tmp_path / "cam/ms+flip/CAM/x.npz", allow_pickle=False) as arrays:
        assert arrays["classes"].tolist() == [3, 8]
        assert arrays["cams"].dtype == np.float16
        np.testing.assert_array_equal(arrays["cams"], cams.half().numpy())


def test_what_is_missing_is_told_by_image(tmp_path, measurements):
    dump = Dump(tmp_path, measurements, "val", NAMES)
    labeled, unlabeled = {"file_name": "a.jpg"}, {"file_name": "b.jpg"}
    labeled["image_labels"] = unlabeled["image_labels"] = []
    unlabeled["unknown_labels"] = [0]
    dump.begin("x", is_new=True)
    dump.write_labels(measurements[0], "a", np.zeros((2, 2), np.uint8))
    dump.write_labels(measurements[0], "b", np.zeros((2, 2), np.uint8))
    assert dump.lost([labeled, unlabeled], "x") == {"a"}, "of b there is no CAM"
    dump.write_cams(measurements[1], "a", torch.rand(0, 2, 2), ())
    assert dump.lost([labeled, unlabeled], "x") == set()
    (dump.folder(measurements[0]) / "SegmentationClass/b.png").unlink()
    assert dump.lost([labeled, unlabeled], "x") == {"b"}


def test_lists_of_an_earlier_dump_are_removed(tmp_path, measurements):
    dump = Dump(tmp_path, measurements, "val", NAMES)
    dump.begin("settings", is_new=True)
    dump.write_lists([{"file_name": "a.jpg", "image_labels": [0]}])
    dump.begin("settings", is_new=False)
    assert len(list(tmp_path.rglob("val.txt"))) == 2
    dump.begin("settings", is_new=True)
    assert not list(tmp_path.rglob("val.txt"))
