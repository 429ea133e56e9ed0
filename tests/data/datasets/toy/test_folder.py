# SPDX-License-Identifier: Apache-2.0
"""The toy data set's folder: layout, determinism, versions, and other people's files."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers import refused
from PIL import Image

from dalnet.data.datasets.toy import TOY_CLASSES, folder
from dalnet.data.datasets.toy.folder import SEED, VERSION, ensure_toy_dataset
from dalnet.data.datasets.toy.scenes import draw_scene
from dalnet.data.datasets.voc_layout import load_voc_layout
from dalnet.data.palette import voc_palette


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(folder, "SPLITS", {"train": 6, "val": 3})


def arrays(root):
    return {
        str(path.relative_to(root)): np.asarray(Image.open(path))
        for path in sorted(root.rglob("*.png"))
    }


def test_layout_masks_and_tags(small, tmp_path):
    root = tmp_path / "sub" / "toy"
    ensure_toy_dataset(root)
    assert [p.name for p in root.parent.iterdir()] == ["toy"], "a temporary folder was left"
    tags = json.loads((root / "image_tags.json").read_text())
    for split, count in (("train", 6), ("val", 3)):
        records = load_voc_layout(root, split, TOY_CLASSES)
        assert len(records) == count
        for record in records:
            image = Image.open(record["file_name"])
            mask = Image.open(record["sem_seg_file_name"])
            assert (image.mode, mask.mode) == ("RGB", "P")
            assert image.size == mask.size == (96, 96)
            assert np.reshape(mask.getpalette(), (-1, 3))[:11].tolist() == voc_palette(11)
            values = sorted(set(np.asarray(mask).flat) - {0})
            assert 1 <= len(values) <= 3 and values[-1] <= len(TOY_CLASSES)
            assert record["image_labels"] == [v - 1 for v in values]
            assert tags[record["image_id"]] == [TOY_CLASSES[v - 1] for v in values]


def test_two_runs_write_the_same_arrays(small, tmp_path):
    for name in "ab":
        ensure_toy_dataset(tmp_path / name)
    first, second = arrays(tmp_path / "a"), arrays(tmp_path / "b")
    assert list(first) == list(second) and len(first) == 18
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    images = [a.tobytes() for a in first.values() if a.ndim == 3]
    assert len(set(images)) == 9, "the same image twice"


def test_the_folder_of_this_version_is_kept_and_another_replaced(small, tmp_path):
    root = tmp_path / "toy"
    root.mkdir()  # an empty folder is taken over
    ensure_toy_dataset(root)
    mark = root / "mark"
    mark.touch()
    ensure_toy_dataset(root)
    assert mark.exists(), "generated twice"
    manifest = json.loads((root / "dataset.json").read_text())
    assert (manifest["version"], manifest["seed"]) == (VERSION, SEED)
    (root / "dataset.json").write_text(json.dumps({**manifest, "version": VERSION - 1}))
    ensure_toy_dataset(root)
    assert not mark.exists() and len(arrays(root)) == 18
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


def test_nothing_is_left_of_a_broken_run(small, tmp_path, monkeypatch):
    images = iter([draw_scene(np.random.default_rng(0))])
    monkeypatch.setattr(folder, "draw_scene", lambda rng: next(images))
    with pytest.raises(StopIteration):
        ensure_toy_dataset(tmp_path / "toy")
    assert list(tmp_path.iterdir()) == []


def test_other_peoples_files_are_refused(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with refused(tmp_path, "other files"):
        ensure_toy_dataset(tmp_path)
    for manifest in ("{", "[]", '{"version": 0}'):
        (tmp_path / "dataset.json").write_text(manifest)
        with refused(tmp_path, "other files"):
            ensure_toy_dataset(tmp_path)
    assert (tmp_path / "thesis.txt").exists()
    with refused(tmp_path / "thesis.txt", "other files"):
        ensure_toy_dataset(tmp_path / "thesis.txt")
    with refused(tmp_path / "thesis.txt" / "toy", "cannot be written"):
        ensure_toy_dataset(tmp_path / "thesis.txt" / "toy")


def test_unreadable_folder_is_named(tmp_path, lock):
    lock(tmp_path)
    with refused("dataset.json"):
        ensure_toy_dataset(tmp_path)


def test_asking_for_the_list_generates_the_set_first(small, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    first, *others = DatasetCatalog.get("toy_val")
    assert len(others) == 2
    assert first["sem_seg_file_name"] == str(tmp_path / "toy/SegmentationClass/val_0000.png")
    assert MetadataCatalog.get("toy_train").stuff_classes == ["background", *TOY_CLASSES]
