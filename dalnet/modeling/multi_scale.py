# SPDX-License-Identifier: Apache-2.0
"""From a trained network to scores of the photograph's size: scales, mirror image, dense CRF."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from dalnet.layers import dense_crf
from dalnet.modeling.cam import fuse_raw_cams, resize_by
from dalnet.modeling.image_classes import PresentClasses

Tokens = dict[str, Tensor]

# On a CPU so many pixels go through the encoder at a time: for a ViT-B, the largest buffers of a
# block then stay below the 32 MiB from which malloc maps (and the kernel clears) fresh memory.
_CPU_PIXELS = 700**2


@dataclass
class Passes:
    """Images through the encoder at several scales, plain and mirrored, each at most once.

    Nothing runs before it is asked for. Several results (head, CAMs, with or without scales and
    mirror image) may be read from one object: they share the encoder's passes.

    Attributes:
        encode: the backbone, from images [N, 3, h, w] to its dict of tokens.
        maps: by name, what turns that dict into maps [N, K, h', w'].
        images: normalised images [N, 3, H, W].
    """

    encode: Callable[[Tensor], Tokens]
    maps: Mapping[str, Callable[[Tokens], Tensor]]
    images: Tensor
    _tokens: dict[tuple[float, bool], Tokens] = field(default_factory=dict)
    _views: dict[tuple[str, float, bool], Tensor] = field(default_factory=dict)

    def take_over(self, tokens: Tokens) -> None:
        """Use tokens of the plain images at scale 1 that exist already, without their gradient."""
        self._tokens[1.0, False] = {key: value.detach() for key, value in tokens.items()}

    def views(self, name: str, scale: float, flip: bool) -> list[Tensor]:
        """Maps [N, K, h', w'] of the image and, with ``flip``, of its mirror image, turned back.

        Asked with ``flip`` first, both go through the encoder as one batch.
        """
        self._encode_missing(scale, flip)
        found = []
        for mirrored in (False, True)[: 1 + flip]:
            key = name, scale, mirrored
            if key not in self._views:
                result = self.maps[name](self._tokens[scale, mirrored])
                self._views[key] = result.flip(-1) if mirrored else result
            found.append(self._views[key])
        return found

    def _encode_missing(self, scale: float, flip: bool) -> None:
        missing = [m for m in (False, True)[: 1 + flip] if (scale, m) not in self._tokens]
        if not missing:
            return
        scaled = resize_by(self.images, scale)
        tokens = self._encode(torch.cat([scaled.flip(-1) if m else scaled for m in missing]))
        for index, mirrored in enumerate(missing):
            self._tokens[scale, mirrored] = {
                key: value.chunk(len(missing))[index] for key, value in tokens.items()
            }

    def _encode(self, images: Tensor) -> Tokens:
        at_a_time = max(1, _CPU_PIXELS // images[0, 0].numel())
        if images.is_cuda or len(images) <= at_a_time:
            return self.encode(images)
        parts = [self.encode(part) for part in images.split(at_a_time)]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def probabilities(
        self, name: str, size: tuple[int, int], scales: Sequence[float], flip: bool
    ) -> Tensor:
        """Class probabilities of the logits ``name``, averaged over scales and mirror image.

        Logits of all passes are enlarged to ``size`` and averaged before the softmax. The paper
        says only that scales and mirror image are used (Sec. 4.1).

        Args:
            name: key of ``maps``.
            size: (height, width) of the result.
            scales: factors on H and W.
            flip: also use the mirror image of every scale.

        Returns:
            [N, K, *size], float32, that add up to 1 over K.
        """
        total = None
        for scale in scales:
            for logits in self.views(name, scale, flip):
                large = _resize(logits, size)
                total = large if total is None else total + large
        return (total / (len(scales) * (1 + flip))).softmax(dim=1)

    def cams(
        self,
        name: str,
        scales: Sequence[float],
        flip: bool,
        present: PresentClasses | None = None,
    ) -> Tensor:
        """CAMs of the raw maps ``name``, as ``multi_scale_cam`` fuses them.

        Args:
            name: key of ``maps``.
            scales: factors on H and W.
            flip: also use the mirror image of every scale.
            present: the K classes of each image that are wanted; all C where not given.

        Returns:
            [N, K, H, W], float32, in 0..1.
        """
        per_scale = [self.views(name, scale, flip) for scale in scales]
        if present is not None:
            # Before they are enlarged: most of the many classes are not shown.
            per_scale = [[present.select(raw) for raw in views] for views in per_scale]
        return fuse_raw_cams(per_scale, tuple(self.images.shape[-2:]))


@dataclass
class PresentCAMs:
    """Multi-scale CAMs of the present classes, computed when first read, without gradient.

    Attributes:
        passes: with the raw maps "cam" and "cam_inter".
        present: the K classes of each image.
        scales: factors on H and W; every scale is seen mirrored too.
    """

    passes: Passes
    present: PresentClasses
    scales: Sequence[float]

    @cached_property
    @torch.no_grad()
    def last(self) -> Tensor:
        """CAMs of the last block [N, K, H, W] in 0..1."""
        return self.passes.cams("cam", self.scales, True, self.present)

    @cached_property
    @torch.no_grad()
    def intermediate(self) -> Tensor:
        """CAMs of the intermediate block [N, K, H, W] in 0..1."""
        return self.passes.cams("cam_inter", self.scales, True, self.present)


def crf_photographs(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Photographs [N, 3, h, w], RGB in 0..255, as the CRF takes them: uint8 [N, *size, 3]."""
    photographs = _resize(pixels, size).round().clamp(0, 255).to(torch.uint8)
    return photographs.permute(0, 2, 3, 1).contiguous()


def crf_probabilities(pixels: Tensor, probs: Tensor, **parameters: float) -> Tensor:
    """Refine probabilities [N, K, H, W] by a dense CRF on photographs ``pixels`` of any size.

    Args:
        pixels: [N, 3, h, w], RGB in 0..255; resized to H x W.
        probs: [N, K, H, W].
        parameters: the keyword arguments of :func:`dalnet.layers.dense_crf`.

    Returns:
        [N, K, H, W], probabilities.
    """
    return dense_crf(crf_photographs(pixels, tuple(probs.shape[-2:])), probs, **parameters)


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps.float()
    return F.interpolate(maps.float(), size=tuple(size), mode="bilinear", align_corners=False)
