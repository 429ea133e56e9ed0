# SPDX-License-Identifier: Apache-2.0
"""Make the training views of an image; ground-truth masks play no part.

They are one view, or several as DINO's (Caron et al., ICCV 2021): the main view, further large
crops of the image ("global") and small crops of the main view ("local"). Another system may bring
views of its own: any function with the arguments of :meth:`SingleView.__call__`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop, v2
from torchvision.transforms.v2.functional import pil_to_tensor, resized_crop

from dalnet.config.checks import check_rules, one_of

from .augmentation import RandomLongerSide, RandomRescale, photometric_chain

_ASPECT_RANGE = (3 / 4, 4 / 3)

Transform = Callable[[Image.Image], Image.Image]
_IGNORE = 255  # of label maps, in the padding


class Crop(NamedTuple):
    """The part of an image that a view shows.

    Attributes:
        content: the pixels, RGB.
        corner: their place (y0, x0) in the view.
        label_map: uint8 [h, w] of the same pixels, for images that have one.
    """

    content: Image.Image
    corner: tuple[int, int]
    label_map: np.ndarray | None = None


class SingleView:
    """Makes one view of an image: rescaled, flipped, cut or padded, its colors altered."""

    def __init__(self, cfg: CfgNode) -> None:
        """Make views as ``cfg.INPUT`` says, padded with ``MODEL.PIXEL_MEAN`` (RGB, 0..255)."""
        height, width = self.size = tuple(cfg.INPUT.CROP.SIZE)
        self.padding = tuple(round(value) for value in cfg.MODEL.PIXEL_MEAN)
        sides = cfg.INPUT.LONGER_SIDE_RANGE
        # Cuts an image to at most the view's size.
        self.geometry = T.AugmentationList(
            [
                RandomLongerSide(sides) if sides else RandomRescale(cfg.INPUT.RESCALE_RANGE),
                T.RandomFlip(prob=_flip_prob(cfg)),
                T.RandomCrop("absolute", (height, width)),
            ]
        )
        self.photometric = photometric_chain(cfg.INPUT.PHOTOMETRIC, blur_prob=1.0)

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None = None) -> dict[str, Tensor]:
        """Make the view of an RGB image, uint8 [H, W, 3], and of its label map if it has one.

        Returns:
            ``image`` uint8 [3, H, W] and ``image_box`` int64 [4] = (y0, y1, x0, x1), the part of
            it that is not padding; with a label map also ``label_map`` uint8 [H, W], 255 (ignored)
            in the padding.
        """
        return self.show(self.cut(image, label_map))

    def cut(self, image: np.ndarray, label_map: np.ndarray | None = None) -> Crop:
        """Return a random crop of an image, uint8 [H, W, 3] RGB, and of its label map, if any.

        The image is rescaled, flipped and cut; then the crop's place in the view is drawn.
        """
        aug_input = T.AugInput(image, sem_seg=label_map)
        self.geometry(aug_input)
        content = Image.fromarray(np.ascontiguousarray(aug_input.image))
        top = np.random.randint(self.size[0] - content.height + 1)
        left = np.random.randint(self.size[1] - content.width + 1)
        return Crop(content, (top, left), aug_input.sem_seg)

    def show(self, crop: Crop) -> dict[str, Tensor]:
        """Return the view of a crop, see :meth:`__call__`."""
        (y0, x0), (width, height) = crop.corner, crop.content.size
        box = torch.tensor([y0, y0 + height, x0, x0 + width])
        view = {"image": self.render(crop, self.photometric), "image_box": box}
        if crop.label_map is not None:
            label_map = torch.full(self.size, _IGNORE, dtype=torch.uint8)
            label_map[y0 : y0 + height, x0 : x0 + width] = torch.from_numpy(crop.label_map.copy())
            view["label_map"] = label_map
        return view

    def render(self, crop: Crop, photometric: Transform) -> Tensor:
        """Return a crop with altered colors and padding, uint8 [3, H, W]."""
        view = Image.new("RGB", self.size[::-1], self.padding)
        top, left = crop.corner
        # Colors are altered before padding, because the padding has to stay the model's mean
        # color, which normalization turns into zero.
        view.paste(photometric(crop.content), (left, top))
        return pil_to_tensor(view)


class GlobalViews:
    """Makes random resized crops of the whole image, each flipped and altered by itself."""

    def __init__(self, cfg: CfgNode) -> None:
        """Make the views beside the main one that ``cfg.INPUT`` describes.

        Raises:
            UsageError: ``INPUT.MULTI_CROP.GLOBAL_VIEWS`` is neither 1 nor 2.
        """
        check_rules(cfg, (one_of((1, 2), "INPUT.MULTI_CROP.GLOBAL_VIEWS"),))
        self.number = cfg.INPUT.MULTI_CROP.GLOBAL_VIEWS - 1
        height, width = self.size = tuple(cfg.INPUT.CROP.SIZE)
        crop = v2.RandomResizedCrop(
            self.size,
            scale=tuple(cfg.INPUT.MULTI_CROP.GLOBAL_SCALE),
            # Relative to the view's own aspect ratio, so that objects are stretched as in DINO.
            ratio=tuple(width / height * ratio for ratio in _ASPECT_RANGE),
            interpolation=InterpolationMode.BICUBIC,
        )
        chain = photometric_chain(cfg.INPUT.PHOTOMETRIC, blur_prob=0.1, solarize_prob=0.2)
        self.transform = v2.Compose([crop, v2.RandomHorizontalFlip(_flip_prob(cfg)), chain])

    def __call__(self, image: np.ndarray) -> Tensor:
        """Cut the views from an RGB image, uint8 [H, W, 3]: uint8 [number, 3, H, W]."""
        source = Image.fromarray(image)
        views = torch.empty(self.number, 3, *self.size, dtype=torch.uint8)
        for view in views:
            view.copy_(pil_to_tensor(self.transform(source)))
        return views


class LocalViews:
    """Makes small crops of the main view, with their boxes.

    They are cut before the main view's colors are altered. Their boxes are places in the main view,
    also of flipped ones, so that a label map of the main view tells what a local view shows.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Make the views that ``cfg.INPUT.MULTI_CROP`` describes."""
        self.number, side = cfg.INPUT.MULTI_CROP.LOCAL_VIEWS, cfg.INPUT.MULTI_CROP.LOCAL_SIZE
        self.size = [side, side]
        # Area of a local view as a fraction of the main view without its padding.
        self.scale = list(cfg.INPUT.MULTI_CROP.LOCAL_SCALE)
        flip = v2.RandomHorizontalFlip(_flip_prob(cfg))
        self.transform = v2.Compose([flip, photometric_chain(cfg.INPUT.PHOTOMETRIC, blur_prob=0.5)])

    def __call__(self, crop: Crop) -> tuple[Tensor, Tensor]:
        """Cut the views from what the main view shows.

        Returns:
            Views, uint8 [L, 3, S, S], and their boxes (y0, y1, x0, x1) in pixels of the padded
            main view, int64 [L, 4].
        """
        content, (y0, x0) = crop.content, crop.corner
        views = torch.empty(self.number, 3, *self.size, dtype=torch.uint8)
        boxes = torch.empty(self.number, 4, dtype=torch.int64)
        for view, box in zip(views, boxes, strict=True):
            top, left, height, width = RandomResizedCrop.get_params(
                content, self.scale, list(_ASPECT_RANGE)
            )
            part = resized_crop(
                content, top, left, height, width, self.size, InterpolationMode.BICUBIC
            )
            view.copy_(pil_to_tensor(self.transform(part)))
            box.copy_(torch.tensor([y0 + top, y0 + top + height, x0 + left, x0 + left + width]))
        return views, boxes


class MultiCropViews:
    """Makes DALNet's views of an image: the main view, further global ones and local ones."""

    def __init__(self, cfg: CfgNode) -> None:
        """Make the views that ``cfg.INPUT`` describes."""
        self.main_view, self.global_views = SingleView(cfg), GlobalViews(cfg)
        self.local_views = LocalViews(cfg)

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None = None) -> dict[str, Tensor]:
        """Make the views of an RGB image, uint8 [H, W, 3], and of its label map if it has one.

        Returns:
            ``image``, ``image_box`` and ``label_map`` as of :class:`SingleView`,
            ``global_views`` uint8 [G - 1, 3, H, W], ``local_views`` uint8 [L, 3, S, S] and their
            ``local_boxes`` int64 [L, 4] = (y0, y1, x0, x1) in pixels of ``image``.
        """
        crop = self.main_view.cut(image, label_map)
        views = self.main_view.show(crop)
        views["local_views"], views["local_boxes"] = self.local_views(crop)
        views["global_views"] = self.global_views(image)
        return views


def _flip_prob(cfg: CfgNode) -> float:
    return 0.5 if cfg.INPUT.RANDOM_FLIP == "horizontal" else 0.0
