# SPDX-License-Identifier: Apache-2.0
"""PASCAL VOC 2012: classes, folders, and when the environment is read."""

from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers import refused

from dalnet.data.datasets.voc import VOC_CLASSES


def test_builtin_sets_read_the_environment_when_asked(tmp_path, monkeypatch, write_tree):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with refused(tmp_path / "VOC2012"):
        DatasetCatalog.get("voc_2012_sem_seg_train")
    root = write_tree(tmp_path / "VOC2012", {"a": ["tvmonitor"]})
    lists = root / "ImageSets" / "Segmentation"
    for split in ("train_aug", "val", "test"):
        (lists / f"{split}.txt").write_text("a\n")
    folders = {"train": "SegmentationClass", "train_aug": "SegmentationClassAug"}
    for split, folder in folders.items():
        first = DatasetCatalog.get(f"voc_2012_sem_seg_{split}")[0]
        assert first["image_labels"] == [19]
        assert first["sem_seg_file_name"] == str(root / folder / "a.png")
    (root / "image_tags.json").unlink()
    test = DatasetCatalog.get("voc_2012_sem_seg_test")[0]
    assert "sem_seg_file_name" not in test and test["image_labels"] == []


def test_voc_metadata():
    meta = MetadataCatalog.get("voc_2012_sem_seg_val")
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES) and len(VOC_CLASSES) == 20
    assert len(meta.stuff_classes) == len(meta.prompt_names) + 1 == 21
    changed = set(meta.prompt_names) - set(VOC_CLASSES)
    assert changed == {"dining table", "potted plant", "tv monitor"}
