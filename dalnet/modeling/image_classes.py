# SPDX-License-Identifier: Apache-2.0
"""Number the few classes that each image shows, out of the many that the model knows."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def classes_of_labels(image_labels: Tensor | None) -> tuple[int, ...]:
    """Return the classes, 0..C-1, in multi-hot ``image_labels [C]``; an empty tuple for None."""
    return () if image_labels is None else tuple(image_labels.nonzero().flatten().tolist())


@dataclass(frozen=True)
class ImageClasses:
    """Holds the classes of each image by a local index, so that the work does not grow with C.

    C is the number of the model's classes, K the largest number of classes in an image of the
    batch. Local index k of image n stands for class ``index[n, k]``. In a label map of local
    indices it has the value k + 1, as class c has c + 1 in a label map of classes. The rows of
    images with fewer than K classes are filled with classes that they do not show, not valid ones.

    Attributes:
        index: ``[N, K]`` long, different classes within an image; K is at least 1.
        valid: ``[N, K]``, 1 where the image shows the class and 0 where not.
    """

    index: Tensor
    valid: Tensor

    @classmethod
    def from_labels(cls, image_labels: Tensor) -> "ImageClasses":
        """Return the classes of multi-hot ``image_labels [N, C]``.

        K depends on the values, so on a GPU the program would have to wait for them: call this
        while the labels are still on the CPU, and move the result.
        """
        shown = image_labels > 0
        most = int(shown.sum(dim=1).amax()) if shown.numel() else 0
        order = shown.byte().argsort(dim=1, descending=True, stable=True)
        index = order[:, : max(most, 1)]
        return cls(index, image_labels.gather(1, index))

    @classmethod
    def of_one_image(cls, classes: tuple[int, ...], device: torch.device) -> "ImageClasses":
        """Return the classes, at least one, of a single image in the order given."""
        index = torch.tensor([classes], device=device)
        return cls(index, torch.ones_like(index, dtype=torch.float32))

    def to(self, device: torch.device) -> "ImageClasses":
        """Return the same on another device."""
        return ImageClasses(
            self.index.to(device, non_blocking=True), self.valid.to(device, non_blocking=True)
        )

    def gather(self, maps: Tensor) -> Tensor:
        """Return the maps of each image's own classes, ``[N, K, H, W]`` of ``[N, C, H, W]``."""
        return maps.gather(1, self.index[:, :, None, None].expand(-1, -1, *maps.shape[-2:]))

    def scatter(self, values: Tensor, num_classes: int) -> Tensor:
        """Return values ``[N, K, ...]`` by class, as ``[N, C, ...]``, with 0 for other classes."""
        shape = *self.index.shape, *[1] * (values.dim() - 2)
        kept = values * self.valid.to(values.dtype).view(shape)
        target = values.new_zeros(len(values), num_classes, *values.shape[2:])
        return target.scatter_(1, self.index.view(shape).expand_as(values), kept)

    def to_class_labels(self, label_map: Tensor, ignore: int) -> Tensor:
        """Return a label map ``[N, H, W]`` of local indices as one of classes.

        Background stays 0 and ``ignore`` stays as it is.
        """
        values = F.pad(self.index + 1, (1, 0))
        ignored = label_map == ignore
        local = label_map.masked_fill(ignored, 0).flatten(1)
        return values.gather(1, local).view_as(label_map).masked_fill(ignored, ignore)
