# SPDX-License-Identifier: Apache-2.0
"""Masks in color, as CVAT exports them, become masks of class indices."""

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from dalnet.cli import main
from dalnet.data.image_io import read_mask
from dalnet.data.prepare.color_masks import convert_color_masks, read_label_map
from dalnet.labeling.mask_values import read_mask_values

LABEL_MAP = """# label:color_rgb:parts:actions
background:0,0,0::
owl:0,128,0::
fox:250, 50,83::
garden chair:1,2,3:seat,leg:
"""
COLORS = np.uint8([[0, 0, 0], [250, 50, 83], [0, 128, 0], [1, 2, 3]])


@pytest.fixture
def export(tmp_path):
    """CVAT's masks ``a`` (RGB) and ``sub/b`` (a palette of its own) of the labels 0 to 3."""
    (tmp_path / "masks" / "sub").mkdir(parents=True)
    (tmp_path / "labelmap.txt").write_text(LABEL_MAP)
    labels = np.random.default_rng(0).integers(0, 4, (5, 7))
    Image.fromarray(COLORS[labels]).save(tmp_path / "masks" / "a.png")
    palette = Image.fromarray(np.uint8(3 - labels))
    palette.putpalette(COLORS[::-1].tobytes())
    palette.save(tmp_path / "masks" / "sub" / "b.png")
    return tmp_path, labels


CLASSES = ["fox", "owl", "garden chair"]


def test_colors_become_the_indices_of_their_classes(export):
    root, labels = export
    arguments = (root / "masks", root / "labelmap.txt", root / "new")
    assert convert_color_masks(*arguments, CLASSES, workers=1).written == 2
    for name in ("a.png", "sub/b.png"):
        np.testing.assert_array_equal(read_mask(str(root / "new" / name), None, 4), labels)
    summary = convert_color_masks(*arguments, CLASSES, workers=1)
    assert (summary.written, summary.kept) == (2, 0)
    assert convert_color_masks(*arguments, CLASSES[::-1], workers=1).checksum != summary.checksum
    swapped = np.array([0, 3, 2, 1], np.uint8)[labels]
    np.testing.assert_array_equal(read_mask(str(root / "new/a.png"), None, 4), swapped)


def test_converted_masks_say_what_their_indices_mean(export):
    root, _ = export
    convert_color_masks(root / "masks", root / "labelmap.txt", root / "new", CLASSES, workers=1)
    values = read_mask_values(root / "new", ["garden chair", "fox", "owl"])
    assert values == {0: 0, 1: 2, 2: 3, 3: 1, 255: 255}


def test_masks_of_one_name_in_two_folders_are_both_counted(export):
    root, labels = export
    Image.fromarray(COLORS[3 - labels]).save(root / "masks/sub/a.png")
    arguments = (root / "masks", root / "labelmap.txt", root / "new", CLASSES)
    first = convert_color_masks(*arguments, workers=1)
    assert (first.written, first.kept) == (3, 0)
    Image.fromarray(COLORS[labels]).save(root / "masks/sub/a.png")
    assert convert_color_masks(*arguments, workers=1).checksum != first.checksum


def test_the_masks_of_colors_are_not_written_over(export):
    root, _ = export
    for target in (root / "masks", root / "masks/new"):
        with refused(target):
            convert_color_masks(root / "masks", root / "labelmap.txt", target, CLASSES)


def test_masks_that_would_be_one_are_refused(export):
    root, _ = export
    Image.open(root / "masks/a.png").save(root / "masks/a.bmp")
    with refused(root / "masks", "a.bmp", "a.png"):
        convert_color_masks(root / "masks", root / "labelmap.txt", root / "new", CLASSES, workers=1)


def test_command(export, capsys):
    root, labels = export
    (root / "classes.txt").write_text("\n".join(CLASSES))
    names = {
        "input": "masks",
        "label-map": "labelmap.txt",
        "output": "new",
        "classes": "classes.txt",
    }
    flags = [word for key, name in names.items() for word in (f"--{key}", str(root / name))]
    main(["prepare", "masks", *flags, "--workers", "1"])
    assert "2 masks" in capsys.readouterr().out
    np.testing.assert_array_equal(read_mask(str(root / "new" / "a.png")), labels)


def test_colors_and_classes_without_each_other_are_refused(export):
    root, _ = export
    arguments = (root / "masks", root / "labelmap.txt", root / "new")
    with refused(root / "labelmap.txt", "wolf"):
        convert_color_masks(*arguments, ["fox", "wolf"])
    with refused(root / "masks", "means no class"):
        convert_color_masks(*arguments, ["fox", "owl"], workers=1)
    (root / "empty").mkdir()
    with refused(root / "empty"):
        convert_color_masks(root / "empty", *arguments[1:], CLASSES)


@pytest.mark.parametrize(
    "line", ["cat", "cat:1,2", "cat:1,2,256", "cat:a,b,c", "cat:0,128,0", "1 2 3"]
)
def test_lines_without_a_color_of_their_own_are_refused(tmp_path, line):
    (tmp_path / "labelmap.txt").write_text(LABEL_MAP + line)
    with refused(tmp_path / "labelmap.txt", "cat" if "cat" in line else line):
        read_label_map(tmp_path / "labelmap.txt")
