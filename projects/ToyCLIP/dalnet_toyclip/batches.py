# SPDX-License-Identifier: Apache-2.0
"""Batches of images and captions, and which of them fit each other."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from .captions import draw_caption, find_fits
from .images import Bank, ToyImage, draw_bank, draw_image
from .toy_clip import GRID, PATCH
from .vocabulary import OTHER_WORD, num_rows, tokenize

Batch = dict[str, torch.Tensor]

_ALIKE = 1 / 3  # fraction of images, and of collages, that share one ground and one color
_TILED = 1 / 2  # fraction of a batch that is tiles of collages
_SEEN = 1 / 2  # fraction of the patches of whole images that the image tower sees
_TILE_KINDS, _TILE_FRACTIONS = ("single", "empty", "masked"), (0.6, 0.3, 0.1)
_FORGET = 0.01  # fraction of the words that are taken for unknown ones
# Streams of random numbers.
_BANKS, _BATCHES = range(2)


def training_batches(
    seed: int, batch_size: int, bank_size: int, bank_life: int, start: int = 0
) -> Iterator[Batch]:
    """Endless batches, each from its own number, so that any batch can be the first: ``start``.

    Args:
        seed: of everything random.
        batch_size: N, images and captions of a batch, a multiple of 8. Half of the images are
            whole, the others tiles of Q collages, four in each.
        bank_size: objects that are drawn at a time; there is a tenth as many of each ground.
        bank_life: batches that are put together from them before others are drawn.
        start: number of the first batch.

    Yields:
        ``images`` uint8 [N / 2, 3, 96, 96]; ``patches`` int64 [N / 2, P], the numbers of those that
        the image tower sees; ``collages`` uint8 [Q, 3, 96, 96]; ``tiles`` int64 [Q, 144], the
        number 0..3 of each patch's tile; ``tokens`` int64 [N, L] as rows of the token table;
        ``fits`` bool [N, N], whether caption i fits image j, tiles being the last images. Caption i
        was drawn for image i.
    """
    bank, bank_number = None, None
    for number in itertools.count(start):
        if bank is None or number // bank_life != bank_number:
            bank_number = number // bank_life
            rng = np.random.default_rng((seed, _BANKS, bank_number))
            bank = draw_bank(rng, bank_size, bank_size // 10)
        yield draw_batch(np.random.default_rng((seed, _BATCHES, number)), bank, batch_size)


def draw_batch(rng: np.random.Generator, bank: Bank, batch_size: int) -> Batch:
    """Return one batch of :func:`training_batches`."""
    num_collages = round(_TILED * batch_size / 4)
    whole = draw_images(rng, bank, batch_size - 4 * num_collages)
    collages, tile_maps, tiles = draw_collages(rng, bank, num_collages)
    images = whole + tiles
    captions = [draw_caption(rng, image) for image in images]
    tokens = tokenize([caption.text for caption in captions])
    inner = (tokens > 0) & (tokens < num_rows() - 2)  # neither padding nor start and end
    forgotten = torch.from_numpy(rng.random(tuple(tokens.shape)) < _FORGET)
    order = rng.random((len(whole), GRID**2)).argsort(axis=1)
    return {
        "images": stack_images([image.image for image in whole]),
        "patches": torch.from_numpy(order[:, : round(_SEEN * GRID**2)]),
        "collages": stack_images(collages),
        "tiles": torch.from_numpy(np.stack(tile_maps)).flatten(1),
        "tokens": tokens.masked_fill(inner & forgotten, OTHER_WORD),
        "fits": torch.from_numpy(find_fits(captions, images)),
    }


def draw_images(rng: np.random.Generator, bank: Bank, count: int) -> list[ToyImage]:
    """Draw images of all kinds; a third of them can be told apart by shape and texture alone."""
    alike = round(_ALIKE * count)
    ground, palette = _draw_common(rng, bank)
    kinds = rng.choice(("scene", "single", "masked"), alike)
    images = [draw_image(rng, bank, str(kind), ground, palette) for kind in kinds]
    return images + [draw_image(rng, bank) for _ in range(count - alike)]


def draw_collages(
    rng: np.random.Generator, bank: Bank, count: int
) -> tuple[list[np.ndarray], list[np.ndarray], list[ToyImage]]:
    """Draw collages of four tiles of random sizes, the sides of which are multiples of the patch.

    Returns:
        The collages, uint8 [96, 96, 3]; the number of each patch's tile, int64 [12, 12]; and all
        tiles, four of each collage.
    """
    common = _draw_common(rng, bank)
    collages, tile_maps, tiles = [], [], []
    for number in range(count):
        ground, palette = common if number < _ALIKE * count else (None, None)
        rows, columns = (int(rng.integers(GRID // 3, GRID - GRID // 3 + 1)) for _ in range(2))
        heights, widths = (rows, GRID - rows), (columns, GRID - columns)
        sizes = [(PATCH * h, PATCH * w) for h, w in itertools.product(heights, widths)]
        kinds = rng.choice(_TILE_KINDS, 4, p=_TILE_FRACTIONS)
        four = [
            draw_image(rng, bank, str(kind), ground, palette, size)
            for kind, size in zip(kinds, sizes, strict=True)
        ]
        tiles += four
        upper, lower = (np.concatenate([t.image for t in pair], 1) for pair in (four[:2], four[2:]))
        collages.append(np.concatenate([upper, lower]))
        tile_maps.append(np.repeat([[0, 1], [2, 3]], heights, axis=0).repeat(widths, axis=1))
    return collages, tile_maps, tiles


def _draw_common(rng: np.random.Generator, bank: Bank) -> tuple[int, int]:
    """Draw a ground and a palette."""
    return int(rng.integers(len(bank.grounds))), int(rng.choice(bank.objects[:, 3]))


def stack_images(images: Sequence[np.ndarray]) -> torch.Tensor:
    """Return uint8 [N, 3, H, W] for images [H, W, 3]."""
    stacked = np.stack(images).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(stacked))
