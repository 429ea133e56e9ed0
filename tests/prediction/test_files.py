# SPDX-License-Identifier: Apache-2.0
"""Which files are found, what their results are called, and that no input is overwritten."""

import errno
import logging
import os
from pathlib import Path

import pytest
from helpers import refused

from dalnet.prediction.files import PredictionInput, ResultPaths, find_inputs

CLASSES = ["background", "dog", "garden chair", "garden_chair"]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Files without content, in several folders below the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in (
        *("a/x.jpg", "a/x.png", "a/y.JPEG", "a/notes.txt", "a/walk.mp4", "a/.hidden.jpg"),
        *("a/.git/x.jpg", "a/deep/x.jpg", "b/x.jpg", "b/z", "c[1].png", "out/old_mask.png"),
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    return tmp_path


def find(*texts, output="out"):
    found = find_inputs(texts, Path(output))
    assert all(item.source.is_file() for item in found)
    return {str(item.name): item.is_video for item in found}


def images(*names):
    return dict.fromkeys(names, False)


def test_folders_are_searched_with_all_below(tree):
    assert find("a") == images("x.jpg", "x.png", "y", "deep/x")


def test_videos_in_a_folder_are_left_out_with_a_word(tree, caplog):
    find("a/walk.mp4", "a/*", "b")
    Path("out/walk_overlay.mp4").touch()
    Path("photo.jpg").touch()
    Path("a/walk.mp4").rename("walk.txt")
    find(".")  # but for the results of an earlier run
    assert not caplog.records
    Path("walk.txt").rename("a/walk.mp4")
    find("a")
    assert "1 videos" in caplog.text and "walk.mp4" in caplog.text


def test_linked_folders_are_entered_once(tree):
    Path("d").mkdir()
    Path("d/link").symlink_to(tree / "b")
    Path("b/ring").symlink_to(tree / "d")
    assert find("d") == images("link/x")


def test_equal_names_keep_their_folders(tree):
    assert find("a/x.jpg", "b/x.jpg") == images("a/x", "b/x")
    assert find("a/deep", "b") == images("a/deep/x", "b/x")
    # The working directory written in two ways is one.
    assert find("a/x.jpg", str(tree / "b" / "x.jpg"), "b/../a/x.jpg") == images("a/x", "b/x")


def test_a_named_file_is_taken_whatever_it_is_called(tree):
    assert find("b/z") == images("z")
    assert find("a/walk.mp4") == {"walk": True}
    assert find("c[1].png") == images("c[1]")


def test_patterns(tree):
    assert find("a/*") == {**images("x.jpg", "x.png", "y"), "walk": True}
    assert find("*/x.jpg") == images("a/x", "b/x")
    assert find("a/**/*.jpg") == images("x", "deep/x")


def test_earlier_results_are_no_inputs(tree):
    everything = {"a/x.jpg", "a/x.png", "a/y", "a/deep/x", "b/x", "c[1]"}
    assert set(find(".")) == everything
    assert set(find("**/*.png")) == {"a/x", "c[1]"}
    assert set(find(".", output="elsewhere")) == everything | {"out/old_mask"}
    # Who names the output folder, or lets it be above, means what lies in it.
    assert set(find("out")) == set(find("out", output=".")) == {"old_mask"}


@pytest.mark.parametrize("text", ["gone.jpg", "gone/", "a/*.tif", "empty"])
def test_nothing_found(tree, text):
    Path("empty/sub").mkdir(parents=True)
    with refused(text):
        find("a", text)


def test_names_that_look_like_names_with_suffix(tree):
    for name in ("x", "x.jpg", "x.png", "x.jpg.png"):
        Path("b", name).touch()
    assert len(find("b/x", "b/x.jpg", "b/x.png", "b/x.jpg.png")) == 4


def test_paths_of_results():
    jpeg = PredictionInput(Path("in/sub/x.JPG"), Path("sub/x"))
    tiff = PredictionInput(Path("in/x.tif"), Path("x"))
    video = PredictionInput(Path("in/x.mp4"), Path("f"), is_video=True)
    paths = ResultPaths(Path("out"), [jpeg, tiff, video], CLASSES)
    found = [
        *(paths.overlay(jpeg), paths.mask(jpeg), paths.cam(jpeg, "dog")),
        *(paths.overlay(tiff), paths.overlay(video), paths.mask(video, 12)),
    ]
    assert [str(path.relative_to("out")) for path in found] == [
        *("sub/x_overlay.jpg", "sub/x_mask.png", "sub/x_cam_dog.png"),
        *("x_overlay.png", "f_overlay.mp4", "f_mask/000012.png"),
    ]
    assert len({str(paths.cam(tiff, name)).lower() for name in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize(
    "name", ["x_overlay.jpg", "x_mask.png", "x_cam_dog.png", "walk_overlay.mp4"]
)
def test_inputs_are_never_overwritten(tree, name):
    Path("a", name).touch()
    inputs = find_inputs(["a/x.jpg", "a/walk.mp4", f"a/{name}"], Path("a"))
    items = {str(item.name): item for item in inputs}

    def write(folder):
        paths = ResultPaths(Path(folder), inputs, CLASSES)
        for item in (items["x"], items["walk"]):
            paths.overlay(item), paths.mask(item), paths.cam(item, "dog")

    write("elsewhere")
    Path("link").symlink_to("a")
    for folder in ("a", "link"):
        with refused("a/", name):
            write(folder)


def test_links_that_lead_in_circles_end(tree):
    # By glob, two of them in a folder would be followed along 2 to the power of 40 paths.
    for name in ("ring1", "ring2"):
        Path("a", name).symlink_to(tree / "a")
    assert find("a/**/*.jpg") == images("x", "deep/x")
    assert find("a/**") == {**images("x.jpg", "x.png", "y", "deep/x"), "walk": True}


def test_patterns_stand_below_folders_of_any_name(tree):
    for name in ("p[1]/q/r.png", "p[1]/q.png", "p[1]/50% *.png", "~z.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert find("p[1]/*.png") == images("q", "50% *")
    assert find("p[1]/**/r.png") == images("q/r")
    assert find("p[1]/**/q/*") == images("q/r")
    assert find("~z.png") == images("~z")


def test_what_cannot_be_looked_into_is_named(tree, monkeypatch, caplog):
    Path("a/broken.png").symlink_to("nowhere")
    assert "broken" in {item.name.name for item in find_inputs(["a"], Path("out"))}
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "deep":
            raise PermissionError(errno.EACCES, "not allowed", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with caplog.at_level(logging.WARNING):
        assert "deep/x" not in {str(item.name) for item in find_inputs(["a"], Path("out"))}
    assert "a/deep" in caplog.text and "not allowed" in caplog.text


def test_two_results_of_one_name_are_refused():
    first = PredictionInput(Path("in/x.png"), Path("x"))
    second = PredictionInput(Path("in/x_cam.png"), Path("x_cam"))
    paths = ResultPaths(Path("out"), [first, second], ["background", "mask"])
    assert paths.cam(first, "mask") == Path("out/x_cam_mask.png")
    assert paths.cam(first, "mask")
    with refused("x_cam.png", "in/x.png"):
        paths.mask(second)


def test_class_names_lead_to_no_other_folder_and_no_long_name():
    names = ["background", "../../up", "/root", "..", "long " * 60, "long " * 60 + "er"]
    item = PredictionInput(Path("in/x.png"), Path("x"))
    paths = ResultPaths(Path("out"), [item], names)
    found = [paths.cam(item, name) for name in names]
    assert len(set(found)) == len(names)
    for path in found:
        assert path.parent == Path("out") and len(path.name) < 100
