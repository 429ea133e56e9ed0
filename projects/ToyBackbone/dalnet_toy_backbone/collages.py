# SPDX-License-Identifier: Apache-2.0
"""Collages of labeled tiles, from which the encoder of the toy data set is pre-trained.

A tile shows one object, or none, on a cluttered ground; its labels are the object's shape, texture
and palette. Four tiles make a collage, as in CutMix and mosaic augmentation. There are no masks and
no boxes. No tile shows a class of the toy data set: an object that shares two or more of the three
attributes with a class is never drawn, and grounds are drawn independently.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from dalnet.data.datasets.toy import SIZE, TOY_LOOKS
from dalnet.data.datasets.toy.background import GROUNDS, draw_background
from dalnet.data.datasets.toy.drawing import (
    PALETTES,
    SHAPES,
    TEXTURES,
    Appearance,
    add_grain,
    draw_object,
)

PATCH = 8  # pixels; tiles meet where patches do
GRID = SIZE // PATCH
TILES = 4  # of a collage

# The fields of an Appearance; a label is 0 for no object, else 1 + the index of the value.
ATTRIBUTES = {"shape": tuple(SHAPES), "texture": tuple(TEXTURES), "palette": tuple(PALETTES)}
NUM_LABELS = {name: 1 + len(values) for name, values in ATTRIBUTES.items()}

_EMPTY = 0.2  # fraction of the tiles without an object

# Streams of random numbers: the training's collages, the choice among them, collages with unseen
# tiles, and collages with the data set's classes.
_COLLAGES, _CHOICES, _UNSEEN, _CLASSES = range(4)

Batch = dict[str, torch.Tensor]


class Collage(NamedTuple):
    """Four tiles side by side."""

    image: np.ndarray  # uint8 [96, 96, 3], RGB
    tile_map: np.ndarray  # number 0..3 of the tile that each patch belongs to, int64 [12, 12]
    labels: np.ndarray  # of each tile, in the order of ATTRIBUTES, int64 [4, 3]


def training_looks() -> list[Appearance]:
    """Return all looks that share at most one attribute with every class of the toy data set."""
    looks = itertools.starmap(Appearance, itertools.product(*ATTRIBUTES.values()))
    return [look for look in looks if all(_num_shared(look, own) <= 1 for own in TOY_LOOKS)]


def _num_shared(a: Appearance, b: Appearance) -> int:
    return sum(getattr(a, name) == getattr(b, name) for name in ATTRIBUTES)


def draw_tile(
    rng: np.random.Generator, height: int, width: int, looks: Sequence[Appearance]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Draw an object or none: float64 RGB [height, width, 3], and its labels."""
    image = draw_background(rng, str(rng.choice(list(GROUNDS))), max(height, width))
    labels = (0,) * len(ATTRIBUTES)
    if rng.random() >= _EMPTY:
        look = looks[int(rng.integers(len(looks)))]
        radius = rng.uniform(13, min(22, 0.55 * min(height, width)) + 1)
        sides = np.array((height, width))
        center = tuple(sides / 2 + rng.uniform(-1, 1, 2) * np.maximum(sides / 2 - 0.8 * radius, 0))
        draw_object(rng, image, look, center, radius)
        labels = tuple(1 + v.index(getattr(look, name)) for name, v in ATTRIBUTES.items())
    return image[:height, :width], labels


def draw_collage(rng: np.random.Generator, looks: Sequence[Appearance]) -> Collage:
    """Draw four tiles of random sizes, the sides of which are multiples of the patch."""
    cut_y, cut_x = rng.integers(GRID // 3, GRID - GRID // 3 + 1, 2)
    rows = (slice(0, cut_y), slice(cut_y, GRID))
    columns = (slice(0, cut_x), slice(cut_x, GRID))
    image = np.zeros((SIZE, SIZE, 3))
    tile_map = np.zeros((GRID, GRID), dtype=np.int64)
    labels = []
    for number, (r, c) in enumerate(itertools.product(rows, columns)):
        height, width = (PATCH * (s.stop - s.start) for s in (r, c))
        tile, label = draw_tile(rng, height, width, looks)
        image[PATCH * r.start : PATCH * r.stop, PATCH * c.start : PATCH * c.stop] = tile
        tile_map[r, c] = number
        labels.append(label)
    return Collage(add_grain(rng, image), tile_map, np.array(labels))


def training_batches(
    seed: int, batch_size: int, memory: int, initial: int, fresh: int, start: int = 0
) -> Iterator[Batch]:
    """Yield batches without end, each chosen from the ``memory`` latest collages of a series.

    For batch i, ``initial + fresh * i`` collages of the series are drawn. Each comes from its own
    number and each choice from the batch's, so that any batch can be the first: ``start``.

    Yields:
        ``images`` uint8 [B, 3, 96, 96], ``tile_map`` int64 [B, 12, 12] and ``labels`` int64
        [B, 4, 3], see :class:`Collage`; B is ``batch_size``.
    """
    looks = training_looks()
    latest: dict[int, Collage] = {}  # collage i is at i % memory
    drawn = 0
    for number in itertools.count(start):
        count = initial + fresh * number
        # After a resume only the collages that would still be in memory are drawn again.
        for i in range(max(drawn, count - memory), count):
            latest[i % memory] = draw_collage(np.random.default_rng((seed, _COLLAGES, i)), looks)
        drawn = count
        rng = np.random.default_rng((seed, _CHOICES, number))
        chosen = rng.integers(0, min(drawn, memory), batch_size).tolist()
        flipped = tuple(axis for axis in (1, 2) if rng.random() < 0.5)
        yield _to_batch((latest[i] for i in chosen), flipped)


def unseen_batches(
    seed: int, batch_size: int, count: int, classes: bool = False
) -> Iterator[Batch]:
    """Yield ``count`` batches as of :func:`training_batches`, none of which it ever yields.

    With ``classes`` they show the data set's classes, else looks as in training.
    """
    looks = TOY_LOOKS if classes else training_looks()
    rng = np.random.default_rng((seed, _CLASSES if classes else _UNSEEN))
    for _ in range(count):
        yield _to_batch([draw_collage(rng, looks) for _ in range(batch_size)])


def _to_batch(collages: Iterable[Collage], flipped: tuple[int, ...] = ()) -> Batch:
    """Stack collages, all flipped along the same axes of [B, H, W]."""
    images, tile_maps, labels = (np.stack(field) for field in zip(*collages, strict=True))
    arrays = {
        "images": np.flip(images, flipped).transpose(0, 3, 1, 2),
        "tile_map": np.flip(tile_maps, flipped),
        "labels": labels,
    }
    return {key: torch.from_numpy(np.ascontiguousarray(a)) for key, a in arrays.items()}
