# SPDX-License-Identifier: Apache-2.0
"""Backgrounds of the toy data set: textured grounds with clutter on them."""

from collections.abc import Callable

import cv2
import numpy as np

from .drawing import Color, jittered_color


def _noise(rng: np.random.Generator, size: int, cell: float) -> np.ndarray:
    """Return smooth noise in about -1..1 with features of ``cell`` pixels, [size, size]."""
    coarse = rng.uniform(-1, 1, (round(size / cell) + 2,) * 2)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR)


def _mix(rng: np.random.Generator, weight: np.ndarray, first: Color, second: Color) -> np.ndarray:
    """Return an RGB image of two jittered colors; ``weight`` [size, size] is the second's."""
    weight = np.clip(weight, 0, 1)[..., None]
    image = (1 - weight) * jittered_color(rng, first, 1.5)
    image += weight * jittered_color(rng, second, 1.5)
    return image


def _turned(rng: np.random.Generator, size: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Return pixel coordinates (x, y), turned by at most ``spread`` radians and shifted."""
    y, x = np.mgrid[:size, :size] + rng.uniform(0, 50, 2)[:, None, None]
    angle = rng.uniform(-spread, spread)
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x


def _pond(rng: np.random.Generator, size: int) -> np.ndarray:
    x, y = _turned(rng, size, 0.3)
    ripples = np.sin(y * 2 * np.pi / rng.uniform(9, 13) + 1.5 * np.sin(x / rng.uniform(6, 10)))
    weight = 0.4 + 0.3 * ripples + 0.3 * _noise(rng, size, 20)
    return _mix(rng, weight, (195, 0.6, 0.5), (180, 0.45, 0.78))


def _meadow(rng: np.random.Generator, size: int) -> np.ndarray:
    ground = _mix(rng, 0.5 + 0.6 * _noise(rng, size, 12), (115, 0.6, 0.38), (90, 0.6, 0.55))
    for _ in range(size):  # blades of grass
        start = rng.uniform(0, size, 2)
        end = start + rng.uniform((-3, -8), (3, -3))
        color = jittered_color(rng, (105, 0.6, 0.5), 2.0)
        cv2.line(ground, np.int32(start).tolist(), np.int32(end).tolist(), color.tolist(), 1)
    return ground


def _beach(rng: np.random.Generator, size: int) -> np.ndarray:
    grains = 0.45 * _noise(rng, size, 1.5) + 0.4 * _noise(rng, size, 15)
    return _mix(rng, 0.5 + grains, (42, 0.42, 0.88), (36, 0.5, 0.64))


def _street(rng: np.random.Generator, size: int) -> np.ndarray:
    x, y = _turned(rng, size, 0.5)
    side = rng.uniform(11, 16)
    joint = (y % side < 1.8) | ((x + side * 0.7 * np.floor(y / side)) % (1.4 * side) < 1.8)
    stones = 0.35 * joint + 0.25 * _noise(rng, size, 1.5) + 0.3 * _noise(rng, size, 14)
    return _mix(rng, 0.4 + stones, (215, 0.08, 0.6), (215, 0.12, 0.4))


def _night(rng: np.random.Generator, size: int) -> np.ndarray:
    ground = _mix(rng, 0.5 + 0.6 * _noise(rng, size, 24), (232, 0.7, 0.2), (250, 0.55, 0.38))
    for _ in range(rng.integers(25, 50)):  # stars
        y, x = rng.integers(0, size, 2)
        ground[y, x] = jittered_color(rng, (55, 0.15, 0.85), 1.5)
    return ground


# In the order of the grounds that the data set's classes name.
GROUNDS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "pond": _pond,
    "meadow": _meadow,
    "beach": _beach,
    "street": _street,
    "night sky": _night,
}


def draw_background(rng: np.random.Generator, ground: str, size: int) -> np.ndarray:
    """Draw a ground with pebbles and twigs of any color, too small to be an object.

    Args:
        rng: source of the variation.
        ground: key of :data:`GROUNDS`.
        size: side of the image in pixels.

    Returns:
        float64 [size, size, 3], RGB 0..255.
    """
    image = np.ascontiguousarray(GROUNDS[ground](rng, size))
    for _ in range(rng.integers(4, 10)):
        hsv = (rng.uniform(0, 360), rng.uniform(0.1, 0.7), rng.uniform(0.25, 0.85))
        color = jittered_color(rng, hsv, 0.0).tolist()
        at = rng.integers(0, size, 2).tolist()
        if rng.random() < 0.5:
            axes = rng.integers(1, 4, 2).tolist()
            cv2.ellipse(image, at, axes, rng.uniform(0, 180), 0, 360, color, -1)
        else:
            end = (np.array(at) + rng.integers(-10, 11, 2)).tolist()
            cv2.line(image, at, end, color, int(rng.integers(1, 3)))
    return np.clip(image, 0, 255)
