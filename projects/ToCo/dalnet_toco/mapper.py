# SPDX-License-Identifier: Apache-2.0
"""ToCo's views of a training image (Ru et al., CVPR 2023): the model cuts the local ones."""

from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode
from torch import Tensor

from dalnet.data import DATASET_MAPPER_REGISTRY, ImageLabelMapper
from dalnet.data.augmentation import photometric_chain
from dalnet.data.views import GlobalViews, SingleView, Transform


@dataclass(frozen=True)
class ToCoViews:
    """The main view, further global ones, and the main view again in other colors.

    Attributes:
        main_view: of the image.
        global_views: of the image, beside the main one.
        local_photometric: alters the colors of the copy that the model cuts local views from.
    """

    main_view: SingleView
    global_views: GlobalViews
    local_photometric: Transform

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "ToCoViews":
        """Build the views that ``cfg.INPUT`` describes."""
        return cls(
            SingleView.from_config(cfg),
            GlobalViews.from_config(cfg),
            photometric_chain(cfg.INPUT.PHOTOMETRIC, blur_prob=0.5),
        )

    def __call__(self, image: np.ndarray) -> dict[str, Tensor]:
        """Make the views of an RGB image, uint8 [H, W, 3].

        Returns:
            ``image``, ``image_box``, ``global_views`` as of
            :class:`~dalnet.data.views.MultiCropViews`; ``local_source`` uint8 [3, H, W], which is
            ``image`` in other colors.
        """
        crop = self.main_view.cut(image)
        return {
            **self.main_view.show(crop),
            "global_views": self.global_views(image),
            # Not flipped again, as published: its crops must lie where the main view's CAM says.
            "local_source": self.main_view.render(crop, self.local_photometric),
        }


@DATASET_MAPPER_REGISTRY.register()
class ToCoMapper(ImageLabelMapper):
    """ToCo's mapper: a training image becomes the views of :class:`ToCoViews`."""

    @classmethod
    def build_views(cls, cfg: CfgNode) -> ToCoViews:
        """Build the views that ``cfg.INPUT`` and ``cfg.INPUT.MULTI_CROP`` describe."""
        return ToCoViews.from_config(cfg)
