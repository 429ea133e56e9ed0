# SPDX-License-Identifier: Apache-2.0
"""Cosines of images and patches with texts that fit them and texts that do not.

Methods that compare a cosine with a threshold (CLIMS, CoDe) need one between the two.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.evaluation import inference_context
from torch import Tensor

from .evaluate import SEED, embed_images, embed_words, patch_cosines
from .images import ToyImage, draw_bank, draw_image
from .toy_clip import PATCH, ToyCLIP
from .words import CLASS_WORDS, GROUND_WORDS

_COSINES = 3  # stream of random numbers


class Cosines(NamedTuple):
    """Cosines of pairs that fit and of pairs that do not."""

    fitting: Tensor  # [P]
    other: Tensor  # [Q]

    def summary(self) -> tuple[float, ...]:
        """Return mean and deviation of the one, of the other, and what is halfway of the means."""
        (a, b), (c, d) = ((float(x.mean()), float(x.std())) for x in self)
        return a, b, c, d, (a + c) / 2


@torch.no_grad()
def measure_cosines(model: ToyCLIP, count: int = 500) -> dict[str, Cosines]:
    """Return the cosines by the kind of image and of text, for objects that are not in training.

    Args:
        model: is left in the mode that it has.
        count: scenes, and masked images.
    """
    rng = np.random.default_rng((SEED, _COSINES))
    bank = draw_bank(rng, 1000, 50)
    scenes = [draw_image(rng, bank, "scene") for _ in range(count)]
    masked = [draw_image(rng, bank, "masked") for _ in range(count)]
    alone = [image for image in masked if image.ground < 0]
    faded = [image for image in masked if image.ground >= 0]
    with inference_context(model):
        classes, grounds = (
            embed_words(model, [usual for usual, *_ in words])
            for words in (CLASS_WORDS, GROUND_WORDS)
        )
        by_kind = {"scenes": scenes, "object alone": alone, "object faded out": faded}
        features = {kind: embed_images(model, images) for kind, images in by_kind.items()}
        result = {}
        for kind, images in by_kind.items():
            shown = torch.tensor([[c in _classes(i) for c in range(len(classes))] for i in images])
            result[f"{kind}, class"] = _split(features[kind] @ classes.T, shown)
        images = scenes + alone
        on = torch.tensor([[i.ground == g for g in range(len(grounds))] for i in images])
        image_features = torch.cat([features["scenes"], features["object alone"]])
        result["scenes and object alone, ground"] = _split(image_features @ grounds.T, on)
        result["patches of toy_val, class or background"] = _of_whole_patches(model)
    return result


def _classes(image: ToyImage) -> set[int]:
    return {number for number, *_ in image.objects}


def _split(cosines: Tensor, fits: Tensor) -> Cosines:
    return Cosines(cosines[fits], cosines[~fits])


def _of_whole_patches(model: ToyCLIP) -> Cosines:
    """Return those of the patches of ``toy_val`` that one class, or ground, covers wholly."""
    cosines, labels = [], []
    for mask, values in patch_cosines(model):
        num_texts, height, width = values.shape
        pixels = torch.from_numpy(mask.astype(np.int64)).reshape(height, PATCH, width, PATCH)
        low, high = pixels.amin((1, 3)), pixels.amax((1, 3))
        cosines.append(values[:, low == high].T)  # [P, 11]
        labels.append(F.one_hot(low[low == high], num_texts).bool())
    return _split(torch.cat(cosines), torch.cat(labels))
