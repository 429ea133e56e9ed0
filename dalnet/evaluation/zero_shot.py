# SPDX-License-Identifier: Apache-2.0
"""Open-vocabulary segmentation of whole images by windows that slide over them.

The field's figures come in two families that cannot be compared: each :class:`Preset` is one.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dalnet.data.datasets.zero_shot import class_lists
from dalnet.errors import UsageError
from dalnet.modeling.boxes import window_boxes
from dalnet.modeling.clip.prompts import IMAGENET_TEMPLATES
from dalnet.modeling.meta_arch import OpenVocabularySegmentor

_LONGEST_SIDE = 2048  # pixels, of an image that the network sees
_CLASSES_AT_A_TIME = 16  # enlarged to the image's own size together


@dataclass(frozen=True)
class Preset:
    """How images are cut, classes named and scores turned into labels.

    Attributes:
        name: of the family, with what was changed of it.
        short_side: pixels, of an image that the network sees.
        crop, stride: of the windows in pixels; an image may be one window, with a crop as large.
        background: score of the background where it is a class and no names stand for it.
        by_names: classes have several names in CLIP's 80 sentences, and the scores are
            probabilities over all names; otherwise each has one, and the scores are the system's.
        scale: factor on cosines in these probabilities.
        threshold: of a probability, below which a pixel is background where that is a class.
    """

    name: str
    short_side: int
    crop: int
    stride: int
    background: float = 0.0
    by_names: bool = False
    scale: float = 0.0
    threshold: float = 0.0


PRESETS = {
    # CoDe's, and TCL's before it (CVPR 2023).
    "tcl": Preset("tcl", short_side=448, crop=448, stride=224, background=0.4),
    # Names and windows are SCLIP's (ECCV 2024), one scale for all data sets NACLIP's (WACV 2025);
    # both see Cityscapes with 560 pixels. The README of projects/CoDe says what each does besides.
    "sclip": Preset(
        "sclip", short_side=336, crop=224, stride=112, by_names=True, scale=40.0, threshold=0.1
    ),
}
_CITYSCAPES_SIDE = {"sclip": 560}


def parse_preset(text: str, task: str = "") -> Preset:
    """Return the preset of a name, with changes, as ``tcl:short_side=96,crop=96,stride=48``.

    Args:
        text: a name, then a colon and attributes.
        task: of the data set, which has a size of its own in some presets.

    Raises:
        UsageError: an unknown preset or attribute, or no number.
    """
    name, _, changes = text.partition(":")
    if name not in PRESETS:
        hint = f"use {' or '.join(PRESETS)}"
        raise UsageError(f"there is no preset {name!r}", "preset", hint)
    preset = PRESETS[name]
    if task == "cityscapes" and name in _CITYSCAPES_SIDE:
        preset = dataclasses.replace(preset, short_side=_CITYSCAPES_SIDE[name])
    kinds = {f.name: f.type for f in dataclasses.fields(Preset) if f.type in (int, float)}
    values: dict[str, Any] = {}
    for change in filter(None, changes.split(",")):
        key, _, value = change.partition("=")
        try:
            number = kinds[key.strip()](value)
        except (KeyError, ValueError) as error:
            hint = f"write as {name}:short_side=96; there are {', '.join(kinds)}"
            raise UsageError(f"{change!r} changes nothing of it", "preset", hint) from error
        values[key.strip()] = _checked(key.strip(), number)
    preset = dataclasses.replace(preset, name=text, **values)
    if preset.stride > preset.crop:
        what = f"the stride {preset.stride} leaves gaps between windows of {preset.crop} pixels"
        raise UsageError(what, "preset", f"write as {name}:crop={preset.crop},stride={preset.crop}")
    return preset


def _checked(key: str, number: float) -> float:
    """Return a preset's number, and refuse one outside the range of its key."""
    if key in ("background", "threshold"):  # of scores and probabilities
        if not 0 <= number <= 1:
            raise UsageError(f"{key} is {number}", "preset", "give a number from 0 to 1")
    elif not (0 if key == "scale" else 1) <= number < math.inf:
        raise UsageError(f"{key} is {number}", "preset", "give a larger, finite number")
    return number


def class_names(task: str, classes: Sequence[str], preset: Preset) -> list[list[str]]:
    """Return the names of each class of a data set under a preset.

    Args:
        task: of the data set, as "voc21".
        classes: in the order of labels; "background" has no name but in a preset ``by_names``.
        preset: whose names are asked for.
    """
    if not preset.by_names:
        return [[name] for name in classes]
    others: Mapping[str, list[str]] = {}
    lists = class_lists()["sclip"]
    if task.startswith("voc"):
        others = lists["voc"]
    elif task == "coco_object":
        others = lists["coco_object"]
    # Published so; CLIP's tokenizer cuts such words otherwise than with spaces.
    joined = task in ("coco_stuff", "cityscapes", "ade20k")
    return [others.get(name, [name.replace(" ", "") if joined else name]) for name in classes]


