# SPDX-License-Identifier: Apache-2.0
"""Objects of the toy data set: one shape, filled with one texture in one palette.

Shapes are predicates over the plane, textures are functions of it with values in 0..1, and a
palette is a pair of colors that the texture mixes. All vary from drawing to drawing.
"""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Samples per pixel and axis: the fraction of them inside a shape is its coverage of the pixel.
SUPERSAMPLING = 2
# No shape, stretched and bent, gets farther from its center than this many radii.
_REACH = 1.5

Color = tuple[float, float, float]  # hue in degrees, saturation and value in 0..1
PlaneFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of coordinates x and y


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Five points: the radius falls linearly with the angle from the nearest point.
    fifth = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + fifth / 2) % fifth - fifth / 2) / (fifth / 2)
    return np.hypot(x, y) < 1.1 - 0.65 * angle


def _fish(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    body = ((x + 0.25) / 0.75) ** 2 + (y / 0.5) ** 2 < 1
    tail = (x > 0.3) & (x < 1) & (np.abs(y) < 0.75 * (x - 0.2))
    return body | tail


def _rocket(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    nose = (y < -0.2) & (np.abs(x) < 0.55 * (y + 1.05))
    hull = (np.abs(x) < 0.45) & (np.abs(y - 0.2) < 0.45)
    fins = (y > 0.3) & (y < 0.95) & (np.abs(x) < 0.3 + 0.65 * (y - 0.2))
    return nose | hull | fins


# In a frame where an object has about the radius 1; y points down.
SHAPES: dict[str, PlaneFunction] = {
    "disc": lambda x, y: x**2 + y**2 < 0.8,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) < 0.8,
    "star": _star,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.68) < 0.3,
    "crescent": lambda x, y: (x**2 + y**2 < 1) & ((x - 0.6) ** 2 + y**2 > 0.55),
    "blossom": lambda x, y: np.hypot(x, y) < 0.76 + 0.22 * np.cos(6 * np.arctan2(y, x)),
    "fan": lambda x, y: (np.hypot(x, y + 0.8) < 1.6) & (np.abs(x) < 0.8 * (y + 1.05)),
    "leaf": lambda x, y: (np.abs(y) < 0.5 * (1 - x**2)) & (np.abs(x) < 1),
    "fish": _fish,
    "rocket": _rocket,
}


def _wave(phase: np.ndarray) -> np.ndarray:
    """Return a soft square wave of period 1, in 0..1."""
    return 0.5 + 0.5 * np.tanh(2.5 * np.sin(2 * np.pi * phase))


def _scales(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    shifted = x + 0.5 * np.floor(y)  # every other row by half a period
    return np.clip(1.6 * np.hypot(shifted % 1 - 0.5, y % 1) - 0.35, 0, 1)


def _speckle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # A hash of the cell, so that the grain turns and shifts with the object.
    cell = np.sin(np.floor(x * 2.2) * 12.9898 + np.floor(y * 2.2) * 78.233) * 437.5453
    return cell % 1 > 0.6


# One unit is the texture's period, 4 to 7 pixels; the origin is the middle of the object.
TEXTURES: dict[str, PlaneFunction] = {
    "stripes": lambda x, y: _wave(x),
    "checks": lambda x, y: (np.floor(1.3 * x) + np.floor(1.3 * y)) % 2,
    "dots": lambda x, y: np.hypot(x % 1 - 0.5, y % 1 - 0.5) < 0.31,
    "rings": lambda x, y: _wave(np.hypot(x, y)),
    "rays": lambda x, y: _wave(np.arctan2(y, x) * 9 / (2 * np.pi)),
    "bricks": lambda x, y: (y % 1 < 0.25) | ((x / 2 + 0.5 * np.floor(y)) % 1 < 0.14),
    "scales": _scales,
    "speckle": _speckle,
}

PALETTES: dict[str, tuple[Color, Color]] = {  # main and second color
    "orange": ((28, 0.85, 0.95), (14, 0.90, 0.62)),
    "pink": ((325, 0.45, 0.95), (335, 0.75, 0.70)),
    "red": ((2, 0.85, 0.82), (0, 0.30, 0.16)),
    "green": ((95, 0.65, 0.72), (70, 0.45, 0.92)),
    "brown": ((26, 0.55, 0.58), (30, 0.60, 0.30)),
    "yellow": ((54, 0.70, 0.97), (44, 0.75, 0.70)),
    "violet": ((275, 0.60, 0.75), (200, 0.45, 0.95)),
}


@dataclass(frozen=True)
class Appearance:
    """What an object looks like: keys of :data:`SHAPES`, :data:`TEXTURES`, :data:`PALETTES`."""

    shape: str
    texture: str
    palette: str


def jittered_color(rng: np.random.Generator, color: Color, amount: float = 1.0) -> np.ndarray:
    """Return a color as RGB 0..255, shifted at random by at most ``amount`` steps."""
    shift = rng.uniform(-1, 1, 3) * (9, 0.10, 0.09) * amount
    hue, *others = np.asarray(color) + shift
    saturation, value = np.clip(others, 0, 1)
    return 255 * np.array(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value))


