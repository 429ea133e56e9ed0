# SPDX-License-Identifier: Apache-2.0
"""Names in files of tags, and the images that they mean."""

import unicodedata

import pytest
from helpers import refused

from dalnet.data.image_files import find_images
from dalnet.data.tags import match_names, read_folder_tags

FILES = ["a.jpg", "sub/b.PNG", "other/c.v2.jpg", unicodedata.normalize("NFC", "Käfer.jpg")]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.jpg", "a.jpg"),
        ("a", "a.jpg"),
        ("./a.jpg", "a.jpg"),
        ("a.png", "a.jpg"),
        ("sub/b", "sub/b.PNG"),
        ("sub\\b.png", "sub/b.PNG"),
        ("/data/images/sub/b.PNG", "sub/b.PNG"),
        ("D:\\images\\sub\\b.PNG", "sub/b.PNG"),
        ("/data/images/a.jpg", "a.jpg"),
        ("b.PNG", "sub/b.PNG"),
        ("/data/upload/3/b.PNG", "sub/b.PNG"),
        ("/data/upload/3/0a1b2c3d-b.PNG", "sub/b.PNG"),
        ("c.v2", "other/c.v2.jpg"),
        ("0a1b2c3d-a.jpg", "a.jpg"),
        (unicodedata.normalize("NFD", "Käfer.jpg"), FILES[-1]),
    ],
)
def test_name_that_means_one_image(name, file):
    assert match_names([name], FILES) == ({name: file}, {})


def test_name_that_means_none_or_several():
    files = ["x/a.jpg", "y/a.jpg", "a.b.jpg"]
    found, open_names = match_names(["a.jpg", "x/a", "z", "a.b", "a"], files)
    assert found == {"x/a": "x/a.jpg", "a.b": "a.b.jpg"}
    assert open_names == {"a.jpg": files[:2], "z": [], "a": files[:2]}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("/data/upload/1/0a1b2c3d-IMG_1.JPG", "sub/IMG (1).JPG"),
        ("upload/1/0a1b2c3d-Capture_décran_2021.png", "Capture d’écran 2021.png"),
        ("images/9f8e7d6c__0a1b2c3d-Capture_d%C3%A9cran_2021.png", "Capture d’écran 2021.png"),
        ("images/9f8e7d6c__c d.jpg", "sub/c d.jpg"),
        ("9f8e7d6c__0a1b2c3d-c.jpg", "0a1b2c3d-c.jpg"),
    ],
)
def test_names_that_label_studio_gives(name, file):
    files = ["sub/IMG (1).JPG", "Capture d’écran 2021.png", "sub/c d.jpg", "0a1b2c3d-c.jpg"]
    assert match_names([name], files) == ({name: file}, {})
    assert match_names([name], files, uploaded=False)[0] == {}


def test_an_upload_that_may_be_of_two_images_means_both():
    files = ["a b.jpg", "a_b.jpg"]
    name = "/data/upload/1/0a1b2c3d-a_b.jpg"
    assert match_names([name], files) == ({}, {name: files})


def test_no_name_means_an_image_of_another_folder():
    files = ["monday/a.jpg", "new/monday/b.jpg"]
    for name in ("tuesday/a.jpg", "tuesday/a", "x/tuesday/a.png", "yesmonday/a.jpg", "new/b.jpg"):
        assert match_names([name], files) == ({}, {name: []})
    names = {"pets/monday/a.png": files[0], "monday/b": files[1]}
    assert match_names(names, files) == (names, {})


def test_the_whole_path_wins_over_the_file_name():
    files = ["a.jpg", "sub/a.jpg"]
    assert match_names(["a.jpg", "sub/a.jpg"], files) == ({name: name for name in files}, {})


def test_images_are_found_in_all_folders_once(tmp_path):
    names = ("b.JPG", "sub/a.jpeg", "c.jfif", "sub/b.JPE")
    for name in (*names, "sub/text.txt", ".hidden/c.jpg", "sub/.d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "sub/again").symlink_to(tmp_path)  # a ring
    assert find_images(tmp_path) == sorted(names)


def test_folders_are_classes(tmp_path):
    table = read_folder_tags(tmp_path, ["dog/a.jpg", "cat/x/b.jpg"])
    assert table.shown == {"dog/a.jpg": ["dog"], "cat/x/b.jpg": ["cat"]}
    assert table.classes == ["cat", "dog"]
    with refused(tmp_path, "c.jpg"):
        read_folder_tags(tmp_path, ["dog/a.jpg", "c.jpg"])
    with refused(tmp_path, "test, train"):
        read_folder_tags(tmp_path, ["train/cat/a.jpg", "train/dog/b.jpg", "test/cat/c.jpg"])
    assert read_folder_tags(tmp_path, ["train/a.jpg", "bus/b.jpg"]).classes == ["bus", "train"]
