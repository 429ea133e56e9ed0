# SPDX-License-Identifier: Apache-2.0
"""PASCAL Context's masks from its release."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers import refused
from PIL import Image
from scipy.io import savemat

from dalnet.cli import main
from dalnet.data.prepare.context import FREQUENT_IDS, read_context_mask


@pytest.fixture
def releases(tmp_path, monkeypatch):
    """Context with one image more than VOC 2010's validation list."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    release, voc = tmp_path / "trainval", tmp_path / "VOC2010"
    for folder in (release, voc / "ImageSets/Main", voc / "JPEGImages"):
        folder.mkdir(parents=True)
    (voc / "ImageSets/Main/val.txt").write_text("a\nb\n")
    for name in "abc":
        # An id of no frequent class, aeroplane, wall, wood.
        savemat(release / f"{name}.mat", {"LabelMap": np.array([[1, 2, 440, 458]], np.uint16)})
        Image.new("RGB", (4, 1)).save(voc / "JPEGImages" / f"{name}.jpg")
    return release, voc


def test_the_command(releases, capsys):
    release, voc = releases
    main(["prepare", "context", "--input", str(release), "--output", str(voc), "--workers", "1"])
    assert "2 images" in capsys.readouterr().out
    mask = np.array(Image.open(voc / "SegmentationClassContext" / "a.png"))
    assert mask.tolist() == [[0, 1, 56, 59]]
    names = MetadataCatalog.get("zero_shot_context60").stuff_classes
    assert [names[i] for i in (1, 56, 59)] == ["aeroplane", "wall", "wood"]
    assert [record["image_id"] for record in DatasetCatalog.get("zero_shot_context60")] == [
        "a",
        "b",
    ]


def test_ids_are_in_the_order_of_the_names():
    # The release numbers its words alphabetically, and so are the 59 classes.
    assert len(FREQUENT_IDS) == 59
    assert list(FREQUENT_IDS) == sorted(FREQUENT_IDS)


def test_a_file_that_is_missing(releases):
    release, voc = releases
    (release / "b.mat").unlink()
    from dalnet.data.prepare.context import prepare_context

    with refused(release / "b.mat"):
        prepare_context(release, voc, 1)


@pytest.mark.parametrize("content", [{"other": 1}, {"LabelMap": np.array([[9999]])}])
def test_a_file_of_something_else(tmp_path, content):
    savemat(tmp_path / "a.mat", content)
    with refused(tmp_path / "a.mat"):
        read_context_mask(tmp_path / "a.mat")
