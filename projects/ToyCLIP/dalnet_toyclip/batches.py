# SPDX-License-Identifier: Apache-2.0
"""Batches of images and captions, and which of them fit each other."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from .captions import draw_caption, find_fits
from .images import Bank, ToyImage, draw_bank, draw_image
from .toy_clip import NUM_PATCHES
from .vocabulary import OTHER_WORD, num_rows, tokenize

Batch = dict[str, torch.Tensor]

_ALIKE = 1 / 3  # fraction of a batch that shares one ground and one color
_SPARSE = 1 / 2  # fraction of the patches that a sparse batch shows
_FORGET = 0.01  # fraction of the words that are taken for unknown ones
# Streams of random numbers.
_BANKS, _BATCHES = range(2)


def training_batches(
    seed: int, batch_size: int, bank_size: int, bank_life: int, sparse: int, start: int = 0
) -> Iterator[Batch]:
    """Endless batches, each from its own number, so that any batch can be the first: ``start``.

    Args:
        seed: of everything random.
        batch_size: images, and captions, of a batch: N.
        bank_size: objects that are drawn at a time; there is a tenth as many of each ground.
        bank_life: batches that are put together from them before others are drawn.
        sparse: number of batches, from the first on, that show half of the patches.
        start: number of the first batch.

    Yields:
        ``images`` uint8 [N, 3, 96, 96]; ``patches`` int64 [N, P], the numbers of those that the
        image tower sees; ``tokens`` int64 [N, L] as rows of the token table; ``fits`` bool [N, N],
        whether caption i fits image j. Caption i was drawn for image i.
    """
    bank, bank_number = None, None
    for number in itertools.count(start):
        if bank is None or number // bank_life != bank_number:
            bank_number = number // bank_life
            rng = np.random.default_rng((seed, _BANKS, bank_number))
            bank = draw_bank(rng, bank_size, bank_size // 10)
        rng = np.random.default_rng((seed, _BATCHES, number))
        yield draw_batch(rng, bank, batch_size, number < sparse)


def draw_batch(rng: np.random.Generator, bank: Bank, batch_size: int, sparse: bool) -> Batch:
    """Return one batch of :func:`training_batches`."""
    images = draw_images(rng, bank, batch_size)
    captions = [draw_caption(rng, image) for image in images]
    tokens = tokenize([caption.text for caption in captions])
    inner = (tokens > 0) & (tokens < num_rows() - 2)  # neither padding nor start and end
    forgotten = torch.from_numpy(rng.random(tuple(tokens.shape)) < _FORGET)
    order = rng.random((batch_size, NUM_PATCHES)).argsort(axis=1)
    seen = order[:, : round(_SPARSE * NUM_PATCHES)] if sparse else order
    return {
        "images": stack_images(images),
        "patches": torch.from_numpy(seen),
        "tokens": tokens.masked_fill(inner & forgotten, OTHER_WORD),
        "fits": torch.from_numpy(find_fits(captions, images)),
    }


def draw_images(rng: np.random.Generator, bank: Bank, count: int) -> list[ToyImage]:
    """Draw images of all kinds; a third of them can be told apart by shape and texture alone."""
    alike = round(_ALIKE * count)
    ground, palette = int(rng.integers(len(bank.grounds))), int(rng.choice(bank.objects[:, 3]))
    kinds = rng.choice(("scene", "single", "masked"), alike)
    images = [draw_image(rng, bank, str(kind), ground, palette) for kind in kinds]
    return images + [draw_image(rng, bank) for _ in range(count - alike)]


def stack_images(images: Sequence[ToyImage]) -> torch.Tensor:
    """Return uint8 [N, 3, 96, 96]."""
    stacked = np.stack([image.image for image in images]).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(stacked))
