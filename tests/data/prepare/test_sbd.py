# SPDX-License-Identifier: Apache-2.0
"""SBD masks and the train_aug list."""

import numpy as np
import pytest
from helpers import refused
from PIL import Image
from scipy.io import savemat

from dalnet.cli import main
from dalnet.data.prepare.sbd import prepare_sbd


@pytest.fixture
def releases(tmp_path):
    """SBD with s1, s2, v1; VOC with t1 and s2 in train, v1 in val."""
    sbd, voc = tmp_path / "sbd", tmp_path / "VOC2012"
    for folder in (sbd / "cls", voc / "ImageSets/Segmentation", voc / "SegmentationClass"):
        folder.mkdir(parents=True)
    (sbd / "train.txt").write_text("s1\ns2\n")
    (sbd / "val.txt").write_text("v1\n")
    (voc / "ImageSets/Segmentation/train.txt").write_text("t1\ns2\n")
    (voc / "ImageSets/Segmentation/val.txt").write_text("v1\n")
    for value, name in enumerate(("s1", "s2", "v1"), start=1):
        write_mat(sbd, name, np.full((4, 5), value, dtype=np.uint8))
    for value, name in ((11, "t1"), (12, "s2"), (255, "v1")):
        mask = Image.new("P", (5, 4), value)
        mask.putpalette(bytes(range(256)) * 3)
        mask.save(voc / "SegmentationClass" / f"{name}.png")
    return sbd, voc


def write_mat(sbd, name, mask):
    savemat(sbd / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": mask, "Boundaries": 0}})


def test_sbd_fills_up_the_official_split(releases):
    sbd, voc = releases
    summary, listed = prepare_sbd(sbd, voc, workers=1)
    assert (summary.written, listed) == (4, 3)
    assert (voc / "ImageSets/Segmentation/train_aug.txt").read_text() == "s1\ns2\nt1\n"
    # Official masks go before SBD's.
    for name, value in {"s1": 1, "s2": 12, "t1": 11, "v1": 255}.items():
        mask = np.array(Image.open(voc / "SegmentationClassAug" / f"{name}.png"))
        assert mask.shape == (4, 5) and (mask == value).all()
    assert prepare_sbd(sbd, voc, workers=1)[0].kept == 4


def test_sbd_that_is_incomplete_or_foreign_is_named(releases, last_words):
    sbd, voc = releases
    write_mat(sbd, "s1", np.full((2, 2), 21))
    with refused("s1.mat", "21"):
        prepare_sbd(sbd, voc, workers=1)
    for odd in ({"GTcls": {"Segmentation": "text"}}, {"GTcls": 3}, {"GTinst": {}}):
        savemat(sbd / "cls" / "s1.mat", odd)
        with refused("s1.mat"):
            prepare_sbd(sbd, voc, workers=1)
    (sbd / "cls" / "s1.mat").write_bytes(b"nothing")
    with refused("s1.mat"):
        prepare_sbd(sbd, voc, workers=1)
    (sbd / "cls" / "s1.mat").unlink()
    status, sentence = last_words("voc", "--input", sbd, "--output", voc, "--workers", 1)
    assert status == 1 and sentence.startswith("error: ") and "s1.mat: " in sentence
    assert not (voc / "ImageSets/Segmentation/train_aug.txt").exists()
    (sbd / "val.txt").unlink()
    with refused("val.txt"):
        prepare_sbd(sbd, voc, workers=1)


def test_sbd_command(releases, capsys):
    sbd, voc = releases
    main(["prepare", "voc", "--input", str(sbd), "--output", str(voc), "--workers", "1"])
    output = capsys.readouterr().out
    assert "4 masks (4 written, 0 kept), sha256 " in output and "train_aug.txt: 3 images" in output
