# SPDX-License-Identifier: Apache-2.0
"""The training views of an image: DINO's global and local ones (Caron et al., ICCV 2021)."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop, v2

from .augmentation import (
    main_view_geometry,
    pad_at,
    pad_randomly,
    photometric_chain,
    random_flip,
)

_ASPECT_RANGE = (3 / 4, 4 / 3)


class GlobalViews:
    """Random resized crops of the whole image, flipped and altered independently.

    Args:
        number: how many, 0 or more.
        size: (height, width) of a view in pixels.
        scale: range of a crop's area relative to the image's.
        flip: whether a view is flipped with probability 1/2.
        photometric: whether colors are altered (blur 0.1, solarization 0.2: ToCo).
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
        self.transform = v2.Compose([crop, random_flip(flip), chain])

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Cut the views from an RGB image: uint8 [number,3,H,W]."""
        return _stack([self.transform(image) for _ in range(self.number)], self.size)


class LocalViews:
    """Small crops of the main view with their boxes.

    They are cut before the main view's colors are altered and stay aligned with it (a flipped
    local view shows the flipped content of its box), so that a label map of the main view
    tells what a local view shows.

    Args:
        number: how many, 0 or more.
        size: side of a view in pixels.
        scale: range of a crop's area relative to the main view's image box.
        flip: whether a view is flipped with probability 1/2.
        photometric: whether colors are altered (blur 0.5: DINO).
    """

    def __init__(
        self, number: int, size: int, scale: tuple[float, float], flip: bool, photometric: bool
    ) -> None:
        self.number = number
        self.size = (size, size)
        self.scale = list(scale)
        self.transform = v2.Compose(
            [random_flip(flip), photometric_chain(photometric, blur_prob=0.5)]
        )

    def __call__(
        self, source: Image.Image, corner: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut the views from the main view's pixels.

        Args:
            source: the image's part of the main view, without padding.
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


class TrainingViews:
    """All views of one image: main, global and local ones. Masks play no part.

    Args:
        geometry: rescales, flips and cuts the image to at most ``crop_size``.
        photometric: alters the main view's colors.
        global_views: cuts the further global views.
        local_views: cuts the local views.
        local_source: alters the colors of the main view's copy that the model cuts local views
            from; None where ``local_views`` does.
        crop_size: (height, width) of the main view in pixels.
        padding: RGB value of the padding, 0..255.
    """

    def __init__(
        self,
        geometry: T.Augmentation,
        photometric: Callable[[Image.Image], Image.Image],
        global_views: GlobalViews,
        local_views: LocalViews,
        local_source: Callable[[Image.Image], Image.Image] | None,
        crop_size: tuple[int, int],
        padding: tuple[int, int, int],
    ) -> None:
        self.geometry = geometry
        self.photometric = photometric
        self.global_views = global_views
        self.local_views = local_views
        self.local_source = local_source
        self.crop_size = crop_size
        self.padding = padding

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "TrainingViews":
        """Build the views that ``cfg.INPUT`` describes."""
        crop = cfg.INPUT.MULTI_CROP
        size = tuple(cfg.INPUT.CROP.SIZE)
        colors = cfg.INPUT.PHOTOMETRIC
        flip = cfg.INPUT.RANDOM_FLIP == "horizontal"
        by_model = cfg.INPUT.DATASET_MAPPER_NAME == "ToCoMapper"
        number = 0 if by_model else crop.LOCAL_VIEWS
        return cls(
            geometry=main_view_geometry(cfg.INPUT.RESCALE_RANGE, size, flip),
            photometric=photometric_chain(colors, blur_prob=1.0),
            global_views=GlobalViews(crop.GLOBAL_VIEWS - 1, size, crop.GLOBAL_SCALE, flip, colors),
            local_views=LocalViews(number, crop.LOCAL_SIZE, crop.LOCAL_SCALE, flip, colors),
            local_source=photometric_chain(colors, blur_prob=0.5) if by_model else None,
            crop_size=size,
            padding=tuple(round(value) for value in cfg.MODEL.PIXEL_MEAN),
        )

    def __call__(self, image: np.ndarray) -> dict[str, torch.Tensor]:
        """Make the views of an RGB image, uint8 [H,W,3].

        Returns:
            ``image`` uint8 [3,H,W], ``image_box`` int64 [4] = (y0, y1, x0, x1) of the image
            in it, ``global_views`` uint8 [G-1,3,H,W], ``local_views`` uint8 [L,3,S,S] and their
            ``local_boxes`` int64 [L,4] in pixels of ``image``. Where the model cuts the local
            views, L is 0 and ``local_source`` uint8 [3,H,W] is ``image`` in other colors.
        """
        aug_input = T.AugInput(image)
        self.geometry(aug_input)
        source = Image.fromarray(np.ascontiguousarray(aug_input.image))
        # Colors before padding: the padding must stay the model's zero.
        main, (y0, x0) = pad_randomly(self.photometric(source), self.crop_size, self.padding)
        local_views, local_boxes = self.local_views(source, (y0, x0))
        views = {
            "image": v2.functional.pil_to_tensor(main),
            "image_box": torch.tensor([y0, y0 + source.height, x0, x0 + source.width]),
            "global_views": self.global_views(Image.fromarray(image)),
            "local_views": local_views,
            "local_boxes": local_boxes,
        }
        if self.local_source is not None:
            # Not flipped again, as published: its crops must lie where the main view's CAM says.
            altered = pad_at(self.local_source(source), self.crop_size, (y0, x0), self.padding)
            views["local_source"] = v2.functional.pil_to_tensor(altered)
        return views


def _stack(views: Sequence[Image.Image], size: tuple[int, int]) -> torch.Tensor:
    if not views:
        return torch.zeros(0, 3, *size, dtype=torch.uint8)
    return torch.stack([v2.functional.pil_to_tensor(view) for view in views])
