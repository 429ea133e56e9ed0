# SPDX-License-Identifier: Apache-2.0
"""Objects of the toy world that no caption describes: ``toy_compositions_val``.

Three colors of two shapes, so that neither word of "red star" tells a class from all others, in any
texture. The captions of :mod:`.toy` show none of these six and never say "star" or "square".
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dalnet.data.datasets import register_voc_layout
from dalnet.data.datasets.catalog import datasets_root
from dalnet.data.datasets.toy import SIZE
from dalnet.data.datasets.toy.background import GROUNDS, draw_background
from dalnet.data.datasets.toy.drawing import TEXTURES, Appearance, add_grain
from dalnet.data.datasets.toy.scenes import place_object
from dalnet.data.image_io import write_mask
from dalnet.data.labels import TAGS_FILE

from .toy import build_folder

COLORS, SHAPES = ("red", "green", "yellow"), ("star", "square")
COMPOSITIONS = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)
NUM_IMAGES = 100

_SEED = 20240915 + 1  # the toy data set has another


def register_toy_compositions() -> None:
    """Register the images, which are generated where they are first named."""
    register_voc_layout("toy_compositions_val", _generated_root, COMPOSITIONS, split="val")


def _generated_root() -> Path:
    root = datasets_root() / "toy_compositions"
    ensure_toy_compositions(root)
    return root


def ensure_toy_compositions(root: Path, count: int = NUM_IMAGES) -> None:
    """Generate the images in ``root``, in the layout of PASCAL VOC, unless they are there.

    Raises:
        UsageError: the folder cannot be written.
    """
    build_folder(root, TAGS_FILE, lambda folder: _generate(folder, count))


def _generate(root: Path, count: int) -> None:
    images, masks, lists = (
        root / name for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
    )
    for folder in (images, masks, lists):
        folder.mkdir(parents=True)
    tags = {}
    for number in tqdm(range(count), desc="generating toy compositions", unit="image"):
        image, mask = draw_compositions(np.random.default_rng((_SEED, number)))
        name = f"{number:04d}"
        Image.fromarray(image).save(images / f"{name}.png")
        write_mask(masks / f"{name}.png", mask)
        tags[name] = [COMPOSITIONS[value - 1] for value in np.unique(mask) if value]
    (lists / "val.txt").write_text("\n".join(tags) + "\n", encoding="utf-8")
    # Last: the file says that the others are there.
    (root / TAGS_FILE).write_text(json.dumps(tags), encoding="utf-8")


def draw_compositions(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return an image of one to three objects, uint8 [96, 96, 3] RGB, and its mask [96, 96].

    The mask is uint8, 0 for the ground and c + 1 for ``COMPOSITIONS[c]``.
    """
    image = draw_background(rng, str(rng.choice(list(GROUNDS))), SIZE)
    owners = np.zeros((SIZE, SIZE), dtype=np.int64)  # 0, or the number of the object on top
    values, areas = [0], [0]  # of the ground and each object
    for _ in range(rng.choice([1, 2, 3], p=[0.35, 0.4, 0.25])):
        index = int(rng.integers(len(COMPOSITIONS)))
        color, shape = COMPOSITIONS[index].split()
        look = Appearance(shape, str(rng.choice(list(TEXTURES))), color)
        areas.append(place_object(rng, image, owners, areas, look))
        values.append(index + 1)
    return add_grain(rng, image), np.asarray(values, dtype=np.uint8)[owners]
