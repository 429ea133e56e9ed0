# SPDX-License-Identifier: Apache-2.0
"""Run images through the encoder at several scales, plain and flipped, and join the results."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from dalnet.modeling.cam import fuse_raw_cams
from dalnet.modeling.image_classes import ImageClasses
from dalnet.modeling.resize import resize, resize_by

Features = dict[str, Tensor]

# Pixels that go through the encoder at a time on a CPU. With a ViT-B, the largest buffers of a
# block then stay below 32 MiB, from which on malloc asks the kernel for fresh, cleared memory.
_CPU_PIXELS = 700**2


@dataclass(frozen=True)
class CAMSettings:
    """Says how raw maps become CAMs, and CAMs become label maps.

    Attributes:
        scales: factors of the image's sides for the CAMs that pseudo labels are made from.
        flip: "max" or "sum", how an image's maps are joined with those of its flipped copy;
            "none" does without the copy.
        normalize: "min_max" or "max", see :func:`dalnet.modeling.cam.fuse_raw_cams`.
        low, high: thresholds of pseudo labels; between them a pixel is ignored.
        background: score of the background where a CAM is measured or shown as a label map.
        ignore_value: label of ignored pixels.
    """

    scales: tuple[float, ...] = (1.0, 0.5, 1.5)
    flip: str = "max"
    normalize: str = "min_max"
    low: float = 0.25
    high: float = 0.7
    background: float = 0.5
    ignore_value: int = 255

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "CAMSettings":
        """Read ``MODEL.CAM``."""
        cam = cfg.MODEL.CAM
        return cls(
            scales=tuple(cam.SCALES),
            flip=cam.FLIP,
            normalize=cam.NORMALIZE,
            low=cam.LOW_THRESHOLD,
            high=cam.HIGH_THRESHOLD,
            background=cam.BACKGROUND_THRESHOLD,
            ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        )

    @property
    def with_flip(self) -> bool:
        """Whether the flipped copy is used for pseudo labels."""
        return self.flip != "none"

    @property
    def label_thresholds(self) -> dict[str, Any]:
        """The keyword arguments ``low``, ``high`` and ``ignore`` of the label maps' functions."""
        return {"low": self.low, "high": self.high, "ignore": self.ignore_value}


class MultiScaleFlip:
    """Runs images through the encoder at several scales, plain and flipped, and keeps the results.

    A pass is made when it is first needed, and at most once. Several results (segmentation, CAMs,
    with or without scales and flip) may be asked of one object: they share the passes.

    Attributes:
        settings: how CAMs are fused.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], Features],
        maps: Callable[[str, Features], Tensor],
        images: Tensor,
        settings: CAMSettings | None = None,
        stride: int = 1,
    ) -> None:
        """
        Args:
            encode: takes normalized images ``[N, 3, h, w]`` and returns features.
            maps: takes the name of a source and features and returns raw maps ``[N, K, h', w']``.
            images: normalized, ``[N, 3, H, W]``.
            settings: how CAMs are fused.
            stride: of the maps, see :func:`dalnet.modeling.cam.fuse_raw_cams`.
        """
        self._stride = stride
        self._encode = encode
        self._maps = maps
        self._images = images
        self.settings = settings or CAMSettings()
        self._features: dict[tuple[float, bool], Features] = {}
        self._views: dict[tuple[str, float, bool], Tensor] = {}

    def reuse(self, features: Features) -> None:
        """Keep features of the plain images at scale 1 that exist already, without gradient."""
        self._features[1.0, False] = {key: value.detach() for key, value in features.items()}

    def of_image(self, index: int) -> "MultiScaleFlip":
        """Return the passes of one of the N images; those that were made are not made again."""
        own = slice(index, index + 1)
        one = MultiScaleFlip(
            self._encode, self._maps, self._images[own], self.settings, self._stride
        )
        for key, features in self._features.items():
            one._features[key] = {name: value[own] for name, value in features.items()}
        one._views = {key: maps[own] for key, maps in self._views.items()}
        return one

    def features(self) -> Features:
        """Return the features of the plain images at scale 1."""
        self._encode_missing(1.0, flip=False)
        return self._features[1.0, False]

    def views(self, source: str, scale: float, flip: bool) -> list[Tensor]:
        """Return maps ``[N, K, h', w']`` of the images and, with ``flip``, of their flipped copies.

        Maps of flipped copies are flipped back. If neither copy has been encoded yet, both are
        encoded as one batch.
        """
        self._encode_missing(scale, flip)
        found = []
        for flipped in (False, True) if flip else (False,):
            key = source, scale, flipped
            if key not in self._views:
                result = self._maps(source, self._features[scale, flipped])
                self._views[key] = result.flip(-1) if flipped else result
            found.append(self._views[key])
        return found

    def _encode_missing(self, scale: float, flip: bool) -> None:
        wanted = (False, True) if flip else (False,)
        missing = [flipped for flipped in wanted if (scale, flipped) not in self._features]
        if not missing:
            return
        scaled = resize_by(self._images, scale)
        features = self._encode_in_parts(
            torch.cat([scaled.flip(-1) if flipped else scaled for flipped in missing])
        )
        for index, flipped in enumerate(missing):
            self._features[scale, flipped] = {
                key: value.chunk(len(missing))[index] for key, value in features.items()
            }

    def _encode_in_parts(self, images: Tensor) -> Features:
        at_a_time = max(1, _CPU_PIXELS // images[0, 0].numel())
        if images.is_cuda or len(images) <= at_a_time:
            return self._encode(images)
        parts = [self._encode(part) for part in images.split(at_a_time)]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def probabilities(
        self, source: str, size: tuple[int, int], scales: Sequence[float], flip: bool
    ) -> Tensor:
        """Return class probabilities of the logits of ``source``, averaged over scales and flip.

        Logits of all passes are enlarged to ``size`` and averaged before the softmax. The paper
        says only that scales and flip are used (Sec. 4.1).

        Args:
            source: whose maps are logits.
            size: (height, width) of the result.
            scales: factors on H and W.
            flip: also use the flipped copy at every scale.

        Returns:
            ``[N, K, *size]``, float32, that add up to 1 over K.
        """
        views = (view for scale in scales for view in self.views(source, scale, flip))
        total = functools.reduce(torch.add, (resize(view.float(), size) for view in views))
        return (total / (len(scales) * (1 + flip))).softmax(dim=1)

    def cams(
        self,
        source: str,
        scales: Sequence[float],
        flip: bool,
        image_classes: ImageClasses | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Return CAMs of the raw maps of ``source``, fused as the settings say.

        Args:
            source: whose maps are raw CAMs.
            scales: factors on H and W.
            flip: also use the flipped copy at every scale.
            image_classes: the K classes of each image that are wanted; all C where not given.
            size: (H, W) of the result, to which the maps are resized directly; where not given,
                that of the images.

        Returns:
            ``[N, K, H, W]``, float32, in 0..1.
        """
        per_scale = [self.views(source, scale, flip) for scale in scales]
        if image_classes is not None:
            # Before the maps are enlarged, because those of all C classes would need much memory.
            per_scale = [[image_classes.gather(raw) for raw in views] for views in per_scale]
        fusion = self.settings.flip, self.settings.normalize
        if size is not None:
            return fuse_raw_cams(per_scale, size, *fusion)
        return fuse_raw_cams(per_scale, self._images.shape[-2:], *fusion, self._stride)
