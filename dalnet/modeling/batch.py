# SPDX-License-Identifier: Apache-2.0
"""A training batch: the mapper's per-image dicts as stacked tensors."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from dalnet.errors import UsageError
from dalnet.modeling.image_classes import ImageClasses

# What a mapper calls the fields that have another name here.
_MAPPER_KEYS = {"images": "image", "boxes": "image_box"}


@dataclass(frozen=True)
class ImageBatch:
    """N training images on one device.

    A system that needs more of its mapper adds fields, named as the mapper's keys.

    Attributes:
        images: main views ``[N, 3, H, W]``, float32 RGB in 0..255.
    """

    images: Tensor

    @classmethod
    def collate(cls, inputs: list[dict], device: torch.device) -> Self:
        """Stack the mapper's dicts on ``device``; 8-bit images become float32.

        The dicts' tensors are copied one by one, because the loader has pinned them, so that no
        copy is waited for; their stack would not be pinned.

        Raises:
            UsageError: the mapper does not give what the system needs.
        """
        values = cls.derive(inputs, device)
        for name in [field.name for field in dataclasses.fields(cls) if field.name not in values]:
            key = _MAPPER_KEYS.get(name, name)
            if key not in inputs[0]:
                raise UsageError(
                    f"this mapper gives no {key!r}, which the system needs",
                    where="INPUT.DATASET_MAPPER_NAME",
                    hint="set it to the one in the system's recipes",
                )
            stacked = torch.stack([record[key].to(device, non_blocking=True) for record in inputs])
            values[name] = stacked.float() if stacked.dtype == torch.uint8 else stacked
        return cls(**values)

    @classmethod
    def derive(cls, inputs: list[dict], device: torch.device) -> dict[str, Any]:
        """Return the fields that are not simply stacked, by name."""
        return {}


@dataclass(frozen=True)
class TrainingBatch(ImageBatch):
    """N training images with their image-level labels.

    Attributes:
        image_labels: multi-hot ``[N, C]``, float32, 1 where the image shows the class.
        known_labels: boolean ``[N, C]``, false where it is unknown whether the image shows the
            class; ``image_labels`` is 0 there. All true where the mapper gives none.
        corrected: label maps ``[N, H, W]``, int16, of the images whose mask a person has corrected,
            -1 in the others; None where the batch has no corrected image.
        image_classes: the classes of ``image_labels``, few beside C.
        boxes: the image inside each padded view ``[N, 4]``, (y0, y1, x0, x1) in pixels.
    """

    image_labels: Tensor
    known_labels: Tensor
    corrected: Tensor | None
    image_classes: ImageClasses
    boxes: Tensor

    @classmethod
    def derive(cls, inputs: list[dict], device: torch.device) -> dict[str, Any]:
        """Return ``image_classes``, and ``known_labels`` where the mapper gives none."""
        labels = torch.stack([record["image_labels"] for record in inputs])
        values: dict[str, Any] = {"image_classes": ImageClasses.from_labels(labels).to(device)}
        if "known_labels" not in inputs[0]:
            values["known_labels"] = torch.ones_like(labels, dtype=torch.bool).to(device)
        values["corrected"] = None
        if any("label_map" in record for record in inputs):
            without = torch.full(inputs[0]["image"].shape[-2:], -1, dtype=torch.int16)
            maps = [record.get("label_map", without).to(torch.int16) for record in inputs]
            values["corrected"] = torch.stack(maps).to(device)
        return values

    @property
    def shows_class(self) -> Tensor:
        """``[N]``, 1 where the image shows a class and 0 where not, or where that is unknown."""
        return self.image_labels.amax(dim=1)

    def ignore_unclear(self, label_map: Tensor, ignore: int) -> Tensor:
        """Return ``label_map [N, H, W]`` with ``ignore`` in images that may show anything.

        These show no class as far as is known, but not all is known. Without a class, CAMs say
        "all background", which is right only where it is known that none is shown.
        """
        unclear = (self.shows_class == 0) & ~self.known_labels.all(dim=1)
        return label_map.masked_fill(unclear[:, None, None], ignore)


@dataclass(frozen=True)
class MultiCropBatch(TrainingBatch):
    """A batch with further views of each image.

    Attributes:
        global_views: ``[N, G - 1, 3, H, W]``, float32 RGB in 0..255.
        local_views: small views ``[N, L, 3, S, S]``, float32 RGB in 0..255.
        local_boxes: where the small views lie in ``images`` ``[N, L, 4]``.
    """

    global_views: Tensor
    local_views: Tensor
    local_boxes: Tensor
