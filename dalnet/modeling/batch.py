# SPDX-License-Identifier: Apache-2.0
"""A training batch: the mapper's per-image dicts as stacked tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dalnet.modeling.image_classes import PresentClasses


@dataclass(frozen=True)
class TrainingBatch:
    """N training images with their image-level labels and extra views, on one device.

    Attributes:
        pixels: main views [N, 3, H, W], float32 RGB in 0..255.
        labels: image-level labels [N, C], float32, 1 where the image shows the class.
        present: the classes of ``labels``, few beside C.
        boxes: the photograph inside each padded view [N, 4], (y0, y1, x0, x1) in pixels.
        global_views: further views [N, G - 1, 3, H, W], float32 RGB in 0..255.
        local_views: small views [N, L, 3, S, S], float32 RGB in 0..255.
        local_boxes: where the small views lie in ``pixels`` [N, L, 4].
        local_source: ``pixels`` in other colours [N, 3, H, W], to cut small views from; None where
            the mapper has cut them.
    """

    pixels: Tensor
    labels: Tensor
    present: PresentClasses
    boxes: Tensor
    global_views: Tensor
    local_views: Tensor
    local_boxes: Tensor
    local_source: Tensor | None

    @classmethod
    def collate(cls, inputs: list[dict], device: torch.device) -> "TrainingBatch":
        """Stack the mapper's dicts (see ``dalnet.data.DALNetMapper``) on ``device``."""

        def stack(key: str) -> Tensor:
            stacked = torch.stack([item[key] for item in inputs])
            # From pageable memory the copy would be waited for.
            stacked = stacked.pin_memory() if device.type == "cuda" else stacked
            return stacked.to(device, non_blocking=True)

        labels = torch.stack([item["image_labels"] for item in inputs])
        return cls(
            pixels=stack("image").float(),
            labels=stack("image_labels"),
            present=PresentClasses.of(labels).to(device),
            boxes=stack("image_box"),
            global_views=stack("global_views").float(),
            local_views=stack("local_views").float(),
            local_boxes=stack("local_boxes"),
            local_source=stack("local_source").float() if "local_source" in inputs[0] else None,
        )
