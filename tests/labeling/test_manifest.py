# SPDX-License-Identifier: Apache-2.0
"""What a labeling remembers of an earlier run."""

import json
import os

import pytest
from helpers import refused

from dalnet.labeling.manifest import FILE, Finished, Manifest

SETTINGS = {"weights": "abc"}


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"1")
    return path


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


def finish(output, image, settings=SETTINGS, **options):
    """Open the manifest and finish one image, if it is not finished."""
    manifest = Manifest(output, settings, **options)
    key = manifest.key(image, ["cat"])
    was_finished = manifest.is_finished("a.jpg", key, "a.png")
    if not was_finished:
        manifest.add(Finished("a.jpg", key, "a.png", 0.5, "reason"))
    manifest.close()
    return was_finished


def test_image_is_finished_until_it_its_tags_or_the_name_of_its_mask_change(output, image):
    assert [finish(output, image) for _ in range(2)] == [False, True]
    manifest = Manifest(output, SETTINGS)
    assert manifest.finished["a.jpg"].reason == "reason"
    assert not manifest.is_finished("a.jpg", manifest.key(image, ["dog"]), "a.png")
    assert not manifest.is_finished("a.jpg", manifest.key(image, ["cat"]), "a.jpg.png")
    manifest.close()
    os.utime(image, ns=(1, 1))
    assert [finish(output, image) for _ in range(2)] == [False, True]


def test_an_image_that_is_left_out_is_no_longer_finished(output, image):
    finish(output, image)
    manifest = Manifest(output, SETTINGS)
    manifest.leave_out("a.jpg")
    manifest.close()
    assert not Manifest(output, SETTINGS).finished


def test_a_label_map_is_that_of_the_last_image_that_wrote_it(output, image):
    finish(output, image)
    manifest = Manifest(output, SETTINGS)
    manifest.add(Finished("a.png", "key", "a.png", 0.5, ""))
    manifest.close()
    for one in (manifest, Manifest(output, SETTINGS)):
        assert [*one.finished] == ["a.png"]


def test_other_settings_are_refused_or_overwrite(output, image):
    finish(output, image)
    with refused(output):
        Manifest(output, {"weights": "other"})
    assert Manifest(output, SETTINGS, overwrite=True).replaced == []
    assert Manifest(output, {"weights": "third"}, overwrite=True).replaced == ["a.png"]
    assert not finish(output, image, {"weights": "other"}, overwrite=True)
    assert finish(output, image, {"weights": "other"})


def test_folder_of_something_else_is_refused(output):
    output.mkdir()
    (output / "file").touch()
    with refused(output):
        Manifest(output, SETTINGS)
    Manifest(output, SETTINGS, overwrite=True).close()


def test_line_that_was_cut_off_is_done_again(output, image):
    finish(output, image)
    path = output / FILE
    path.write_bytes(path.read_bytes()[:-9])
    assert not finish(output, image)
    assert finish(output, image)
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("mask", ["../a.png", "/a.png", "b/../../a.png", "a.jpg", 5, None])
def test_no_label_map_lies_elsewhere(output, image, mask):
    finish(output, image)
    path = output / FILE
    path.write_text(path.read_text().replace('"a.png"', json.dumps(mask)) + "{}\n{}\n")
    with refused("line 2"):
        Manifest(output, SETTINGS)
    assert Manifest(output, {"weights": "other"}, overwrite=True).replaced == []


def test_damaged_line_is_named(output, image):
    finish(output, image)
    with (output / FILE).open("a") as stream:
        stream.write("nothing\n{}\n")
    with refused("line 3"):
        Manifest(output, SETTINGS)
    assert Manifest(output, SETTINGS, overwrite=True).replaced == ["a.png"]
    assert not Manifest(output, SETTINGS).finished
