# SPDX-License-Identifier: Apache-2.0
"""Lists and labels of VOC-layout folders, and what is said when something is missing."""

import importlib
import json
import logging
import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

import dalnet.data.datasets
from dalnet.data.datasets.voc import VOC_CLASSES
from dalnet.data.datasets.voc_layout import load_voc_layout, register_voc_layout
from dalnet.data.labels import filter_unlabeled
from dalnet.data.palette import voc_palette
from dalnet.errors import UsageError

CLASSES = ("cat", "dog", "owl")


def write_tree(root, tags=None, xml=None, suffixes=None):
    """Three photographs; labels from ``tags``, or from ``xml`` = {id: [names]}."""
    (root / "JPEGImages").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    ids = ["a", "b", "c"]
    for i, name in enumerate(ids):
        suffix = (suffixes or {}).get(name, ".jpg")
        Image.new("RGB", (8, 6), (40 * i, 0, 0)).save(root / "JPEGImages" / (name + suffix))
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n b \n\nc\n")
    if tags is not None:
        (root / "image_tags.json").write_text(json.dumps(tags))
    for name, objects in (xml or {}).items():
        (root / "Annotations").mkdir(exist_ok=True)
        entries = "".join(
            f"<object><name>{o}</name><difficult>1</difficult><part><name>head</name></part>"
            "</object>"
            for o in objects
        )
        path = root / "Annotations" / f"{name}.xml"
        path.write_text(f"<annotation><folder>x</folder>{entries}</annotation>")
    return root


def test_tags_give_sorted_unique_labels_and_paths(tmp_path):
    root = write_tree(
        tmp_path / "t", {"a": ["owl", "cat", "owl"], "b": ["dog"]}, suffixes={"b": ".png"}
    )
    dicts = load_voc_layout(root, "train", CLASSES, "Masks")
    assert [d["image_id"] for d in dicts] == ["a", "b", "c"]
    assert [d["image_labels"] for d in dicts] == [[0, 2], [1], []]
    assert dicts[1]["file_name"] == str(root / "JPEGImages" / "b.png")
    assert dicts[2]["sem_seg_file_name"] == str(root / "Masks" / "c.png")


def test_annotations_go_before_tags_and_count_difficult_objects_but_no_parts(tmp_path, caplog):
    xml = {"a": ["dog", "dog", "cat"], "b": ["owl"]}
    root = write_tree(tmp_path / "t", {"a": ["owl"]}, xml)
    with caplog.at_level(logging.WARNING, "dalnet.data.labels"):
        dicts = load_voc_layout(root, "train", CLASSES, None)
    assert "image_tags.json is not read" in caplog.text
    assert [d["image_labels"] for d in dicts] == [[0, 1], [2], []]
    assert all("sem_seg_file_name" not in d for d in dicts)


def test_unlabeled_split_asks_for_no_labels(tmp_path):
    dicts = load_voc_layout(write_tree(tmp_path / "t"), "train", None, None)
    assert [d["image_labels"] for d in dicts] == [[], [], []]


def break_nothing_there(root):
    shutil.rmtree(root)
    return [str(root), "JPEGImages", "fetch it"]


def break_list(root):
    (root / "ImageSets/Segmentation/train.txt").unlink()
    return ["train.txt", "fetch it"]


def break_empty_list(root):
    (root / "ImageSets/Segmentation/train.txt").write_text("\n")
    return ["train.txt", "empty"]


def break_image(root):
    (root / "JPEGImages/b.jpg").unlink()
    return ["b", "JPEGImages"]


def break_labels(root):
    (root / "image_tags.json").unlink()
    return ["Annotations", "image_tags.json"]


def break_class(root):
    (root / "image_tags.json").write_text('{"b": ["dragon"]}')
    return ["dragon", "image_tags.json", "image b"]


def break_json(root):
    (root / "image_tags.json").write_text("{")
    return ["image_tags.json", "JSON"]


def break_json_content(root):
    (root / "image_tags.json").write_text('{"a": "cat"}')
    return ["image_tags.json"]


