# SPDX-License-Identifier: Apache-2.0
"""The training views of an image. Masks play no part.

One view, or DINO's several (Caron et al., ICCV 2021): a main view, whole-image ("global") and small
("local") crops. Another system's views are a class with ``from_config`` and ``__call__`` as here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop, v2

from dalnet.config.checks import check_rules, one_of

from .augmentation import RandomRescale, photometric_chain

_ASPECT_RANGE = (3 / 4, 4 / 3)
_FLIP_PROB = 0.5

Transform = Callable[[Image.Image], Image.Image]


class Crop(NamedTuple):
    """The part of an image that a view shows: the pixels (RGB) and their corner (y0, x0) in it."""

    content: Image.Image
    corner: tuple[int, int]


@dataclass(frozen=True)
class SingleView:
    """One view an image: rescaled, flipped, cut or padded to one size, its colors altered.

    Attributes:
        geometry: rescales, flips and cuts an image to at most ``size``.
        photometric: alters the colors of what is cut out.
        size: (height, width) of the view in pixels.
        padding: RGB value around an image that does not fill the view, 0..255.
    """

    geometry: T.Augmentation
    photometric: Transform
    size: tuple[int, int]
    padding: tuple[int, int, int]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "SingleView":
        """Build the view that ``cfg.INPUT`` describes."""
        size = tuple(cfg.INPUT.CROP.SIZE)
        rescale, flip = RandomRescale(cfg.INPUT.RESCALE_RANGE), T.RandomFlip(prob=_flip_prob(cfg))
        return cls(
            geometry=T.AugmentationList([rescale, flip, T.RandomCrop("absolute", size)]),
            photometric=photometric_chain(cfg.INPUT.PHOTOMETRIC, blur_prob=1.0),
            size=size,
            padding=tuple(round(value) for value in cfg.MODEL.PIXEL_MEAN),
        )

    def __call__(self, image: np.ndarray) -> dict[str, Tensor]:
        """Make the view of an RGB image, uint8 [H, W, 3].

        Returns:
            ``image`` uint8 [3, H, W] and ``image_box`` int64 [4] = (y0, y1, x0, x1) of what is no
            padding in it.
        """
        return self.show(self.cut(image))

    def cut(self, image: np.ndarray) -> Crop:
        """Rescale, flip and cut an RGB image, uint8 [H, W, 3], and draw its place in the view."""
        aug_input = T.AugInput(image)
        self.geometry(aug_input)
        content = Image.fromarray(np.ascontiguousarray(aug_input.image))
        top = np.random.randint(self.size[0] - content.height + 1)
        left = np.random.randint(self.size[1] - content.width + 1)
        return Crop(content, (top, left))

    def show(self, crop: Crop) -> dict[str, Tensor]:
        """Make the view of a crop, see :meth:`__call__`."""
        (y0, x0), (width, height) = crop.corner, crop.content.size
        box = torch.tensor([y0, y0 + height, x0, x0 + width])
        return {"image": self.render(crop, self.photometric), "image_box": box}

    def render(self, crop: Crop, photometric: Transform) -> Tensor:
        """Alter a crop's colors and pad it: uint8 [3, H, W]."""
        view = Image.new("RGB", self.size[::-1], self.padding)
        top, left = crop.corner
        # Colors before padding: the padding must stay the model's zero.
        view.paste(photometric(crop.content), (left, top))
        return v2.functional.pil_to_tensor(view)


