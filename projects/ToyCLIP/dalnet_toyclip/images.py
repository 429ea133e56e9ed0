# SPDX-License-Identifier: Apache-2.0
"""Images of the toy world for a CLIP: scenes, single objects, empty grounds, masked images.

Objects and grounds are drawn once into a :class:`Bank` and then put together at will, which takes
a tenth of the time that drawing them does. Objects stand on all grounds alike.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from open_clip.constants import OPENAI_DATASET_MEAN

from dalnet.data.datasets.toy import SIZE, TOY_LOOKS
from dalnet.data.datasets.toy.background import GROUNDS, draw_background
from dalnet.data.datasets.toy.drawing import PALETTES, SHAPES, TEXTURES, Appearance, draw_object

MAX_OBJECTS = 3
NO_CLASS = -1
NO_GROUND = -1

_KINDS = ("scene", "single", "empty", "masked")
_KIND_FRACTIONS = (0.40, 0.25, 0.15, 0.20)
_CLASS_FRACTION = 0.6  # of the objects; the others have looks of no class
_RADII = (15.0, 22.0)  # pixels, as in the data set
_MAX_ZOOM = 1.75  # as configs/toy_dalnet.yaml enlarges its training images
_SPRITE = 68  # pixels: no object is larger
# What a masked image fades to: CLIP's mean color, and the mean of configs/toy_dalnet.yaml.
_MEANS = (255 * np.array(OPENAI_DATASET_MEAN), np.full(3, 127.5))

_ATTRIBUTES = tuple(tuple(values) for values in (SHAPES, TEXTURES, PALETTES))


class ToyImage(NamedTuple):
    """An image and what it shows."""

    image: np.ndarray  # uint8 [96, 96, 3], RGB; a tile of a collage is smaller
    objects: tuple[tuple[int, ...], ...]  # of each: class or -1, shape, texture, palette
    ground: int  # number of the ground, or -1


def look_numbers(look: Appearance) -> tuple[int, ...]:
    """Return the numbers of its shape, texture and palette."""
    values = (look.shape, look.texture, look.palette)
    return tuple(names.index(v) for names, v in zip(_ATTRIBUTES, values, strict=True))


CLASS_LOOKS = tuple(look_numbers(look) for look in TOY_LOOKS)


def _other_looks(held_out: bool) -> list[tuple[int, ...]]:
    looks = itertools.product(*(range(len(names)) for names in _ATTRIBUTES))
    others = [look for look in looks if look not in CLASS_LOOKS]
    return [(s, t, p) for s, t, p in others if ((7 * s + 3 * t + p) % 11 == 0) == held_out]


# Looks of no class: those of the training, and combinations that it never shows.
OTHER_LOOKS = _other_looks(held_out=False)
HELD_OUT_LOOKS = _other_looks(held_out=True)


@dataclass(frozen=True)
class Bank:
    """Drawn objects and grounds.

    Attributes:
        sprites: uint8 ``[n, 68, 68, 4]``: RGB times coverage, and coverage.
        radii: half of each object's side in pixels, ``[n]``.
        objects: class or -1, shape, texture and palette of each object, ``[n, 4]``.
        grounds: uint8 ``[number of grounds, m, 96, 96, 3]``.
        grain: a camera's noise, float32 ``[k, 96, 96, 3]``.
    """

    sprites: np.ndarray
    radii: np.ndarray
    objects: np.ndarray
    grounds: np.ndarray
    grain: np.ndarray


def draw_bank(
    rng: np.random.Generator,
    num_objects: int,
    num_grounds: int,
    looks: Sequence[tuple[int, ...]] = OTHER_LOOKS,
) -> Bank:
    """Draw objects, half of them of the classes and half of ``looks``, and grounds of each sort."""
    classes = [(number, *look) for number, look in enumerate(CLASS_LOOKS)]
    others = [(NO_CLASS, *look) for look in looks]
    objects = [
        group[i % len(group)] for i in range(num_objects // 2) for group in (classes, others)
    ]
    radii = rng.uniform(*_RADII, len(objects))
    sprites = [_draw_sprite(rng, o[1:], r) for o, r in zip(objects, radii, strict=True)]
    grounds = [
        [draw_background(rng, ground, SIZE).astype(np.uint8) for _ in range(num_grounds)]
        for ground in GROUNDS
    ]
    grain = rng.normal(0, 3.0, (32, SIZE, SIZE, 3)).astype(np.float32)
    return Bank(np.stack(sprites), radii, np.array(objects), np.array(grounds), grain)


def _draw_sprite(rng: np.random.Generator, look: Sequence[int], radius: float) -> np.ndarray:
    names = (values[i] for values, i in zip(_ATTRIBUTES, look, strict=True))
    appearance = Appearance(*names)
    center = (_SPRITE / 2, _SPRITE / 2)
    seed = rng.integers(2**63)
    on_black, on_white = (np.full((_SPRITE, _SPRITE, 3), color) for color in (0.0, 255.0))
    for canvas in (on_black, on_white):  # the same object: what differs is what it leaves uncovered
        draw_object(np.random.default_rng(seed), canvas, appearance, center, radius)
    coverage = 255 - (on_white - on_black)[..., :1]
    return np.rint(np.concatenate([on_black, coverage], axis=2)).astype(np.uint8)


def draw_image(
    rng: np.random.Generator,
    bank: Bank,
    kind: str | None = None,
    ground: int | None = None,
    palette: int | None = None,
    size: tuple[int, int] = (SIZE, SIZE),
) -> ToyImage:
    """Put an image together.

    Args:
        rng: source of everything random in it.
        bank: what it is put together from.
        kind: "scene" (1 to 3 objects), "single", "empty", "masked" (a scene of which a soft mask
            leaves one object, or fades one out); None draws one.
        ground: number of the ground; None draws one.
        palette: of all objects; None leaves them free.
        size: height and width; images smaller than usual show one object at most.
    """
    is_tile = min(size) < SIZE
    kind = kind or str(rng.choice(_KINDS, p=_KIND_FRACTIONS))
    ground = int(rng.integers(len(bank.grounds))) if ground is None else ground
    count = 1 if kind == "single" or is_tile else int(rng.choice([1, 2, 3], p=[0.35, 0.4, 0.25]))
    count *= kind != "empty"
    zoom = rng.uniform(1, _MAX_ZOOM) if count == 1 and not is_tile and rng.random() < 0.6 else 1.0
    image = _draw_ground(rng, bank, ground, zoom)[: size[0], : size[1]]
    radius = 0.55 * min(size) + 1
    chosen = [_choose_object(rng, bank, palette, radius) for _ in range(count)]
    placed = _place_objects(rng, bank, chosen, zoom, size)
    coverages: list[np.ndarray] = []
    for number, center in placed:
        coverage = _paste(image, bank.sprites[number], center, zoom)
        coverages = [*(c * (1 - coverage) for c in coverages), coverage]
    image += bank.grain[rng.integers(len(bank.grain)), : size[0], : size[1]]
    objects = [tuple(bank.objects[number].tolist()) for number, _ in placed]
    if kind == "masked":
        image, objects, ground = _mask(rng, image, coverages, objects, ground)
    return ToyImage(np.clip(np.rint(image), 0, 255).astype(np.uint8), tuple(objects), ground)


def _draw_ground(rng: np.random.Generator, bank: Bank, ground: int, zoom: float) -> np.ndarray:
    """Return float32 [96, 96, 3]: a ground or its flipped copy, enlarged ``zoom`` times."""
    image = bank.grounds[ground][rng.integers(len(bank.grounds[ground]))]
    image = image[:, :: rng.choice((-1, 1))].astype(np.float32)
    side = round(SIZE / zoom)
    y, x = rng.integers(0, SIZE - side + 1, 2)
    return cv2.resize(image[y : y + side, x : x + side], (SIZE, SIZE))


def _choose_object(
    rng: np.random.Generator, bank: Bank, palette: int | None, max_radius: float
) -> int:
    """Return the number of an object in the bank."""
    right = bank.radii <= max_radius
    if palette is not None:
        right &= bank.objects[:, 3] == palette
    is_class = bank.objects[:, 0] >= 0
    numbers = np.flatnonzero(right & (is_class == (rng.random() < _CLASS_FRACTION)))
    return int(rng.choice(numbers))


def _place_objects(
    rng: np.random.Generator,
    bank: Bank,
    chosen: Sequence[int],
    zoom: float,
    size: tuple[int, int],
) -> list[tuple[int, np.ndarray]]:
    """Find a center (y, x) for each object; one that would cover another's middle is left out."""
    placed: list[tuple[int, np.ndarray]] = []
    for number in chosen:
        radius = zoom * bank.radii[number]
        for _ in range(10):
            margin = np.minimum(0.8 * radius, np.divide(size, 2))
            center = rng.uniform(margin, size - margin)
            gaps = [np.hypot(*(center - c)) / max(radius, bank.radii[n]) for n, c in placed]
            if min(gaps, default=np.inf) > 1.3:
                placed.append((number, center))
                break
    return placed


