# SPDX-License-Identifier: Apache-2.0
"""Colours for label maps that colour-blind readers tell apart as well as can be."""

import itertools

import cv2
import numpy as np

from .overlay import IGNORE_COLOR

# What is seen of linear RGB: Machado, Oliveira and Fernandes 2009, severity 1.
_PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
_DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]
_TRITANOPIA = [
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.303900],
]
_VIEWS = np.array([np.eye(3), _PROTANOPIA, _DEUTERANOPIA, _TRITANOPIA])
_LEVELS = (0, 51, 102, 153, 204, 255)


def colorblind_palette(size: int) -> list[list[int]]:
    """Choose colours, each as far as possible from all before it for whoever tells them least.

    Args:
        size: how many, background included, at most 200.

    Returns:
        RGB triples in 0..255; the first is black, none is near the colour of ignored pixels.
    """
    candidates = np.array([*itertools.product(_LEVELS, repeat=3), IGNORE_COLOR])
    seen = seen_colors(candidates)
    chosen, nearest = [0], np.full(len(candidates), np.inf)
    for taken in (len(candidates) - 1, 0):
        nearest = np.minimum(nearest, _distances(seen, taken))
    while len(chosen) < size:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, _distances(seen, chosen[-1]))
    return candidates[chosen].tolist()


def seen_colors(colors: np.ndarray) -> np.ndarray:
    """Colours as people see them: CIELAB [4, N, 3] of RGB [N, 3] in 0..255.

    The first axis: without colour blindness, protanopia, deuteranopia, tritanopia.
    """
    values = colors / 255
    linear = np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)
    views = np.clip(np.einsum("vij,nj->vni", _VIEWS, linear), 0, 1).astype(np.float32)
    return cv2.cvtColor(views, cv2.COLOR_LRGB2Lab)


def _distances(seen: np.ndarray, index: int) -> np.ndarray:
    """From each colour to one of them, for whoever sees the least difference: [N]."""
    return np.linalg.norm(seen - seen[:, index : index + 1], axis=2).min(axis=0)
