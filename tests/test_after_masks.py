# SPDX-License-Identifier: Apache-2.0
"""The Python of docs/after_masks.md trains a network on label maps."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import code_blocks
from PIL import Image

from dalnet.data.image_io import write_mask

PAGE = Path(__file__).parents[1] / "docs" / "after_masks.md"


def test_gray_masks_have_the_indices_for_opencv(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mask = np.array([[0, 1, 2], [20, 255, 0]], np.uint8)
    write_mask(Path("labeled/masks/sub/a.png"), mask)
    exec(code_blocks(PAGE, "python")[0], {})
    found = cv2.imread("labeled/gray_masks/sub/a.png", cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(found, mask)
    assert cv2.imread("labeled/masks/sub/a.png", cv2.IMREAD_GRAYSCALE)[0, 1] == 38  # as it says


@pytest.mark.extra
def test_plain_network_learns_from_the_masks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("images/sub", "masks/sub"):
        (tmp_path / "labeled" / name).mkdir(parents=True)
    for number in range(4):
        mask = np.zeros((40, 48), np.uint8)
        mask[:, : 10 + 5 * number] = 1
        pixels = np.repeat(200 * mask[..., None], 3, axis=2)
        name = Path("sub" if number else "", f"{number}")
        exif, image = Image.Exif(), Image.fromarray(pixels)
        if number == 3:  # stored on its side
            exif[0x0112], image = 6, image.transpose(Image.Transpose.ROTATE_90)
        image.save(tmp_path / "labeled/images" / name.with_suffix(".jpg"), exif=exif)
        Image.fromarray(mask).save(tmp_path / "labeled/masks" / name.with_suffix(".png"))
    meta = {"label_map": {"0": "background", "1": "cat"}}
    (tmp_path / "labeled/dataset_meta.json").write_text(json.dumps(meta))
    _, code = code_blocks(PAGE, "python")
    for old, new in (("256, 8, 1000", "64, 4, 41"), ('"imagenet"  #', "None  #")):
        assert old in code
        code = code.replace(old, new)
    scope = {}
    exec(code, scope)
    pixels, labels = scope["load"](*scope["pairs"][-1])
    assert ((pixels[0] > 0).long() == labels).float().mean() > 0.9
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert losses[-1] < losses[0] / 2
    assert (tmp_path / "unet.pth").exists()