def _paste(image: np.ndarray, sprite: np.ndarray, center: np.ndarray, zoom: float) -> np.ndarray:
    """Put an object into the image, in place, and return its coverage, float32 [H, W, 1]."""
    scale = np.array([[zoom, 0, 0], [0, zoom, 0]])
    scale[:, 2] = center[::-1] - zoom * _SPRITE / 2
    layer = cv2.warpAffine(sprite, scale, image.shape[1::-1]).astype(np.float32)
    coverage = layer[..., 3:] / 255
    image *= 1 - coverage
    image += layer[..., :3]
    return coverage


def _mask(
    rng: np.random.Generator,
    image: np.ndarray,
    coverages: list[np.ndarray],
    objects: list[tuple[int, ...]],
    ground: int,
) -> tuple[np.ndarray, list[tuple[int, ...]], int]:
    """Fade all but one object, or that object, to a mean color by a soft, imprecise mask.

    Such images are all that CLIMS shows CLIP. Returns the image and what is left to see in it.
    """
    number = rng.integers(len(objects))
    soft = cv2.GaussianBlur(coverages[number][..., 0], (0, 0), rng.uniform(0.5, 7))[..., None]
    soft = np.clip(soft / soft.max() * rng.uniform(1.0, 1.6), 0, 1)
    mean = _MEANS[rng.integers(len(_MEANS))]
    low, high = rng.uniform(0, 0.1), rng.uniform(0.8, 1)
    if rng.random() < 0.5:
        kept = low + (high - low) * soft
        objects, ground = [objects[number]], NO_GROUND
    else:
        kept = 1 - np.clip(1.4 * soft, 0, 1) * rng.uniform(0.9, 1)
        objects = [shown for i, shown in enumerate(objects) if i != number]
    return kept * image + (1 - kept) * mean, objects, ground
