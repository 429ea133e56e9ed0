# SPDX-License-Identifier: Apache-2.0
"""ToCo's views of a training image (Ru et al., CVPR 2023): the model cuts the local ones."""

import numpy as np
from detectron2.config import CfgNode
from torch import Tensor

from dalnet.data import DATASET_MAPPER_REGISTRY, ImageLabelMapper
from dalnet.data.augmentation import photometric_chain
from dalnet.data.views import GlobalViews, SingleView


class ToCoViews:
    """The main view, further global ones, and the main view again in other colors."""

    def __init__(self, cfg: CfgNode) -> None:
        """Make the views that ``cfg.INPUT`` and ``cfg.INPUT.MULTI_CROP`` describe."""
        self.main_view, self.global_views = SingleView(cfg), GlobalViews(cfg)
        # Alters the colors of the copy that the model cuts local views from.
        self.local_photometric = photometric_chain(cfg.INPUT.PHOTOMETRIC, blur_prob=0.5)

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None = None) -> dict[str, Tensor]:
        """Make the views of an RGB image, uint8 [H, W, 3], and of its label map if it has one.

        Returns:
            ``image``, ``image_box``, ``label_map``, ``global_views`` as of
            :class:`~dalnet.data.views.MultiCropViews`; ``local_source`` uint8 [3, H, W], which is
            ``image`` in other colors.
        """
        crop = self.main_view.cut(image, label_map)
        return {
            **self.main_view.show(crop),
            "global_views": self.global_views(image),
            # Not flipped again, as published: its crops must lie where the main view's CAM says.
            "local_source": self.main_view.render(crop, self.local_photometric),
        }


@DATASET_MAPPER_REGISTRY.register()
class ToCoMapper(ImageLabelMapper):
    """ToCo's mapper: a training image becomes the views of :class:`ToCoViews`."""

    build_views = ToCoViews