@dataclass(frozen=True)
class GlobalViews:
    """Random resized crops of the whole image, flipped and altered independently.

    Attributes:
        number: how many, 0 or more.
        size: (height, width) of a view in pixels.
        transform: makes a view of the image.
    """

    number: int
    size: tuple[int, int]
    transform: Transform

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "GlobalViews":
        """Build the views beside the main one that ``cfg.INPUT`` describes.

        Raises:
            UsageError: ``INPUT.MULTI_CROP.GLOBAL_VIEWS`` is neither 1 nor 2.
        """
        check_rules(cfg, (one_of((1, 2), "INPUT.MULTI_CROP.GLOBAL_VIEWS"),))
        size = tuple(cfg.INPUT.CROP.SIZE)
        crop = v2.RandomResizedCrop(
            size,
            scale=tuple(cfg.INPUT.MULTI_CROP.GLOBAL_SCALE),
            ratio=tuple(size[1] / size[0] * ratio for ratio in _ASPECT_RANGE),
            interpolation=InterpolationMode.BICUBIC,
        )
        chain = photometric_chain(cfg.INPUT.PHOTOMETRIC, blur_prob=0.1, solarize_prob=0.2)
        transform = v2.Compose([crop, v2.RandomHorizontalFlip(_flip_prob(cfg)), chain])
        return cls(cfg.INPUT.MULTI_CROP.GLOBAL_VIEWS - 1, size, transform)

    def __call__(self, image: np.ndarray) -> Tensor:
        """Cut the views from an RGB image, uint8 [H, W, 3]: uint8 [number, 3, H, W]."""
        source = Image.fromarray(image)
        views = torch.empty(self.number, 3, *self.size, dtype=torch.uint8)
        for view in views:
            view.copy_(v2.functional.pil_to_tensor(self.transform(source)))
        return views


@dataclass(frozen=True)
class LocalViews:
    """Small crops of the main view with their boxes.

    They are cut before the main view's colors are altered and stay aligned with it (a flipped
    local view shows the flipped content of its box), so that a label map of the main view
    tells what a local view shows.

    Attributes:
        number: how many, 0 or more.
        size: (height, width) of a view in pixels.
        scale: range of a crop's area relative to what the main view shows of the image.
        transform: flips a crop and alters its colors.
    """

    number: int
    size: tuple[int, int]
    scale: tuple[float, float]
    transform: Transform

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "LocalViews":
        """Build the views that ``cfg.INPUT.MULTI_CROP`` describes."""
        crop = cfg.INPUT.MULTI_CROP
        flip = v2.RandomHorizontalFlip(_flip_prob(cfg))
        transform = v2.Compose([flip, photometric_chain(cfg.INPUT.PHOTOMETRIC, blur_prob=0.5)])
        return cls(crop.LOCAL_VIEWS, (crop.LOCAL_SIZE,) * 2, tuple(crop.LOCAL_SCALE), transform)

    def __call__(self, crop: Crop) -> tuple[Tensor, Tensor]:
        """Cut the views from what the main view shows.

        Returns:
            Views, uint8 [L, 3, S, S], and their boxes (y0, y1, x0, x1) in pixels of the padded
            main view, int64 [L, 4].
        """
        views = torch.empty(self.number, 3, *self.size, dtype=torch.uint8)
        boxes = torch.empty(self.number, 4, dtype=torch.int64)
        for view, box in zip(views, boxes, strict=True):
            top, left, height, width = RandomResizedCrop.get_params(
                crop.content, list(self.scale), list(_ASPECT_RANGE)
            )
            part = v2.functional.resized_crop(
                crop.content, top, left, height, width, list(self.size), InterpolationMode.BICUBIC
            )
            view.copy_(v2.functional.pil_to_tensor(self.transform(part)))
            y0, x0 = crop.corner[0] + top, crop.corner[1] + left
            box.copy_(torch.tensor([y0, y0 + height, x0, x0 + width]))
        return views, boxes


@dataclass(frozen=True)
class MultiCropViews:
    """DALNet's views of an image: the main view, further global ones and local ones."""

    main_view: SingleView
    global_views: GlobalViews
    local_views: LocalViews

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "MultiCropViews":
        """Build the views that ``cfg.INPUT`` describes."""
        return cls(*(part.from_config(cfg) for part in (SingleView, GlobalViews, LocalViews)))

    def __call__(self, image: np.ndarray) -> dict[str, Tensor]:
        """Make the views of an RGB image, uint8 [H, W, 3].

        Returns:
            ``image`` and ``image_box`` as of :class:`SingleView`, ``global_views`` uint8
            [G - 1, 3, H, W], ``local_views`` uint8 [L, 3, S, S] and their ``local_boxes`` int64
            [L, 4] = (y0, y1, x0, x1) in pixels of ``image``.
        """
        crop = self.main_view.cut(image)
        views = self.main_view.show(crop)
        views["local_views"], views["local_boxes"] = self.local_views(crop)
        views["global_views"] = self.global_views(image)
        return views


def _flip_prob(cfg: CfgNode) -> float:
    return _FLIP_PROB if cfg.INPUT.RANDOM_FLIP == "horizontal" else 0.0