def break_json_names(root):
    (root / "image_tags.json").write_text('{"b": [["cat"]]}')
    return ["image_tags.json", "expected"]


def break_list_encoding(root):
    (root / "ImageSets/Segmentation/train.txt").write_bytes("Kätzchen".encode("latin-1"))
    return ["train.txt", "UTF-8"]


def break_xml_encoding(root):
    (root / "Annotations").mkdir()
    text = '<?xml version="1.0" encoding="gb2312"?><annotation/>'
    (root / "Annotations" / "a.xml").write_text(text)
    return ["a.xml"]


def break_xml_unknown_encoding(root):
    (root / "Annotations").mkdir()
    text = '<?xml version="1.0" encoding="no-such-code"?><annotation/>'
    (root / "Annotations" / "a.xml").write_text(text)
    return ["a.xml"]


def break_xml_class(root):
    write_tree(root / "other", xml={"c": ["dragon"]})
    (root / "other" / "Annotations").rename(root / "Annotations")
    return ["dragon", "c.xml"]


def break_xml(root):
    (root / "Annotations").mkdir()
    (root / "Annotations" / "a.xml").write_text("<annotation>")
    return ["a.xml"]


@pytest.mark.parametrize("damage", [f for n, f in globals().items() if n.startswith("break_")])
def test_damaged_tree_is_named_in_one_sentence(tmp_path, damage):
    root = write_tree(tmp_path / "t", {"a": ["cat"]})
    expected = damage(root)
    with pytest.raises(UsageError) as error:
        load_voc_layout(root, "train", CLASSES, how_to_get="fetch it")
    assert all(part in str(error.value) for part in expected)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", [".", "JPEGImages"])
def test_unreadable_folder_is_named(tmp_path, lock, part):
    root = write_tree(tmp_path / "t", {"a": ["cat"]})
    lock(root / part)
    with pytest.raises(UsageError, match=f"{root / 'JPEGImages'} cannot be read .Permission"):
        load_voc_layout(root, "train", CLASSES)


def test_images_without_labels_are_skipped_by_name_or_refused(caplog):
    dicts = [{"image_id": "a", "image_labels": [1]}, {"image_id": "b", "image_labels": []}]
    with caplog.at_level(logging.WARNING, "dalnet.data.labels"):
        assert filter_unlabeled(dicts, "skip") == dicts[:1]
    assert "label: b" in caplog.text
    with pytest.raises(UsageError, match="label: b"):
        filter_unlabeled(dicts, "refuse")
    assert filter_unlabeled(dicts[:1], "refuse") == dicts[:1]
    with pytest.raises(UsageError, match="UNLABELED_IMAGES"):
        filter_unlabeled(dicts, "ignore")
    with pytest.raises(UsageError, match="none of the 1"):
        filter_unlabeled(dicts[1:], "skip")


def test_own_photographs_register_and_register_again(tmp_path):
    root = write_tree(tmp_path / "t", {"a": ["cat"]})
    for classes in (CLASSES[:1], CLASSES):
        register_voc_layout("own_birds", root, classes, split="train", prompt_names=classes)
    assert len(DatasetCatalog.get("own_birds")) == 3
    meta = MetadataCatalog.get("own_birds")
    assert meta.stuff_classes == ["background", "cat", "dog", "owl"]
    assert meta.prompt_names == list(CLASSES)
    assert (meta.ignore_label, meta.evaluator_type) == (255, "sem_seg")
    assert len(meta.stuff_colors) == 4


def test_builtin_sets_read_the_environment_when_asked(tmp_path, monkeypatch):
    importlib.reload(dalnet.data.datasets)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(UsageError, match=str(tmp_path / "VOC2012")):
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


def test_palette_is_that_of_voc():
    colours = np.array(voc_palette())
    # As in the masks of the release: background, aeroplane, bicycle, person, tvmonitor, void.
    known = {0: 0, 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    for index, colour in {**known, 255: (224, 224, 192)}.items():
        assert (colours[index] == colour).all()
    assert len(np.unique(colours, axis=0)) == 256
