# SPDX-License-Identifier: Apache-2.0
"""Turn records of a data set into a system's inputs; ``INPUT.DATASET_MAPPER_NAME`` chooses how."""

from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.utils.registry import Registry
from torch import Tensor

from dalnet.config.checks import check_rules, one_of
from dalnet.errors import UsageError

from .augmentation import get_resize
from .datasets.tagged import CORRECTED_MASK
from .image_io import read_image, read_mask
from .labels import has_labels
from .views import MultiCropViews, SingleView

# Makes training views of an image, uint8 [H, W, 3], and of its label map, uint8 [H, W], if any.
Views = Callable[..., dict[str, Tensor]]
# Makes a system's inputs of a record.
Mapper = Callable[[dict[str, Any]], dict[str, Any]]

# An entry is called with (cfg, is_train) and returns a Mapper.
DATASET_MAPPER_REGISTRY = Registry("DATASET_MAPPER")

_PASSED_ON = ("file_name", "image_id")
_MASK_KEYS = ("sem_seg_file_name", "mask_classes")
INPUT_RULES = (
    one_of(("RGB",), "INPUT.FORMAT"),
    one_of(("absolute",), "INPUT.CROP.TYPE"),
    one_of(("choice", "range"), "INPUT.MIN_SIZE_TRAIN_SAMPLING"),
    one_of(("horizontal", "none"), "INPUT.RANDOM_FLIP"),
)


def build_mapper(cfg: CfgNode, is_train: bool) -> Mapper:
    """Build the mapper that ``INPUT.DATASET_MAPPER_NAME`` names.

    Raises:
        UsageError: no mapper of this name is registered, or its keys are unusable.
    """
    known = sorted(name for name, _ in DATASET_MAPPER_REGISTRY)
    check_rules(cfg, (one_of(known, "INPUT.DATASET_MAPPER_NAME"),))
    return DATASET_MAPPER_REGISTRY.get(cfg.INPUT.DATASET_MAPPER_NAME)(cfg, is_train)


class ImageLabelMapper(metaclass=ABCMeta):
    """Reads an image and its image-level labels; no ground-truth mask is ever opened.

    In training the image, resized as ``INPUT.MIN_SIZE_TRAIN`` says, becomes the views of
    :meth:`build_views`; at test time, resized as ``MIN_SIZE_TEST`` says, ``image`` uint8 [3, h, w].
    Both come with ``image_labels`` float32 [C] (1 where the image shows the class, else 0) and
    ``known_labels`` bool [C] (whether that is known), which are left out at test time where the
    record has no labels; ``height`` and ``width`` of the upright image, ``file_name``,
    ``image_id`` and, at test time, ``sem_seg_file_name`` and ``mask_classes`` if there are any.

    A system registers a subclass with a :meth:`build_views` of its own.

    Raises:
        UsageError: on call, where the image is missing, unreadable or too narrow.
    """

    def __init__(self, cfg: CfgNode, is_train: bool) -> None:
        """Read ``INPUT`` and the number of classes of ``cfg``."""
        check_rules(cfg, INPUT_RULES)
        self.num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES - 1  # without the background
        self.views = self.build_views(cfg) if is_train else None
        self.resize = build_resize(cfg, is_train)

    @classmethod
    @abstractmethod
    def build_views(cls, cfg: CfgNode) -> Views:
        """Return a function that makes the views of a training image, uint8 [H, W, 3] RGB."""

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs for one record of a data set, which itself stays as it is."""
        image = read_image(record["file_name"])
        try:
            # Drawn once for an image and its mask: the size may be one of several.
            resize = T.NoOpTransform() if self.resize is None else get_resize(image, self.resize)
        except UsageError as error:
            raise UsageError(error.what, record["file_name"], error.hint) from error
        resized = resize.apply_image(image)
        inputs = {key: record[key] for key in _PASSED_ON if key in record}
        inputs["height"], inputs["width"] = image.shape[:2]
        # At test time, zeros would say that an image of which nothing is known shows no class.
        if has_labels(record) or self.views is not None:
            inputs["image_labels"] = torch.zeros(self.num_classes)
            inputs["image_labels"][record["image_labels"]] = 1.0
            inputs["known_labels"] = torch.ones(self.num_classes, dtype=torch.bool)
            inputs["known_labels"][record.get("unknown_labels", [])] = False
        if self.views is not None:
            return {**inputs, **self.views(resized, *self.read_label_map(record, image, resize))}
        # Only evaluation may know where the masks are.
        inputs |= {key: record[key] for key in _MASK_KEYS if key in record}
        inputs["image"] = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        return inputs

    def read_label_map(
        self, record: dict[str, Any], image: np.ndarray, resize: T.Transform
    ) -> list[np.ndarray]:
        """Return a list of the mask that a person has corrected, resized as the image; else empty.

        It is the only mask that training opens, and only where the user names such masks. A system
        that learns from label maps of its own returns those.

        Args:
            record: of the data set.
            image: uint8 ``[H, W, 3]``, before it is resized.
            resize: what the image is resized by.
        """
        if CORRECTED_MASK not in record:
            return []
        mask = read_mask(record[CORRECTED_MASK], image.shape[:2], self.num_classes + 1)
        return [resize.apply_segmentation(mask)]


@DATASET_MAPPER_REGISTRY.register()
class MultiCropMapper(ImageLabelMapper):
    """DALNet's mapper: a training image becomes a main view, global and local views."""

    build_views = MultiCropViews


@DATASET_MAPPER_REGISTRY.register()
class SingleViewMapper(ImageLabelMapper):
    """A training image becomes one view of ``INPUT.CROP.SIZE``."""

    build_views = SingleView


def build_resize(cfg: CfgNode, is_train: bool) -> T.Augmentation | None:
    """Build the resizing of whole images; None where training images keep their size.

    Raises:
        UsageError: the sampling "range" without exactly two sizes.
    """
    if not is_train:
        return T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    sizes = tuple(cfg.INPUT.MIN_SIZE_TRAIN)
    # For the size 0 alone, Detectron2's augmentation would change nothing but the random state.
    if not any(sizes):
        return None
    sampling = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    if sampling == "range" and (len(sizes) != 2 or sizes[0] > sizes[1]):
        raise UsageError(
            f"it is {sizes}, but INPUT.MIN_SIZE_TRAIN_SAMPLING is 'range'",
            where="INPUT.MIN_SIZE_TRAIN",
            hint="give two, the smallest and the largest size",
        )
    return T.ResizeShortestEdge(sizes, cfg.INPUT.MAX_SIZE_TRAIN, sampling)
