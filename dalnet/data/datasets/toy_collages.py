# SPDX-License-Identifier: Apache-2.0
"""Collages of labelled pictures, from which the encoder of the toy data set is pre-trained.

A picture shows one object, or none, on a cluttered ground; its labels are the object's shape,
texture and palette. Four pictures make a collage, as CutMix and mosaic augmentation do. There are
no masks and no boxes. No picture shows a class of the toy data set: an object that shares two
or more of the three attributes with a class is never drawn, and grounds are drawn independently.
"""

import itertools
from collections.abc import Iterator, Sequence

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

PATCH = 8  # pixels; pictures meet where patches do
GRID = SIZE // PATCH
PICTURES = 4  # of a collage

# The fields of an Appearance; a label is 0 for no object, else 1 + the place of the value.
ATTRIBUTES = {"shape": tuple(SHAPES), "texture": tuple(TEXTURES), "palette": tuple(PALETTES)}
NUM_LABELS = {name: 1 + len(values) for name, values in ATTRIBUTES.items()}

# Streams of random numbers: of the training's collages and of the choice among them, and of
# collages with new pictures and with the data set's classes.
_COLLAGES, _CHOICES, _HELD_OUT, _CLASSES = range(4)

_EMPTY = 0.2  # share of the pictures without an object

Batch = dict[str, torch.Tensor]


def foreign_looks() -> list[Appearance]:
    """All looks that share at most one attribute with every class of the toy data set."""

    def shared(a: Appearance, b: Appearance) -> int:
        return sum(getattr(a, name) == getattr(b, name) for name in ATTRIBUTES)

    looks = (Appearance(*values) for values in itertools.product(*ATTRIBUTES.values()))
    return [look for look in looks if all(shared(look, own) <= 1 for own in TOY_LOOKS)]


def draw_picture(
    rng: np.random.Generator,
    height: int,
    width: int,
    looks: Sequence[Appearance],
) -> tuple[np.ndarray, tuple[int, ...]]:
    """One object or none: float64 [height, width, 3] RGB, and the labels of :data:`ATTRIBUTES`."""
    image = draw_background(rng, str(rng.choice(list(GROUNDS))), max(height, width))
    labels = (0,) * len(ATTRIBUTES)
    if rng.random() >= _EMPTY:
        look = looks[rng.integers(len(looks))]
        radius = rng.uniform(13, min(22, 0.55 * min(height, width)) + 1)
        sides = np.array((height, width))
        centre = tuple(sides / 2 + rng.uniform(-1, 1, 2) * np.maximum(sides / 2 - 0.8 * radius, 0))
        draw_object(rng, image, look, centre, radius)
        labels = tuple(1 + v.index(getattr(look, name)) for name, v in ATTRIBUTES.items())
    return image[:height, :width], labels


def draw_collage(
    rng: np.random.Generator, looks: Sequence[Appearance]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw four pictures side by side.

    Returns:
        The collage, uint8 [96, 96, 3] RGB; the number 0..3 of the picture that each patch shows,
        int64 [12, 12]; the pictures' labels, int64 [4, 3].
    """
    cut_y, cut_x = rng.integers(GRID // 3, GRID - GRID // 3 + 1, 2)
    rows = (slice(0, cut_y), slice(cut_y, GRID))
    columns = (slice(0, cut_x), slice(cut_x, GRID))
    image = np.zeros((SIZE, SIZE, 3))
    owners = np.zeros((GRID, GRID), dtype=np.int64)
    labels = []
    for number, (r, c) in enumerate(itertools.product(rows, columns)):
        height, width = (PATCH * (s.stop - s.start) for s in (r, c))
        tile, label = draw_picture(rng, height, width, looks)
        image[PATCH * r.start : PATCH * r.stop, PATCH * c.start : PATCH * c.stop] = tile
        owners[r, c] = number
        labels.append(label)
    return add_grain(rng, image), owners, np.array(labels)


class Collages:
    """Endless batches from the latest collages of an endless numbered series.

    Each collage is drawn from its own number and each choice from the batch's, so that any batch
    can be the first. A batch has ``images`` uint8 [B, 3, 96, 96], ``owners`` int64 [B, 12, 12] and
    ``labels`` int64 [B, 4, 3], see :func:`draw_collage`.

    Attributes:
        first: number of the first batch, to be set before it is asked for.
    """

    def __init__(self, seed: int, size: int, memory: int, initial: int, fresh: int) -> None:
        """
        Args:
            seed: of collages and choices.
            size: B, collages of a batch.
            memory: number of the latest collages that a batch is chosen from.
            initial: collages drawn for the first batch.
            fresh: collages drawn for each further batch.
        """
        self.seed, self.size, self.memory = seed, size, memory
        self.initial, self.fresh, self.first = initial, fresh, 0
        self.looks = foreign_looks()
        self.images = np.zeros((memory, SIZE, SIZE, 3), dtype=np.uint8)
        self.owners = np.zeros((memory, GRID, GRID), dtype=np.int64)
        self.labels = np.zeros((memory, PICTURES, len(ATTRIBUTES)), dtype=np.int64)
        self.drawn = 0

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that ``first`` is read when the first batch is asked for.
        for number in itertools.count(self.first):
            yield self.batch(number)

    def batch(self, number: int) -> Batch:
        """The batch of this number; numbers must not fall."""
        self._draw_until(self.initial + self.fresh * number)
        rng = np.random.default_rng((self.seed, _CHOICES, number))
        chosen = rng.integers(0, min(self.drawn, self.memory), self.size)
        images, owners = self.images[chosen], self.owners[chosen]
        for axis in (1, 2):
            if rng.random() < 0.5:
                images, owners = np.flip(images, axis), np.flip(owners, axis)
        return _to_batch(images, owners, self.labels[chosen])

    def _draw_until(self, count: int) -> None:
        # After a resume only the collages that are still in memory are drawn again.
        for number in range(max(self.drawn, count - self.memory), count):
            rng = np.random.default_rng((self.seed, _COLLAGES, number))
            slot = number % self.memory
            drawn = draw_collage(rng, self.looks)
            self.images[slot], self.owners[slot], self.labels[slot] = drawn
        self.drawn = count


def new_batches(seed: int, size: int, count: int, classes: bool = False) -> Iterator[Batch]:
    """``count`` batches of ``size`` collages as :class:`Collages` has them, but all unseen.

    With ``classes`` they show the data set's classes, else looks as in training.
    """
    looks = TOY_LOOKS if classes else foreign_looks()
    rng = np.random.default_rng((seed, _CLASSES if classes else _HELD_OUT))
    for _ in range(count):
        drawn = zip(*(draw_collage(rng, looks) for _ in range(size)), strict=True)
        yield _to_batch(*(np.stack(part) for part in drawn))


def _to_batch(images: np.ndarray, owners: np.ndarray, labels: np.ndarray) -> Batch:
    arrays = {"images": images.transpose(0, 3, 1, 2), "owners": owners, "labels": labels}
    return {key: torch.from_numpy(np.ascontiguousarray(a)) for key, a in arrays.items()}
