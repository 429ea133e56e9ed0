# SPDX-License-Identifier: Apache-2.0
"""Compute a model's results on one image, for evaluation, prediction, figures and reports alike."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dalnet.layers import dense_crf
from dalnet.modeling.image_classes import ImageClasses
from dalnet.modeling.multi_scale import Features, MultiScaleFlip
from dalnet.modeling.resize import resize


class ImageInference:
    """Score maps and label maps of one image at a size of choice.

    Each is computed when first asked for and kept, and all share the encoder's passes. Ask for
    what uses the flip before what does not: both copies are then encoded as one batch.

    Attributes:
        images: ``[1, 3, h, w]``, RGB in 0..255, as the network sees the image.
        size: (H, W) of the results.
        image_classes: the P classes, 0..C-1, that CAMs and pseudo labels are made of.
    """

    def __init__(
        self,
        passes: MultiScaleFlip,
        pseudo_labels: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
        images: Tensor,
        size: tuple[int, int],
        image_classes: Sequence[int] = (),
    ) -> None:
        """
        Args:
            passes: of the normalized ``images`` through a model in evaluation mode.
            pseudo_labels: the model's method of this name.
            images, size, image_classes: see above.
        """
        self.images = images
        self.size = size
        self.image_classes = tuple(image_classes)
        self._passes = passes
        self._pseudo_labels = pseudo_labels
        self._kept: dict[tuple, Tensor] = {}

    def features(self) -> Features:
        """Return the encoder's features of the plain image at scale 1."""
        return self._passes.features()

    def probabilities(self, scales: Sequence[float], flip: bool, source: str = "sem_seg") -> Tensor:
        """Return class probabilities ``[C + 1, H, W]`` of a source of this kind."""
        key = source, tuple(scales), flip
        if key not in self._kept:
            self._kept[key] = self._passes.probabilities(source, self.size, scales, flip)[0]
        return self._kept[key]

    def cams(
        self,
        source: str,
        scales: Sequence[float],
        flip: bool,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Return CAMs ``[P, H, W]`` in 0..1 of the image's classes.

        Args:
            source, scales, flip: which, and of which passes.
            size: (H, W), to which the raw maps are resized directly; where not given, that of the
                results.
        """
        if size is not None and self.image_classes:
            return self._passes.cams(source, scales, flip, self._local(), size)[0]
        return resize(self._cams_as_seen(source, tuple(scales), flip), size or self.size)[0]

    def pseudo_label(self, scales: Sequence[float], flip: bool) -> Tensor:
        """Return the label map ``[H, W]``, long, that the image's CAMs are refined to.

        Class c has the value c + 1, background 0; unsure pixels have the ignore value. An image
        that shows no class is all background.
        """
        key = "pseudo_label", tuple(scales), flip
        if key not in self._kept:
            self._kept[key] = self._refine(self._cams_as_seen("cam", tuple(scales), flip))
        return self._kept[key]

    def refine_by_crf(self, probabilities: Tensor, **parameters: Any) -> Tensor:
        """Refine probabilities ``[K, H, W]`` over any K labels by the dense CRF on the image.

        Args:
            probabilities: see above.
            parameters: keyword arguments of :func:`dalnet.layers.dense_crf`.
        """
        return dense_crf(self.crf_images(), probabilities[None], **parameters)[0]

    def crf_images(self) -> Tensor:
        """Return the image as the dense CRF takes it: uint8 ``[1, H, W, 3]``, RGB."""
        images = resize(self.images, self.size).round().clamp(0, 255).to(torch.uint8)
        return images.permute(0, 2, 3, 1).contiguous()

    def _local(self) -> ImageClasses:
        return ImageClasses.of_one_image(self.image_classes, self.images.device)

    def _cams_as_seen(self, source: str, scales: tuple[float, ...], flip: bool) -> Tensor:
        """Return CAMs ``[1, P, h, w]`` at the size that the network sees."""
        if not self.image_classes:
            return self.images.new_zeros(1, 0, *self.images.shape[-2:])
        key = source, scales, flip
        if key not in self._kept:
            self._kept[key] = self._passes.cams(source, scales, flip, self._local())
        return self._kept[key]

    def _refine(self, cams: Tensor) -> Tensor:
        if not self.image_classes:
            return torch.zeros(self.size, dtype=torch.long, device=cams.device)
        height, width = self.images.shape[-2:]
        boxes = torch.tensor([[0, height, 0, width]], device=cams.device)
        local = self._local()
        label_map = self._pseudo_labels(self.images, cams, local.valid, boxes)  # [1, h, w]
        label_map = local.to_class_labels(label_map, self._passes.settings.ignore_value)
        # Interpolation takes floats; double holds every label exactly.
        return F.interpolate(label_map[:, None].double(), size=self.size)[0, 0].long()
