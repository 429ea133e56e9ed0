# SPDX-License-Identifier: Apache-2.0
"""What the figures' tests share: results of a model, made up, and what a figure shows."""

import dataclasses

import numpy as np
import pytest

from dalnet.data.datasets import catalog
from dalnet.figures.images import ImageResult

SPLIT = "figures_test"
CLASSES = ["cat", "dog", "cow", "hen", "pig", "ewe"]
SIZE = (30, 40)


@pytest.fixture
def split():
    catalog.register(SPLIT, list, CLASSES)
    return SPLIT


@pytest.fixture
def result():
    """A cat at the left: truth, CAM, pseudo label and prediction agree, but for one column."""
    left = np.zeros(SIZE, np.uint8)
    left[:, :20] = 1
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return ImageResult(
        name="beast",
        image=image,
        image_classes=(0,),
        label_maps={
            "truth": left,
            "pseudo label": np.where(left, 1, 255).astype(np.uint8),
            "prediction": 2 * np.roll(left, 1, axis=1),
        },
        cams={0: 0.9 * left.astype(np.float32)},
    )


@pytest.fixture
def without():
    """Returns a result without some of its label maps, and with other changes."""

    def change(result, *titles, **others):
        left = {title: one for title, one in result.label_maps.items() if title not in titles}
        return dataclasses.replace(result, label_maps=left, **others)

    return change


class Shown:
    """What is to be seen on a figure, row by row; the color bar, if any, apart."""

    def __init__(self, figure):
        bars = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
        grid = [axes for axes in figure.axes if axes not in bars]
        self.panels = [axes.images[0].get_array() if axes.images else None for axes in grid]
        self.captions = [axes.get_xlabel() for axes in grid]
        self.titles = [axes.get_title() for axes in grid if axes.get_title()]
        self.bar = bars[0].get_xlim() if bars else None
        self.legend = [text.get_text() for one in figure.legends for text in one.get_texts()]


@pytest.fixture
def look():
    return Shown
