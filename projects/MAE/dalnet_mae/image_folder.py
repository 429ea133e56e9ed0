# SPDX-License-Identifier: Apache-2.0
"""Images of a folder, held in memory, and endless batches of random crops of them."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from detectron2.config import get_cfg
from detectron2.data.samplers import TrainingSampler
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from dalnet.config import add_dalnet_config
from dalnet.data.image_io import read_image
from dalnet.errors import UsageError

_SUFFIXES = (".jpg", ".jpeg", ".png")
_AREA = (0.2, 1.0)  # of an image that a crop covers, before it is resized

# Those of a config that does not set them, 0..255.
_defaults = get_cfg()
add_dalnet_config(_defaults)
PIXEL_MEAN, PIXEL_STD = _defaults.MODEL.PIXEL_MEAN, _defaults.MODEL.PIXEL_STD


def read_images(
    folder: Path, ids_file: Path | None, short_side: int
) -> tuple[list[Tensor], list[str]]:
    """Read the images of a folder, shrunk so that the short side is ``short_side`` at most.

    Args:
        folder: of ``.jpg``, ``.jpeg`` and ``.png`` files; folders in it are not entered.
        ids_file: names of the files to take, without suffix, one a line; None for all.
        short_side: in pixels. 1,000 images of 4:3 take 260 MB at 256 pixels.

    Returns:
        The images, uint8 [3, H, W] RGB; and a sentence for each that is missing or unreadable.

    Raises:
        UsageError: not one image can be read.
    """
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in _SUFFIXES]
    if ids_file:
        lines = ids_file.read_text(encoding="utf-8", errors="replace").splitlines()
        ids = {line.split()[0] for line in lines if line.strip()}
        paths = [path for path in paths if path.stem in ids]
        paths += [folder / f"{name}.jpg" for name in sorted(ids - {path.stem for path in paths})]
    # As many threads as torch may use: OMP_NUM_THREADS holds here too.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        results = list(pool.map(functools.partial(_read_small, short_side), paths))
    images = [result for result in results if isinstance(result, Tensor)]
    if not images:
        raise UsageError("it has no image to learn from", folder, "name one of .jpg or .png files")
    return images, [result for result in results if isinstance(result, str)]


def _read_small(short_side: int, path: Path) -> Tensor | str:
    """Return the image, uint8 [3, H, W], or what is wrong with it."""
    try:
        image = Image.fromarray(read_image(str(path)))
    except UsageError as error:
        return str(error)
    factor = short_side / min(image.size)
    if factor < 1:
        size = [max(1, round(factor * side)) for side in image.size]
        image = image.resize(size, Image.Resampling.BICUBIC)
    return F.pil_to_tensor(image)


def crop_batches(
    images: Sequence[Tensor], size: int, batch_size: int, seed: int, start: int = 0
) -> Iterator[Tensor]:
    """Yield normalized batches of random crops and flips without end, [batch_size, 3, size, size].

    The ``images``, uint8 [3, H, W] each, are cropped on their device. Every image is shown once
    before any is shown again, in an order that the seed and the number of images decide; ``start``
    is the number of the first batch. The crops come from torch's global generator.
    """
    crop = v2.RandomResizedCrop(
        size, scale=_AREA, interpolation=v2.InterpolationMode.BICUBIC, antialias=True
    )
    transform = v2.Compose([crop, v2.RandomHorizontalFlip()])
    sampler = TrainingSampler(len(images), seed=seed)
    chosen = itertools.islice(sampler, start * batch_size, None)
    while True:
        batch = itertools.islice(chosen, batch_size)
        yield normalize(torch.stack([transform(images[i]) for i in batch]))


def normalize(images: Tensor) -> Tensor:
    """Return uint8 images [N, 3, H, W] as floats, normalized as DALNet's input is by default."""
    return F.normalize(images.float(), PIXEL_MEAN, PIXEL_STD)
