# SPDX-License-Identifier: Apache-2.0
"""ToCo's views of a training image (Ru et al., CVPR 2023): the model cuts the local ones."""

from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from .augmentation import photometric_chain
from .mapper import DATASET_MAPPER_REGISTRY, ImageLabelMapper
from .views import GlobalViews, Photometric, SingleView


@dataclass(frozen=True)
class ToCoViews:
    """The main view, further global ones, and the main view again in other colors.

    Attributes:
        main_view: of the image.
        global_views: of the image, beside the main one.
        local_photometric: alters the colors of the copy that the model cuts local views from.
        local_size: side of a local view in pixels.
    """

    main_view: SingleView
    global_views: GlobalViews
    local_photometric: Photometric
    local_size: int

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "ToCoViews":
        """Build the views that ``cfg.INPUT`` describes."""
        return cls(
            SingleView.from_config(cfg),
            GlobalViews.from_config(cfg),
            photometric_chain(cfg.INPUT.PHOTOMETRIC, blur_prob=0.5),
            cfg.INPUT.MULTI_CROP.LOCAL_SIZE,
        )

    def __call__(self, image: np.ndarray) -> dict[str, Tensor]:
        """Make the views of an RGB image, uint8 [H, W, 3].

        Returns:
            ``image``, ``image_box``, ``global_views`` as of
            :class:`~dalnet.data.views.MultiCropViews`; ``local_source`` uint8 [3, H, W], which is
            ``image`` in other colors; no ``local_views``.
        """
        crop = self.main_view.cut(image)
        side = self.local_size
        return {
            **self.main_view.show(crop),
            "global_views": self.global_views(image),
            # Not flipped again, as published: its crops must lie where the main view's CAM says.
            "local_source": self.main_view.render(crop, self.local_photometric),
            "local_views": torch.zeros(0, 3, side, side, dtype=torch.uint8),
            "local_boxes": torch.zeros(0, 4, dtype=torch.int64),
        }


@DATASET_MAPPER_REGISTRY.register()
class ToCoMapper(ImageLabelMapper):
    """ToCo's mapper: a training image becomes the views of :class:`ToCoViews`."""

    @classmethod
    def build_views(cls, cfg: CfgNode) -> ToCoViews:
        """Build the views that ``cfg.INPUT`` and ``cfg.INPUT.MULTI_CROP`` describe."""
        return ToCoViews.from_config(cfg)
