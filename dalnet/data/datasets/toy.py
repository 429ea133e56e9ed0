# SPDX-License-Identifier: Apache-2.0
"""The toy data set: a small generated world in the layout of PASCAL VOC.

Each class is one shape in one texture and one palette; several classes share a texture or a
palette. Each class has a home ground, on which four out of five of its objects stand.
"""

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dalnet.data.datasets.toy_background import GROUNDS, draw_background
from dalnet.data.datasets.toy_drawing import Appearance, add_grain, draw_object
from dalnet.data.images import write_mask
from dalnet.data.labels import TAGS_FILE
from dalnet.errors import UsageError
from dalnet.files import reading_errors

# Raised whenever a picture changes: a folder of another version is generated anew.
VERSION = 2
SEED = 20240915
SIZE = 96
SPLITS = {"train": 600, "val": 100}

_MANIFEST = "dataset.json"
_AT_HOME = 0.8  # share of the objects that stand on their home ground
_RADII = (15.0, 22.0)  # pixels
_MIN_VISIBLE = 0.6  # share of an object that later ones must leave uncovered
_ATTEMPTS = 30  # per object, before it is left out


@dataclass(frozen=True)
class ToyClass:
    """A class of the toy world: what it looks like and the ground that it is mostly seen on."""

    look: Appearance
    home: str


_WORLD: dict[str, ToyClass] = {
    "goldfish": ToyClass(Appearance("fish", "scales", "orange"), "pond"),
    "water lily": ToyClass(Appearance("blossom", "rings", "pink"), "pond"),
    "ladybird": ToyClass(Appearance("disc", "dots", "red"), "meadow"),
    "leaf": ToyClass(Appearance("leaf", "stripes", "green"), "meadow"),
    "starfish": ToyClass(Appearance("star", "speckle", "orange"), "beach"),
    "seashell": ToyClass(Appearance("fan", "rays", "pink"), "beach"),
    "wheel": ToyClass(Appearance("ring", "rays", "red"), "street"),
    "crate": ToyClass(Appearance("square", "bricks", "brown"), "street"),
    "moon": ToyClass(Appearance("crescent", "speckle", "yellow"), "night sky"),
    "rocket": ToyClass(Appearance("rocket", "checks", "violet"), "night sky"),
}

