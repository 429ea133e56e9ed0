# SPDX-License-Identifier: Apache-2.0
"""Which files are found, what their results are called, and that no input is overwritten."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dalnet.prediction.files import PredictionInput, PredictionWriter, find_inputs
from dalnet.errors import UsageError


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


def find(*texts, output="out", **options):
    found = find_inputs(texts, Path(output), **options)
    assert all(item.source.is_file() for item in found)
    return {str(item.name): item.is_video for item in found}


def pictures(*names):
    return dict.fromkeys(names, False)


def test_folders_are_searched_with_all_below(tree):
    assert find("a") == pictures("x.jpg", "x.png", "y", "deep/x")


def test_equal_names_keep_their_folders(tree):
    assert find("a/x.jpg", "b/x.jpg") == pictures("a/x", "b/x")
    assert find("a/deep", "b") == pictures("a/deep/x", "b/x")
    # The working directory written in two ways is one.
    assert find("a/x.jpg", str(tree / "b" / "x.jpg"), "b/../a/x.jpg") == pictures("a/x", "b/x")


def test_a_named_file_is_taken_whatever_it_is_called(tree):
    assert find("b/z") == pictures("z")
    assert find("a/walk.mp4") == {"walk": True}
    assert find("b/z", video=True) == {"z": True}
    assert find("c[1].png") == pictures("c[1]")


def test_patterns(tree):
    assert find("a/*") == {**pictures("x.jpg", "x.png", "y"), "walk": True}
    assert find("*/x.jpg") == pictures("a/x", "b/x")
    assert find("a/**/*.jpg") == pictures("x", "deep/x")


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
    with pytest.raises(UsageError, match="does not exist|holds no file to predict"):
        find("a", text)


def test_names_that_look_like_names_with_suffix(tree):
    for name in ("x", "x.jpg", "x.png", "x.jpg.png"):
        Path("b", name).touch()
    named = find("b/x", "b/x.jpg", "b/x.png", "b/x.jpg.png")
    assert len(named) == 4


def write_all(writer, item):
    writer.write_overlay(item, np.zeros((4, 5, 3), np.uint8))
    writer.write_mask(item, np.full((4, 5), 2, np.uint8))
    writer.write_cams(item, np.zeros((4, 5, 3), np.uint8), {"a/b c": np.zeros((4, 5))})


def test_paths_of_results(tmp_path):
    jpeg = PredictionInput(Path("in/sub/x.JPG"), Path("sub/x"))
    tiff = PredictionInput(Path("in/x.tif"), Path("x"))
    film = PredictionInput(Path("in/x.mp4"), Path("f"), is_video=True)
    writer = PredictionWriter(tmp_path, [jpeg, tiff, film])
    for item in (jpeg, tiff):
        write_all(writer, item)
    writer.write_mask(film, np.zeros((4, 5), np.uint8), frame=12)
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    both = {f"{name}_{end}" for name in ("x", "sub/x") for end in ("mask.png", "cam_a_b_c.png")}
    assert files == both | {"x_overlay.png", "sub/x_overlay.jpg", "f_mask/000012.png"}
    with Image.open(tmp_path / "x_mask.png") as mask:
        assert mask.mode == "P" and (np.array(mask) == 2).all()
        assert mask.convert("RGB").getpixel((0, 0)) == (0, 128, 0)
    with Image.open(tmp_path / "sub" / "x_overlay.jpg") as overlay:
        assert overlay.format == "JPEG"


@pytest.mark.parametrize(
    "name", ["x_overlay.jpg", "x_mask.png", "x_cam_dog.png", "walk_overlay.mp4", "walk_mask/0.png"]
)
def test_inputs_are_never_overwritten(tree, name):
    for path in ("a/walk.mp4", f"a/{name}"):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).touch()
    inputs = find_inputs(["a/x.jpg", "a/walk.mp4", f"a/{name}"], Path("a"))
    PredictionWriter(Path("elsewhere"), inputs).check(["dog"])
    Path("link").symlink_to("a")
    for output in ("a", "link"):
        with pytest.raises(UsageError, match="choose another output folder"):
            PredictionWriter(Path(output), inputs).check(["dog"])


def test_no_mask_among_inputs(tree):
    Path("out/a/walk_mask").mkdir(parents=True)
    Path("out/a/walk_mask/0.png").touch()
    inputs = find_inputs(["a/walk.mp4", "out/a/walk_mask/0.png"], Path("out"))
    with pytest.raises(UsageError, match="walk_mask, a result of .*walk.mp4, is .* the folder"):
        PredictionWriter(Path("out"), inputs).check([])


def test_results_beside_their_inputs(tree):
    PredictionWriter(Path("a"), find_inputs(["a"], Path("a"))).check(["dog"])
