# SPDX-License-Identifier: Apache-2.0
"""The classes that an image shows, out of many that it does not."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PresentClasses:
    """Few slots for the present classes of each image, so that work does not grow with C.

    Slot k of image n stands for class ``index[n, k]``; in a label map over slots it has the value
    k + 1, as class c has c + 1 in one over classes. Images with fewer classes than slots have
    slots that are not shown, for classes that they lack.

    Attributes:
        index: ``[N, K]`` long, different classes within an image; K is at least 1.
        shown: ``[N, K]``, 1 where the image shows the class and 0 where not.
    """

    index: Tensor
    shown: Tensor

    @classmethod
    def of(cls, labels: Tensor) -> "PresentClasses":
        """Find the classes of multi-hot ``labels [N, C]``.

        On a GPU this waits for the labels: ask before they are sent there, and move the result.
        """
        present = labels > 0
        most = int(present.sum(dim=1).amax()) if present.numel() else 0
        order = present.byte().argsort(dim=1, descending=True, stable=True)
        index = order[:, : max(most, 1)]
        return cls(index, labels.gather(1, index))

    def to(self, device: torch.device) -> "PresentClasses":
        """The same on another device."""
        return PresentClasses(
            self.index.to(device, non_blocking=True), self.shown.to(device, non_blocking=True)
        )

    def select(self, maps: Tensor) -> Tensor:
        """Keep of maps ``[N, C, H, W]`` over classes the slots' ``[N, K, H, W]``."""
        return maps.gather(1, self.index[:, :, None, None].expand(-1, -1, *maps.shape[-2:]))

    def spread(self, values: Tensor, num_classes: int) -> Tensor:
        """Put the slots' values ``[N, K, ...]`` in their place among ``[N, C, ...]``, 0 elsewhere.

        Slots that are not shown give 0 too.
        """
        shape = *self.index.shape, *[1] * (values.dim() - 2)
        kept = values * self.shown.to(values.dtype).view(shape)
        target = values.new_zeros(len(values), num_classes, *values.shape[2:])
        return target.scatter_(1, self.index.view(shape).expand_as(values), kept)

    def name(self, label_map: Tensor, ignore: int) -> Tensor:
        """Turn a label map ``[N, H, W]`` over slots into one over classes; ``ignore`` stays."""
        values = F.pad(self.index + 1, (1, 0))
        ignored = label_map == ignore
        slots = label_map.masked_fill(ignored, 0).flatten(1)
        return values.gather(1, slots).view_as(label_map).masked_fill(ignored, ignore)
