# SPDX-License-Identifier: Apache-2.0
"""DINO's further views: a second global one and small local ones (Caron et al., ICCV 2021)."""

from collections.abc import Sequence

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop, v2

from dalnet.data.augmentation import photometric_chain, random_mirror

_ASPECT_RANGE = (3 / 4, 4 / 3)


class GlobalViews:
    """Random resized crops of the whole photograph, mirrored and altered independently.

    Args:
        number: how many, 0 or more.
        size: (height, width) of a view in pixels.
        scale: range of a crop's area relative to the photograph's.
        flip: whether a view is mirrored with probability 1/2.
        photometric: whether colours are altered (blur 0.1, solarisation 0.2: ToCo).
    """

    def __init__(
        self,
        number: int,
        size: tuple[int, int],
        scale: tuple[float, float],
        flip: bool,
        photometric: bool,
    ) -> None:
        self.number = number
        self.size = tuple(size)
        shape = size[1] / size[0]
        crop = v2.RandomResizedCrop(
            self.size,
            scale=tuple(scale),
            ratio=tuple(shape * r for r in _ASPECT_RANGE),
            interpolation=InterpolationMode.BICUBIC,
        )
        chain = photometric_chain(photometric, blur_prob=0.1, solarize_prob=0.2)
        self.transform = v2.Compose([crop, random_mirror(flip), chain])

    def __call__(self, photo: Image.Image) -> torch.Tensor:
        """Cut the views from an RGB photograph: uint8 [number,3,H,W]."""
        return _stack([self.transform(photo) for _ in range(self.number)], self.size)


class LocalViews:
    """Small crops of the main view with their boxes.

    They are cut before the main view's colours are altered and stay aligned with it (a mirrored
    local view shows the mirrored content of its box), so that a label map of the main view
    tells what a local view shows.

    Args:
        number: how many, 0 or more.
        size: side of a view in pixels.
        scale: range of a crop's area relative to the main view's image box.
        flip: whether a view is mirrored with probability 1/2.
        photometric: whether colours are altered (blur 0.5: DINO).
    """

    def __init__(
        self, number: int, size: int, scale: tuple[float, float], flip: bool, photometric: bool
    ) -> None:
        self.number = number
        self.size = (size, size)
        self.scale = list(scale)
        self.transform = v2.Compose(
            [random_mirror(flip), photometric_chain(photometric, blur_prob=0.5)]
        )

    def __call__(
        self, source: Image.Image, corner: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut the views from the main view's pixels.

        Args:
            source: the photograph's part of the main view, without padding.
            corner: (y0, x0) of that part in the padded main view.

        Returns:
            Views, uint8 [L,3,S,S], and their boxes (y0, y1, x0, x1) in pixels of the padded main
            view, int64 [L,4].
        """
        views, boxes = [], []
        for _ in range(self.number):
            top, left, height, width = RandomResizedCrop.get_params(
                source, self.scale, list(_ASPECT_RANGE)
            )
            view = v2.functional.resized_crop(
                source, top, left, height, width, list(self.size), InterpolationMode.BICUBIC
            )
            views.append(self.transform(view))
            y0, x0 = corner[0] + top, corner[1] + left
            boxes.append((y0, y0 + height, x0, x0 + width))
        return _stack(views, self.size), torch.tensor(boxes, dtype=torch.int64).reshape(-1, 4)


def _stack(views: Sequence[Image.Image], size: tuple[int, int]) -> torch.Tensor:
    if not views:
        return torch.zeros(0, 3, *size, dtype=torch.uint8)
    return torch.stack([v2.functional.pil_to_tensor(view) for view in views])
