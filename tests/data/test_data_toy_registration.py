# SPDX-License-Identifier: Apache-2.0
"""The toy data set is generated where it is first asked for."""

from detectron2.data import DatasetCatalog, MetadataCatalog

import dalnet.data.datasets.toy_registration as toy_registration
from dalnet.data.datasets.toy import TOY_CLASSES


def test_asking_for_the_list_generates_the_set_first(tmp_path, monkeypatch):
    calls = []

    def generate(root):
        calls.append(root)
        for folder in ("JPEGImages", "ImageSets/Segmentation"):
            (tmp_path / "toy" / folder).mkdir(parents=True)
        (tmp_path / "toy/JPEGImages/t0.png").touch()
        (tmp_path / "toy/ImageSets/Segmentation/val.txt").write_text("t0\n")
        (tmp_path / "toy/image_tags.json").write_text(f'{{"t0": ["{TOY_CLASSES[1]}"]}}')

    monkeypatch.setattr(toy_registration, "ensure_toy_dataset", generate)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert calls == []
    (record,) = DatasetCatalog.get("toy_val")
    assert calls == [str(tmp_path / "toy")]
    assert record["image_labels"] == [1]
    assert record["sem_seg_file_name"] == str(tmp_path / "toy/SegmentationClass/t0.png")
    assert MetadataCatalog.get("toy_train").stuff_classes == ["background", *TOY_CLASSES]