class ZeroShotSegmenter:
    """Labels images with the classes of a data set, by one model under one preset."""

    def __init__(
        self,
        model: OpenVocabularySegmentor,
        preset: Preset,
        classes: Sequence[str],
        task: str = "",
    ) -> None:
        """
        Args:
            model: in evaluation mode.
            preset: how it is used.
            classes: in the order of labels, "background" first where it is a class.
            task: of the data set, see :func:`class_names`.

        Raises:
            UsageError: a class that the model cannot be asked for.
        """
        self.model, self.preset = model, preset
        self.has_background = classes[0] == "background"
        names = class_names(task, classes, preset)
        # The class of each of the K names, whose scores are computed.
        self._owners = torch.tensor([i for i, group in enumerate(names) for _ in group])
        if preset.by_names:
            flat = [name for group in names for name in group]
            self._texts = model.embed_texts(flat, IMAGENET_TEMPLATES).to(model.device)
        else:
            model.set_vocabulary(classes[1:] if self.has_background else classes)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the labels ``[H, W]``, uint8, of an image ``[H, W, 3]``, RGB, uint8."""
        seen = torch.from_numpy(resize_short_side(image, self.preset.short_side))
        normalized = self.model.normalize(seen.permute(2, 0, 1).to(self.model.device).float()[None])
        scores = slide(self._scores, normalized, self.preset.crop, self.preset.stride)
        height, width = image.shape[:2]
        return self._labels(scores, (height, width)).to(torch.uint8).cpu().numpy()

    def _scores(self, window: Tensor) -> Tensor:
        """Return scores ``[K, h, w]`` of a window ``[1, 3, h, w]``."""
        size = window.shape[2:]
        if self.preset.by_names:
            scores = self.model.similarities(window, self._texts)
        else:
            scores = self.model.maps("sem_seg", self.model.encode(window))
            scores = scores if self.has_background else scores[:, 1:]
        scores = F.interpolate(scores.float(), size, mode="bilinear", align_corners=False)[0]
        if self.has_background and not self.preset.by_names:
            scores[0] = self.preset.background
        return scores

    def _labels(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the labels ``[H, W]`` of scores ``[K, h, w]``, enlarged a few at a time."""
        preset = self.preset
        best = scores.new_full(size, -torch.inf)
        labels = torch.zeros(size, dtype=torch.long, device=scores.device)
        total = scores.new_full(size, -torch.inf)  # logarithm of the sum over all names
        owners = self._owners.to(scores.device)
        for start in range(0, len(scores), _CLASSES_AT_A_TIME):
            part = scores[None, start : start + _CLASSES_AT_A_TIME]
            large = F.interpolate(part, size, mode="bilinear", align_corners=False)[0]
            if preset.by_names:
                large = large * preset.scale
                total = torch.logaddexp(total, large.logsumexp(dim=0))
            value, index = large.max(dim=0)
            is_better = value > best
            best = torch.where(is_better, value, best)
            labels = torch.where(is_better, owners[start + index], labels)
        if preset.by_names and self.has_background:
            labels = labels.masked_fill((best - total).exp() < preset.threshold, 0)
        return labels


def resize_short_side(image: np.ndarray, short_side: int) -> np.ndarray:
    """Return an image ``[H, W, 3]`` at another size, as mmsegmentation resizes it.

    The ratio is kept; the short side gets ``short_side`` pixels, or fewer where the long one would
    get more than 2048; bilinear, sizes rounded half up.
    """
    height, width = image.shape[:2]
    factor = min(short_side / min(height, width), _LONGEST_SIDE / max(height, width))
    size = (max(int(width * factor + 0.5), 1), max(int(height * factor + 0.5), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def slide(scores_of: Callable[[Tensor], Tensor], images: Tensor, crop: int, stride: int) -> Tensor:
    """Return the mean of the scores of all windows over each pixel, ``[K, H, W]``.

    Args:
        scores_of: from a window ``[1, 3, h, w]`` to scores ``[K, h, w]``.
        images: ``[1, 3, H, W]``.
        crop, stride: see :func:`dalnet.modeling.boxes.window_boxes`.
    """
    height, width = images.shape[2:]
    total: Tensor | None = None
    count = images.new_zeros(height, width)
    for y1, y2, x1, x2 in window_boxes(height, width, crop, stride):
        scores = scores_of(images[:, :, y1:y2, x1:x2])
        if total is None:
            total = scores.new_zeros(len(scores), height, width)
        total[:, y1:y2, x1:x2] += scores
        count[y1:y2, x1:x2] += 1
    assert total is not None  # there is always a window
    return total / count
