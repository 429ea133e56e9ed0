# SPDX-License-Identifier: Apache-2.0
"""Masks whose colors stand for classes, as CVAT exports them, as masks of class indices."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dalnet.data.image_files import find_images
from dalnet.data.image_io import read_color_mask
from dalnet.documents import write_json
from dalnet.errors import UsageError
from dalnet.io import read_lines

from .masks import MaskSource, MaskSummary, write_masks

_INTENSITIES = {*map(str, range(256))}


def convert_color_masks(
    source: Path, label_map: Path, target: Path, classes: Sequence[str], workers: int | None = None
) -> MaskSummary:
    """Write a mask of class indices for each mask of colors in a folder.

    ``dataset_meta.json`` among them says which class each index is.

    Args:
        source: the folder of the masks.
        label_map: what the colors mean, see :func:`read_label_map`.
        target: the folder of the new masks.
        classes: the C classes, which become 1..C; the background becomes 0.
        workers: number of processes; all cores where not given.

    Raises:
        UsageError: a class without a color or a color without a class, two masks that differ in
            their suffix alone, or masks that cannot be read or written.
    """
    if target.resolve().is_relative_to(source.resolve()):
        what = "the new masks would lie among those of colors"
        raise UsageError(what, target, "name a folder beside theirs")
    colors = read_label_map(label_map)
    labels = {name: label for label, name in enumerate(classes, start=1)} | {"background": 0}
    if missing := [name for name in labels if name not in colors.values()]:
        raise UsageError(f"it has no color for {missing[0]!r}", label_map, "add a line for it")
    known = {color: labels[name] for color, name in colors.items() if name in labels}
    files: dict[Path, Path] = {}
    for name in find_images(source):
        new = (target / name).with_suffix(".png")
        if new in files:
            what = f"{files[new].name} and {name} would be one mask"
            raise UsageError(what, source, "keep one of them")
        files[new] = source / name
    # Drawn in any case: a mask does not tell by which label map and classes it was drawn before.
    sources = {new: MaskSource(file, math.inf) for new, file in files.items()}
    if not sources:
        raise UsageError("there is no image in it", source, "name the folder of the color masks")
    summary = write_masks(sources, partial(color_mask_to_labels, known), workers)
    names = {str(label): name for name, label in labels.items()}
    write_json(target / "dataset_meta.json", {"label_map": names})
    return summary


def read_label_map(path: Path) -> dict[tuple[int, int, int], str]:
    """Read which class each color stands for.

    Args:
        path: CVAT's ``labelmap.txt``: ``name:r,g,b:parts:actions`` a line, comments after ``#``.

    Raises:
        UsageError: unreadable, another line, or a color that occurs twice.
    """
    hint = "write one class a line as name:r,g,b"
    colors: dict[tuple[int, int, int], str] = {}
    for line in read_lines(path, hint):
        if line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        values = rest.partition(":")[0].split(",")
        if len(values) != 3 or not all(v.strip() in _INTENSITIES for v in values):
            raise UsageError(f"the line {line!r} has no color", path, hint)
        red, green, blue = (int(value.strip()) for value in values)
        if colors.setdefault((red, green, blue), name.strip()) != name.strip():
            raise UsageError(f"the color of {name!r} is taken", path, "give each its own")
    return colors


def color_mask_to_labels(labels: Mapping[tuple[int, int, int], int], path: Path) -> np.ndarray:
    """Read a mask of colors as class indices, uint8 [H, W].

    Args:
        labels: the index of each color.
        path: of the mask.

    Raises:
        UsageError: the mask cannot be read, or has a color of no class.
    """
    pixels = read_color_mask(str(path))
    found, places = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    for color in map(tuple, found.tolist()):
        if color not in labels:
            hint = "name its class in the label map and in the list of classes"
            raise UsageError(f"the color {color} means no class", path, hint)
    values = np.array([labels[tuple(color)] for color in found.tolist()], dtype=np.uint8)
    return values[places].reshape(pixels.shape[:2])
