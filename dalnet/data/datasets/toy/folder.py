# SPDX-License-Identifier: Apache-2.0
"""The toy data set's folder, generated where it is first asked for: ``toy_{train,val}``."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dalnet.data.datasets.catalog import datasets_root
from dalnet.data.datasets.voc_layout import register_voc_layout
from dalnet.data.image_io import write_mask
from dalnet.data.labels import TAGS_FILE
from dalnet.errors import UsageError
from dalnet.io import reading_errors

from .scenes import TOY_CLASSES, describe_classes, draw_scene

# Raised whenever an image changes: a folder of another version is generated anew.
VERSION = 2
SEED = 20240915
SPLITS = {"train": 600, "val": 100}

_MANIFEST = "dataset.json"


def register_toy() -> None:
    """Register both splits of the generated data set."""
    for split in SPLITS:
        register_voc_layout(f"toy_{split}", _generated_root, TOY_CLASSES, split=split)


def _generated_root() -> Path:
    root = datasets_root() / "toy"
    ensure_toy_dataset(root)
    return root


def ensure_toy_dataset(root: Path) -> None:
    """Generate the data set in ``root`` unless this version of it is already there.

    It is built in a folder beside ``root`` and then renamed, so that ``root`` is never half
    written. The folder of another version is replaced.

    Args:
        root: folder to hold ``JPEGImages``, ``SegmentationClass``, ``ImageSets`` and
            ``image_tags.json`` (names as in PASCAL VOC).

    Raises:
        UsageError: ``root`` holds something else, or cannot be read or written.
    """
    if _found_version(root) == VERSION:
        return
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{root.name}-", dir=root.parent, ignore_cleanup_errors=True
        ) as temporary:
            new = Path(temporary) / "new"
            _generate(new)
            if root.exists():
                os.replace(root, Path(temporary) / "old")
            os.replace(new, root)
    except OSError as e:
        # Another process (one per GPU) may have been quicker; its images are the same.
        if root.exists() and _found_version(root) == VERSION:
            return
        raise UsageError(
            f"the toy data set cannot be written there ({e.strerror})",
            where=root,
            hint="make the folder writable, or set DETECTRON2_DATASETS to another one",
        ) from e


@reading_errors()
def _found_version(root: Path) -> int | None:
    """Return the version of the data set in ``root``, or None where there is nothing yet."""
    try:
        manifest = json.loads((root / _MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        manifest = None
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    # A folder that was not generated here is somebody's own, and is not replaced.
    if not isinstance(manifest, dict) or manifest.keys() != _manifest().keys():
        raise UsageError(
            "it is to hold the generated toy data set but holds other files",
            where=root,
            hint="move them away or set DETECTRON2_DATASETS to another folder",
        )
    return manifest["version"]


def _manifest() -> dict[str, object]:
    return {"version": VERSION, "seed": SEED, "images": SPLITS, "classes": describe_classes()}


def _generate(root: Path) -> None:
    """Write both splits and, last, the manifest."""
    images, masks = root / "JPEGImages", root / "SegmentationClass"
    lists = root / "ImageSets" / "Segmentation"
    for folder in (images, masks, lists):
        folder.mkdir(parents=True)
    tags: dict[str, list[str]] = {}
    with tqdm(total=sum(SPLITS.values()), desc="generating the toy data set", unit="image") as bar:
        for stream, (split, count) in enumerate(SPLITS.items()):
            ids = [f"{split}_{number:04d}" for number in range(count)]
            for number, image_id in enumerate(ids):
                image, mask = draw_scene(np.random.default_rng((SEED, stream, number)))
                Image.fromarray(image).save(images / f"{image_id}.png")
                write_mask(masks / f"{image_id}.png", mask)
                tags[image_id] = [TOY_CLASSES[c - 1] for c in np.unique(mask) if c]
                bar.update()
            (lists / f"{split}.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    (root / TAGS_FILE).write_text(json.dumps(tags, indent=0), encoding="utf-8")
    (root / _MANIFEST).write_text(json.dumps(_manifest(), indent=2), encoding="utf-8")
