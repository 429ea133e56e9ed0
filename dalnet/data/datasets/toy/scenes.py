# SPDX-License-Identifier: Apache-2.0
"""Images of the toy data set: one to three objects of ten classes, mostly on their home ground.

Each class is one shape in one texture and one palette; several classes share a texture or a
palette. Each class has a home ground, on which four out of five of its objects stand.
"""

from dataclasses import asdict

import numpy as np

from .background import GROUNDS, draw_background
from .drawing import Appearance, add_grain, draw_object

SIZE = 96  # pixels a side

_AT_HOME = 0.8  # fraction of the objects that stand on their home ground
_RADII = (15.0, 22.0)  # pixels
_MIN_VISIBLE = 0.6  # fraction of an object that later ones must leave uncovered
_ATTEMPTS = 30  # per object, before it is left out

# What each class looks like, and the ground that it is mostly seen on.
_WORLD: dict[str, tuple[Appearance, str]] = {
    "goldfish": (Appearance("fish", "scales", "orange"), "pond"),
    "water lily": (Appearance("blossom", "rings", "pink"), "pond"),
    "ladybird": (Appearance("disc", "dots", "red"), "meadow"),
    "leaf": (Appearance("leaf", "stripes", "green"), "meadow"),
    "starfish": (Appearance("star", "speckle", "orange"), "beach"),
    "seashell": (Appearance("fan", "rays", "pink"), "beach"),
    "wheel": (Appearance("ring", "rays", "red"), "street"),
    "crate": (Appearance("square", "bricks", "brown"), "street"),
    "moon": (Appearance("crescent", "speckle", "yellow"), "night sky"),
    "rocket": (Appearance("rocket", "checks", "violet"), "night sky"),
}

TOY_CLASSES: tuple[str, ...] = tuple(_WORLD)
TOY_LOOKS: tuple[Appearance, ...] = tuple(look for look, _ in _WORLD.values())


def describe_classes() -> dict[str, dict[str, str]]:
    """Return for each class its shape, texture, palette and home ground."""
    return {name: {**asdict(look), "home": home} for name, (look, home) in _WORLD.items()}


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image of the toy world.

    Args:
        rng: source of everything random in it.

    Returns:
        The image, uint8 [96, 96, 3] RGB, and its mask, uint8 [96, 96]: 0 background, class c
        of :data:`TOY_CLASSES` as c + 1. It shows one to three objects.
    """
    ground = str(rng.choice(list(GROUNDS)))
    image = draw_background(rng, ground, SIZE)
    owners = np.zeros((SIZE, SIZE), dtype=np.int64)  # 0, or the number of the object on top
    values, areas = [0], [0]  # of the background and each object
    for _ in range(rng.choice([1, 2, 3], p=[0.35, 0.4, 0.25])):
        index = _draw_class(rng, ground)
        areas.append(place_object(rng, image, owners, areas, TOY_LOOKS[index]))
        values.append(index + 1)
    return add_grain(rng, image), np.asarray(values, dtype=np.uint8)[owners]


def _draw_class(rng: np.random.Generator, ground: str) -> int:
    """Draw a class that is at home on the ground, or now and then a stranger."""
    at_home = rng.random() < _AT_HOME
    return int(
        rng.choice([i for i, (_, h) in enumerate(_WORLD.values()) if (h == ground) == at_home])
    )


def place_object(
    rng: np.random.Generator,
    image: np.ndarray,
    owners: np.ndarray,
    areas: list[int],
    look: Appearance,
) -> int:
    """Draw an object where it leaves the earlier ones mostly visible; return its area or 0.

    Args:
        rng: source of everything random in it.
        image: ``[96, 96, 3]``, changed in place.
        owners: integers ``[96, 96]``, 0 or the number of the object on top; changed in place.
        areas: of the background, which does not count, and of each object so far, in pixels.
        look: of the object, whose number is ``len(areas)``.
    """
    for _ in range(_ATTEMPTS):
        radius = rng.uniform(*_RADII)
        y, x = rng.uniform(0.8 * radius, SIZE - 0.8 * radius, 2)
        trial = image.copy()
        mask = draw_object(rng, trial, look, (y, x), radius)
        left = np.bincount(owners[~mask], minlength=len(areas))
        if all(left[i] >= _MIN_VISIBLE * areas[i] for i in range(1, len(areas))):
            image[:] = trial
            owners[mask] = len(areas)
            return int(mask.sum())
    return 0