def draw_object(
    rng: np.random.Generator,
    image: np.ndarray,
    look: Appearance,
    center: tuple[float, float],
    radius: float,
) -> np.ndarray:
    """Draw one object into ``image``, in place, with smooth edges.

    Args:
        rng: source of the variation: turn, stretch, outline, texture period and phase, colors.
        image: float64 [S, S, 3], RGB 0..255.
        look: shape, texture and palette.
        center: (y, x) in pixels.
        radius: half of the object's side in pixels.

    Returns:
        The object's hard mask, bool [S, S]: the pixels that it covers by half or more.
    """
    # Rows and columns that the object can reach.
    size, reach = image.shape[0], _REACH * radius
    window = tuple(
        slice(max(0, int(c - reach)), max(0, min(size, int(c + reach) + 1))) for c in center
    )
    x, y = _object_plane(rng, window, center, radius)
    # Bend the outline a little with one slow sine per axis.
    bend, phase = rng.uniform(0, 0.09, 2), rng.uniform(0, 2 * np.pi, 2)
    inside = SHAPES[look.shape](
        x + bend[0] * np.sin(2.5 * y + phase[0]), y + bend[1] * np.sin(2.5 * x + phase[1])
    )
    period, phase = rng.uniform(4, 7) / radius, rng.uniform(-0.25, 0.25, 2)
    weight = TEXTURES[look.texture](x / period + phase[0], y / period + phase[1])[..., None]
    main, second = (jittered_color(rng, color) for color in PALETTES[look.palette])
    light = rng.uniform(-0.12, 0.12, 2)
    shading = (1 + light[0] * x + light[1] * y)[..., None]
    color = np.clip(((1 - weight) * main + weight * second) * shading, 0, 255)
    coverage = _pixel_mean(inside)[..., None]
    image[window] = image[window] * (1 - coverage) + _pixel_mean(color * inside[..., None])
    mask = np.zeros(image.shape[:2], dtype=bool)
    mask[window] = coverage[..., 0] >= 0.5
    return mask


def _object_plane(
    rng: np.random.Generator,
    window: tuple[slice, ...],
    center: tuple[float, float],
    radius: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (x, y) of the window's samples in the object's turned, stretched frame of radius 1."""
    dy, dx = (
        np.arange(s.start + 0.5 / SUPERSAMPLING, s.stop, 1 / SUPERSAMPLING) - c
        for s, c in zip(window, center, strict=True)
    )
    angle = rng.uniform(0, 2 * np.pi)
    stretch = np.exp(rng.uniform(-0.14, 0.14))
    dy, dx = dy[:, None], dx[None]
    x = (np.cos(angle) * dx + np.sin(angle) * dy) / (radius * stretch)
    y = (np.cos(angle) * dy - np.sin(angle) * dx) / (radius / stretch)
    return x, y


def _pixel_mean(samples: np.ndarray) -> np.ndarray:
    """Return the means over each pixel's samples: [n H, n W, ...] to [H, W, ...]."""
    n = SUPERSAMPLING
    parts = [samples[i::n, j::n].astype(np.float64) for i in range(n) for j in range(n)]
    return np.sum(parts, axis=0) / n**2


def add_grain(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Finish an image, float64 [H, W, 3] RGB 0..255: with a camera's noise, as uint8."""
    noisy = image + rng.normal(0, 3.0, image.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
