# SPDX-License-Identifier: Apache-2.0
"""Folders of the user's own images: when they are looked for, and what makes them data sets."""

import json
import logging
import os
import subprocess
import sys

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers import refused
from PIL import Image

from dalnet.data.datasets.catalog import register
from dalnet.data.datasets.custom import ensure_registered, read_classes, register_custom


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Folder of data sets, whose names leave the catalogs after the test."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    before = set(DatasetCatalog)
    yield tmp_path
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def write_images(folder, classes="fox\n\n garden chair : chair in a garden \n"):
    for part in ("JPEGImages", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(folder / "JPEGImages" / "p.png")
    for split in ("train", "val"):
        (folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("p\n")
    (folder / "image_tags.json").write_text(json.dumps({"p": ["garden chair"]}))
    (folder / "classes.txt").write_text(classes)


def test_every_list_becomes_a_data_set(root):
    write_images(root / "mine")
    assert register_custom() == ["mine_train", "mine_val"]
    (record,) = DatasetCatalog.get("mine_val")
    assert record["image_labels"] == [1]
    assert "sem_seg_file_name" not in record
    metadata = MetadataCatalog.get("mine_val")
    assert metadata.stuff_classes == ["background", "fox", "garden chair"]
    assert metadata.prompt_names == ["fox", "chair in a garden"]


AUDIT = """
import os, sys

touched = []
root = os.environ["DETECTRON2_DATASETS"]

def note(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith(root):
        touched.append(arguments[0])

sys.addaudithook(note)
import dalnet.data
at_import = len(touched)
assert dalnet.data.ensure_registered("voc_2012_sem_seg_val")
assert len(touched) == at_import
assert dalnet.data.ensure_registered("mine_val")
print("touched", at_import, len(touched))
"""


def test_the_disk_is_read_when_a_name_is_looked_up_and_not_on_import(root):
    write_images(root / "mine")
    command = [sys.executable, "-c", AUDIT]
    result = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    *_, at_import, in_all = result.stdout.split()
    assert int(at_import) == 0 < int(in_all)


def test_folders_that_appear_later_and_elsewhere_are_found(root, monkeypatch):
    assert not ensure_registered("mine_val")
    write_images(root / "mine")
    assert ensure_registered("mine_val") and not ensure_registered("mine_test")
    write_images(root / "elsewhere" / "other")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root / "elsewhere"))
    assert ensure_registered("other_train")


def test_registered_names_stay_as_they_are(root):
    write_images(root / "mine")
    register("mine_val", list, ["owl"])
    assert register_custom() == ["mine_train"]
    assert MetadataCatalog.get("mine_val").stuff_classes == ["background", "owl"]
    assert register_custom() == []


def test_masks_are_those_of_the_folder(root):
    write_images(root / "mine")
    (root / "mine" / "SegmentationClass").mkdir()
    register_custom()
    (record,) = DatasetCatalog.get("mine_train")
    assert record["sem_seg_file_name"] == str(root / "mine" / "SegmentationClass" / "p.png")


def test_a_name_that_two_folders_give_is_refused_where_it_is_asked_for(root, caplog):
    for folder, split in (("birds", "val_2021"), ("birds_val", "2021")):
        write_images(root / folder)
        (root / folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("p\n")
    with refused("birds_val_2021", root / "birds", root / "birds_val"):
        ensure_registered("birds_val_2021")
    assert ensure_registered("birds_train") and ensure_registered("birds_val_val")
    assert "birds_val_2021" not in DatasetCatalog
    assert "birds_val_2021" in caplog.text


def test_class_lists_of_windows_are_read(tmp_path):
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "classes.txt").write_bytes("fox\r\n\r\n猫: cat\r\n".encode(encoding))
        assert read_classes(tmp_path / "classes.txt") == {"fox": "fox", "猫": "cat"}


def test_a_link_gives_its_own_name(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_images(elsewhere / "images")
    (root / "mine").symlink_to(elsewhere / "images")
    assert register_custom() == ["mine_train", "mine_val"]


def test_unusable_folder_is_named_and_the_others_are_kept(root, caplog):
    write_images(root / "broken", "fox\nfox\n")
    write_images(root / "mine")
    (root / "no_classes" / "JPEGImages").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        assert register_custom() == ["mine_train", "mine_val"]
    (message,) = caplog.messages
    assert str(root / "broken") in message
    with refused(root / "broken" / "classes.txt", "fox"):
        ensure_registered("broken_train")
    assert ensure_registered("mine_train") and not ensure_registered("nobody_train")


@pytest.mark.parametrize("part", ["ImageSets", "ImageSets/Segmentation"])
def test_unreadable_lists_stop_no_other_data_set(root, lock, caplog, part):
    write_images(root / "foreign")
    write_images(root / "mine")
    lock(root / "foreign" / part)
    assert register_custom() == ["mine_train", "mine_val"]
    (message,) = caplog.messages
    assert f"{root / 'foreign'} are left out" in message and "Permission denied" in message


def test_no_data_root(root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root / "nowhere"))
    assert register_custom() == []


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"fox\nowl\nfox: red fox\n", "'fox: red fox'"),
        (b"fox\n: owl\n", "': owl'"),
        (b"background\nfox\n", "'background'"),
        (b"fox\nBackground: ground\n", "'Background: ground'"),
        # labelme's class_names.txt and labels.txt
        (b"_background_\nfox\n", "'_background_'"),
        (b"__ignore__\n_background_\nfox\n", "'__ignore__'"),
        (b"fox\nvoid\n", "'void'"),
        (b"Unlabelled\nfox\n", "'Unlabelled'"),
        # CVAT's labelmap.txt
        (b"# label:color_rgb:parts:actions\nbackground:0,0,0::\n", "'# label"),
        (b"fox:128,0,0::\nowl:0,128,0::\n", "'fox:128,0,0::'"),
        (b"128 0 0\n0 128 0\n", "'128 0 0'"),
        ("K\u00e4fer\nKa\u0308fer\n".encode(), "'Ka\u0308fer'"),
    ],
)
def test_unusable_classes(tmp_path, content, line):
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with refused(path, line):
        read_classes(path)


@pytest.mark.parametrize("content", [b" \n\n", b"f\xff\xfe", None])
def test_unreadable_classes(tmp_path, content):
    path = tmp_path / "classes.txt"
    if content is not None:
        path.write_bytes(content)
    with refused(path):
        read_classes(path)