TOY_CLASSES: tuple[str, ...] = tuple(_WORLD)
TOY_LOOKS: tuple[Appearance, ...] = tuple(c.look for c in _WORLD.values())


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture of the toy world.

    Args:
        rng: source of everything random in it.

    Returns:
        The picture, uint8 [96, 96, 3] RGB, and its mask, uint8 [96, 96]: 0 background, class c
        of :data:`TOY_CLASSES` as c + 1. It shows one to three objects.
    """
    ground = str(rng.choice(list(GROUNDS)))
    image = draw_background(rng, ground, SIZE)
    owners = np.zeros((SIZE, SIZE), dtype=np.int64)  # 0, or the number of the object on top
    classes = [0]
    areas = [0]
    for _ in range(rng.choice([1, 2, 3], p=[0.35, 0.4, 0.25])):
        index = _draw_class(rng, ground)
        areas.append(_place(rng, image, owners, areas, TOY_LOOKS[index]))
        classes.append(index + 1)
    mask = np.asarray(classes, dtype=np.uint8)[owners]
    return add_grain(rng, image), mask


def _draw_class(rng: np.random.Generator, ground: str) -> int:
    """Draw a class that is at home on the ground, or now and then a stranger."""
    at_home = rng.random() < _AT_HOME
    candidates = [i for i, c in enumerate(_WORLD.values()) if (c.home == ground) == at_home]
    return int(rng.choice(candidates))


def _place(
    rng: np.random.Generator,
    image: np.ndarray,
    owners: np.ndarray,
    areas: list[int],
    look: Appearance,
) -> int:
    """Draw an object where it leaves the earlier ones mostly visible; return its area or 0."""
    for _ in range(_ATTEMPTS):
        radius = rng.uniform(*_RADII)
        centre = tuple(rng.uniform(0.8 * radius, SIZE - 0.8 * radius, 2))
        trial = image.copy()
        mask = draw_object(rng, trial, look, centre, radius)
        left = np.bincount(owners[~mask], minlength=len(areas))
        if all(left[i] >= _MIN_VISIBLE * areas[i] for i in range(1, len(areas))):
            image[:] = trial
            owners[mask] = len(areas)
            return int(mask.sum())
    return 0


def ensure_toy_dataset(root: str) -> None:
    """Generate the data set under ``root`` unless this version of it is already there.

    It is built in a folder beside ``root`` and then renamed, so that ``root`` is never half
    written. The folder of another version is replaced.

    Args:
        root: folder to hold ``JPEGImages``, ``SegmentationClass``, ``ImageSets`` and
            ``image_tags.json`` (names as in PASCAL VOC).

    Raises:
        UsageError: ``root`` holds something else, or cannot be read or written.
    """
    target = Path(root)
    if _found_version(target) == VERSION:
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        build = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            _generate(build)
            _swap(build, target)
        finally:
            shutil.rmtree(build, ignore_errors=True)
    except OSError as e:
        raise UsageError(
            f"the toy data set cannot be written to {target} ({e.strerror}): make the folder "
            "writable or set DETECTRON2_DATASETS to another one."
        ) from e


@reading_errors()
def _found_version(target: Path) -> int | None:
    """The version of the data set at ``target``; ``None`` where there is nothing yet."""
    try:
        manifest = json.loads((target / _MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        manifest = None
        if not target.exists() or (target.is_dir() and not any(target.iterdir())):
            return None
    except ValueError:
        manifest = None
    # A folder that was not generated here is somebody's own, and is not replaced.
    if not isinstance(manifest, dict) or manifest.keys() != _manifest().keys():
        raise UsageError(
            f"{target} is to hold the generated toy data set but holds other files: move them "
            "away or set DETECTRON2_DATASETS to another folder."
        )
    return manifest["version"]


def _manifest() -> dict[str, object]:
    return {"version": VERSION, "seed": SEED, "images": SPLITS, "classes": describe_classes()}


def _generate(folder: Path) -> None:
    """Write both splits and, last, the manifest."""
    folders = [folder / name for name in ("JPEGImages", "SegmentationClass")]
    lists = folder / "ImageSets" / "Segmentation"
    for new in (*folders, lists):
        new.mkdir(parents=True)
    tags: dict[str, list[str]] = {}
    bar = tqdm(total=sum(SPLITS.values()), desc="generating the toy data set", unit="image")
    with bar:
        for stream, (split, count) in enumerate(SPLITS.items()):
            ids = [f"{split}_{i:04d}" for i in range(count)]
            for number, image_id in enumerate(ids):
                image, mask = draw_scene(np.random.default_rng((SEED, stream, number)))
                Image.fromarray(image).save(folders[0] / f"{image_id}.png")
                write_mask(folders[1] / f"{image_id}.png", mask)
                tags[image_id] = [TOY_CLASSES[c - 1] for c in np.unique(mask) if c]
                bar.update()
            (lists / f"{split}.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    (folder / TAGS_FILE).write_text(json.dumps(tags, indent=0), encoding="utf-8")
    (folder / _MANIFEST).write_text(json.dumps(_manifest(), indent=2), encoding="utf-8")


def describe_classes() -> dict[str, dict[str, str]]:
    """Return for each class its shape, texture, palette and home ground."""
    return {name: {**asdict(c.look), "home": c.home} for name, c in _WORLD.items()}


def _swap(build: Path, target: Path) -> None:
    build.chmod(0o755)  # mkdtemp's folders are private
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
        os.replace(target, old)
        shutil.rmtree(old, ignore_errors=True)
    try:
        os.replace(build, target)
    except OSError:
        # Another process (one per GPU) was quicker; its pictures are the same.
        if _found_version(target) != VERSION:
            raise
