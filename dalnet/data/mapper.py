# SPDX-License-Identifier: Apache-2.0
"""From a data set dict to what the model reads."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from PIL import Image
from torchvision.transforms import v2

from dalnet.data.augmentation import (
    main_view_geometry,
    pad_at,
    pad_randomly,
    photometric_chain,
    resize_photo,
)
from dalnet.data.images import read_photo
from dalnet.data.multi_crop import GlobalViews, LocalViews
from dalnet.errors import UsageError

_PASSED_ON = ("file_name", "image_id", "sem_seg_file_name")


class TrainingViews:
    """All views of one photograph: main, global and local ones. Masks play no part.

    Args:
        geometry: rescales, mirrors and cuts the photograph to at most ``crop_size``.
        photometric: alters the main view's colours.
        global_views: cuts the further global views.
        local_views: cuts the local views.
        local_source: alters the colours of the main view's copy that the model cuts local views
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
        colours = cfg.INPUT.PHOTOMETRIC
        flip = cfg.INPUT.RANDOM_FLIP == "horizontal"
        by_model = cfg.INPUT.DATASET_MAPPER_NAME == "ToCoMapper"
        number = 0 if by_model else crop.LOCAL_VIEWS
        return cls(
            geometry=main_view_geometry(cfg.INPUT.RESCALE_RANGE, size, flip),
            photometric=photometric_chain(colours, blur_prob=1.0),
            global_views=GlobalViews(crop.GLOBAL_VIEWS - 1, size, crop.GLOBAL_SCALE, flip, colours),
            local_views=LocalViews(number, crop.LOCAL_SIZE, crop.LOCAL_SCALE, flip, colours),
            local_source=photometric_chain(colours, blur_prob=0.5) if by_model else None,
            crop_size=size,
            padding=tuple(round(value) for value in cfg.MODEL.PIXEL_MEAN),
        )

    def __call__(self, photo: np.ndarray) -> dict[str, torch.Tensor]:
        """Make the views of an RGB photograph, uint8 [H,W,3].

        Returns:
            ``image`` uint8 [3,H,W], ``image_box`` int64 [4] = (y0, y1, x0, x1) of the photograph
            in it, ``global_views`` uint8 [G-1,3,H,W], ``local_views`` uint8 [L,3,S,S] and their
            ``local_boxes`` int64 [L,4] in pixels of ``image``. Where the model cuts the local
            views, L is 0 and ``local_source`` uint8 [3,H,W] is ``image`` in other colours.
        """
        aug_input = T.AugInput(photo)
        self.geometry(aug_input)
        source = Image.fromarray(np.ascontiguousarray(aug_input.image))
        # Colours before padding: the padding must stay the model's zero.
        main, (y0, x0) = pad_randomly(self.photometric(source), self.crop_size, self.padding)
        local_views, local_boxes = self.local_views(source, (y0, x0))
        views = {
            "image": v2.functional.pil_to_tensor(main),
            "image_box": torch.tensor([y0, y0 + source.height, x0, x0 + source.width]),
            "global_views": self.global_views(Image.fromarray(photo)),
            "local_views": local_views,
            "local_boxes": local_boxes,
        }
        if self.local_source is not None:
            # Not mirrored again, as published: its crops must lie where the main view's CAM says.
            altered = pad_at(self.local_source(source), self.crop_size, (y0, x0), self.padding)
            views["local_source"] = v2.functional.pil_to_tensor(altered)
        return views


class DALNetMapper:
    """Read a photograph and make what the model takes.

    The photograph is resized as ``INPUT.MIN_SIZE_TRAIN`` and ``MAX_SIZE_TRAIN``, at test time
    ``MIN_SIZE_TEST`` and ``MAX_SIZE_TEST``, say. In training it becomes the views of
    :class:`TrainingViews`, else ``image`` uint8 [3,h,w]. Both with ``image_labels`` float32 [C]
    (multi-hot; left out at test time where the image has no label), ``height`` and ``width`` of
    the photograph, ``file_name``, ``image_id`` and, at test time, ``sem_seg_file_name`` if there
    is one. Masks are never opened.

    Raises:
        UsageError: on call, where the photograph is missing, unreadable or too narrow.
    """

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        training_views: TrainingViews | None,
        resize: T.Augmentation | None,
    ) -> None:
        """Make training views or pictures for evaluation.

        Args:
            num_classes: C, foreground classes only.
            training_views: makes the views of a training photograph; None for evaluation.
            resize: resizes the photograph first; None keeps its size.
        """
        self.num_classes = num_classes
        self.training_views = training_views
        self.resize = resize

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool) -> dict[str, Any]:
        """Read the arguments of ``__init__`` from a config."""
        _check_input(cfg)
        return {
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES - 1,
            "training_views": TrainingViews.from_config(cfg) if is_train else None,
            "resize": _training_resize(cfg) if is_train else _test_resize(cfg),
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one dict of the data set; the dict itself stays as it is."""
        photo = read_photo(dataset_dict["file_name"])
        # Training must not even know where the masks are.
        keys = _PASSED_ON if self.training_views is None else _PASSED_ON[:2]
        try:
            seen = photo if self.resize is None else resize_photo(photo, self.resize)
        except UsageError as error:
            raise UsageError(f"image {dataset_dict['file_name']}: {error}") from error
        return {
            **{key: dataset_dict[key] for key in keys if key in dataset_dict},
            "height": photo.shape[0],
            "width": photo.shape[1],
            **self._labels(dataset_dict["image_labels"]),
            **self._pixels(seen),
        }

    def _labels(self, shown: list[int]) -> dict[str, torch.Tensor]:
        # No known label is not the label "background only", which the zero vector would say.
        if not shown and self.training_views is None:
            return {}
        labels = torch.zeros(self.num_classes)
        labels[shown] = 1.0
        return {"image_labels": labels}

    def _pixels(self, photo: np.ndarray) -> dict[str, torch.Tensor]:
        if self.training_views is not None:
            return self.training_views(photo)
        return {"image": torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1)))}


def _training_resize(cfg: CfgNode) -> T.Augmentation | None:
    sizes = tuple(cfg.INPUT.MIN_SIZE_TRAIN)
    # Detectron2's would draw a random number for nothing where there is only the size 0.
    if not any(sizes):
        return None
    sampling = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    if sampling == "range" and len(sizes) != 2:
        raise UsageError(
            f"INPUT.MIN_SIZE_TRAIN is {sizes}, but MIN_SIZE_TRAIN_SAMPLING 'range' needs the "
            "smallest and the largest size: give two."
        )
    return T.ResizeShortestEdge(sizes, cfg.INPUT.MAX_SIZE_TRAIN, sampling)


def _test_resize(cfg: CfgNode) -> T.Augmentation:
    return T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)


def _check_input(cfg: CfgNode) -> None:
    fixed = {
        "INPUT.FORMAT": (cfg.INPUT.FORMAT, ("RGB",)),
        "INPUT.CROP.TYPE": (cfg.INPUT.CROP.TYPE, ("absolute",)),
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": (cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING, ("choice", "range")),
        "INPUT.RANDOM_FLIP": (cfg.INPUT.RANDOM_FLIP, ("horizontal", "none")),
        "INPUT.MULTI_CROP.GLOBAL_VIEWS": (cfg.INPUT.MULTI_CROP.GLOBAL_VIEWS, (1, 2)),
    }
    for key, (value, allowed) in fixed.items():
        if value not in allowed:
            choices = " or ".join(repr(choice) for choice in allowed)
            raise UsageError(f"{key} is {value!r}: set it to {choices}.")
