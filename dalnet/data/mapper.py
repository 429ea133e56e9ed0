# SPDX-License-Identifier: Apache-2.0
"""From a data set dict to what the model reads."""

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T

from dalnet.errors import UsageError

from .augmentation import resize_image
from .image_io import read_image
from .views import TrainingViews

_PASSED_ON = ("file_name", "image_id", "sem_seg_file_name")


class DALNetMapper:
    """Read an image and make what the model takes.

    The image is resized as ``INPUT.MIN_SIZE_TRAIN`` and ``MAX_SIZE_TRAIN``, at test time
    ``MIN_SIZE_TEST`` and ``MAX_SIZE_TEST``, say. In training it becomes the views of
    :class:`TrainingViews`, else ``image`` uint8 [3,h,w]. Both with ``image_labels`` float32 [C]
    (multi-hot; left out at test time where the image has no label), ``height`` and ``width`` of
    the image, ``file_name``, ``image_id`` and, at test time, ``sem_seg_file_name`` if there
    is one. Masks are never opened.

    Raises:
        UsageError: on call, where the image is missing, unreadable or too narrow.
    """

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        training_views: TrainingViews | None,
        resize: T.Augmentation | None,
    ) -> None:
        """Make training views or images for evaluation.

        Args:
            num_classes: C, foreground classes only.
            training_views: makes the views of a training image; None for evaluation.
            resize: resizes the image first; None keeps its size.
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
        image = read_image(dataset_dict["file_name"])
        # Training must not even know where the masks are.
        keys = _PASSED_ON if self.training_views is None else _PASSED_ON[:2]
        try:
            seen = image if self.resize is None else resize_image(image, self.resize)
        except UsageError as error:
            raise UsageError(f"image {dataset_dict['file_name']}: {error}") from error
        return {
            **{key: dataset_dict[key] for key in keys if key in dataset_dict},
            "height": image.shape[0],
            "width": image.shape[1],
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

    def _pixels(self, image: np.ndarray) -> dict[str, torch.Tensor]:
        if self.training_views is not None:
            return self.training_views(image)
        return {"image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))}


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
