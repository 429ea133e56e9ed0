# SPDX-License-Identifier: Apache-2.0
"""A folder like VOC's with generated images, for what only takes time or has no real ones."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.inputs import synthetic_images

_CLASSES = ("cat", "cow", "dog")


def write_voc(root: Path, train: int, val: int) -> None:
    """Write ``root/VOC2012``: JPEGs of 500 x 375 with tags and, for the val split, masks."""
    folder = root / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    names = [f"{number:06d}" for number in range(train + val)]
    for number, name in enumerate(names):
        pixels = synthetic_images(1, 375, 500, seed=number)[0].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{name}.jpg", quality=90)
        if number >= train:
            # Bright places show the class, VOC's number of a cat.
            mask = np.where(pixels.mean(axis=2) > 128, 8, 0).astype(np.uint8)
            Image.fromarray(mask).save(folder / "SegmentationClass" / f"{name}.png")
    lists = folder / "ImageSets" / "Segmentation"
    (lists / "train_aug.txt").write_text("\n".join(names[:train]) + "\n")
    (lists / "val.txt").write_text("\n".join(names[train:]) + "\n")
    tags = {name: [_CLASSES[i % 3]] if i < train else ["cat"] for i, name in enumerate(names)}
    (folder / "image_tags.json").write_text(json.dumps(tags))
