# SPDX-License-Identifier: Apache-2.0
"""Training images with the label maps that ``python -m clims.refine`` has written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from torch import Tensor

from dalnet.data import DATASET_MAPPER_REGISTRY
from dalnet.data.image_io import read_mask
from dalnet.data.mapper import SingleViewMapper
from dalnet.errors import UsageError
from dalnet.evaluation.dump import image_name
from dalnet.modeling.batch import ImageBatch


@dataclass(frozen=True)
class LabelMapBatch(ImageBatch):
    """N training images with label maps.

    Attributes:
        label_maps: ``[N, h, w]``, of the views, 255 for unsure pixels and padding.
    """

    label_maps: Tensor


@DATASET_MAPPER_REGISTRY.register()
class LabelMapMapper(SingleViewMapper):
    """A training image becomes a view with its label map, which no person has drawn.

    Attributes:
        section: the node of ``MODEL.CLIMS`` whose ``LABELS`` names the folder.
        step: pixels of the view for one pixel of the label map.
    """

    section: ClassVar[str] = "SEGMENTATION"
    step: ClassVar[int] = 1

    def __init__(self, cfg: CfgNode, is_train: bool) -> None:
        """
        Raises:
            UsageError: there is no folder of labels, or an image has none in it.
        """
        super().__init__(cfg, is_train)
        self.labels = Path(cfg.MODEL.CLIMS[self.section].LABELS) / "SegmentationClass"
        self.ignore = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        if is_train and not self.labels.is_dir():
            raise UsageError(
                f"there is no folder {self.labels}",
                where=f"MODEL.CLIMS.{self.section}.LABELS",
                hint="name what python -m clims.refine has written",
            )
        if is_train:
            self._require_all(cfg.DATASETS.TRAIN)

    def _require_all(self, splits: Sequence[str]) -> None:
        records = [record for split in splits for record in DatasetCatalog.get(split)]
        paths = (self._path(record) for record in records)
        # Else the training would take the next image for each, and say so only in the log.
        if missing := [path for path in paths if not path.is_file()]:
            raise UsageError(
                f"{len(missing)} of {len(records)} training images have no label map in it, as "
                f"{missing[0].stem}",
                where=self.labels,
                hint="let python -m clims.refine end, with the split that DATASETS.TRAIN names",
            )

    def _path(self, record: dict[str, Any]) -> Path:
        return self.labels / f"{image_name(record)}.png"

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs for one record of a data set."""
        inputs = super().__call__(record)
        if self.views is not None:
            # The pixels in the middle of the places, as Pillow's nearest neighbor takes them.
            middle = slice(self.step // 2, None, self.step)
            inputs["label_maps"] = inputs.pop("label_map")[middle, middle].clone()
        return inputs

    def read_label_map(
        self, record: dict[str, Any], image: np.ndarray, resize: T.Transform
    ) -> list[np.ndarray]:
        """Return a list of the image's label map, resized as the image."""
        label_map = read_mask(
            str(self._path(record)), image.shape[:2], self.num_classes + 1, self.ignore
        )
        return [resize.apply_segmentation(label_map)]
