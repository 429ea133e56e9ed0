# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/tutorial.md, one after another, on generated images and a tiny network."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY, code_blocks
from PIL import Image

from dalnet.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
# What takes the place of downloads and of the time that a real network needs.
MORE = {"check": ["--no-estimate"], "train": ["--no-alignment", *TINY]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pets/garden", "holiday"):
        (tmp_path / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = ["file,tags"]
    for number in range(8):
        pixels = rng.integers(0, 60, (40, 48, 3), np.uint8)
        pixels[5:30, 5:30, number % 2] = 250
        path = Path("garden" if number < 3 else "", f"img_{number}.png")
        Image.fromarray(pixels).save(tmp_path / "pets" / path)
        lines.append(f"{path},{('cat', 'dog')[number % 2]}")
    Image.fromarray(pixels).save(tmp_path / "holiday/dog.jpg")
    (tmp_path / "pets.csv").write_text("\n".join(lines))
    return tmp_path


def test_commands_lead_from_tags_to_masks_and_a_model(folder):
    for block in code_blocks(PAGE, "bash"):
        words = shlex.split(block)
        assert words[0] == "dalnet"
        main([*words[1:], *MORE.get(words[1], [])])
        if words[1] == "label":
            # What a person does then.
            (folder / "corrected").mkdir()
            shutil.copy(folder / "labeled/masks/img_5.png", folder / "corrected")
    assert (folder / "check.html").exists() and (folder / "output/pets/report.html").exists()
    masks = {path.relative_to(folder / "labeled/masks") for path in folder.rglob("masks/**/*.png")}
    assert len(masks) == 8 and Path("garden/img_0.png") in masks
    for name in (
        "uncertain.csv",
        "annotations/instances_default.json",
        "label_studio.json",
        "overlays/img_5.jpg",
    ):
        assert (folder / "labeled" / name).exists()
    assert (folder / "output/pets2/model_final.pth").exists()
    assert (folder / "predicted/dog_mask.png").exists()
    assert (folder / "exported/model.safetensors").exists()
